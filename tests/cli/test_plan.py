"""`uncrate plan`: what would be done; every problem at once, and exit code 1 where there is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def broken(golden: str, tmp_path: Path) -> Path:
    """The golden checkpoint with a tensor gone, one of the wrong shape, one of integers, and one too many."""
    folder = tmp_path / "broken"
    shutil.copytree(golden, folder)
    tensors = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        tensors.update(load_file(shard))
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    del tensors["transformer.encoder.final_layernorm.weight"]
    tensors["transformer.output_layer.weight"] = tensors["transformer.output_layer.weight"][:-1].clone()
    tensors["transformer.vision.boi"] = tensors["transformer.vision.boi"].to(torch.int8)
    tensors["surplus.weight"] = torch.zeros(2)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_sheet(cli, golden):
    done = cli("plan", golden)
    assert done.code == 0 and done.err == ""
    for text in ("native", "ChatGLMForConditionalGeneration", "1.1 MB float32 on cpu", "none of the checkpoint's"):
        assert text in done.out


def test_document(cli, golden):
    done = cli("plan", golden, "--json")
    document = done.document
    assert {
        "schema", "family", "route", "class", "dtype", "device", "parameters", "bytes", "left_out", "problems", "code",
    } <= set(document)  # fmt: skip
    assert (document["schema"], document["route"], document["dtype"]) == (1, "native", "float32")
    assert document["problems"] == [] and document["code"]["will_run"] == []


def test_every_problem_is_shown_and_the_exit_code_is_1(cli, broken):
    done = cli("plan", str(broken))
    assert done.code == 1
    for fault in (
        "missing: transformer.encoder.final_layernorm.weight",
        "wrong shape: transformer.output_layer.weight",
        "wrong dtype: transformer.vision.boi is stored as I8",
        "unexpected: surplus.weight",
    ):
        assert fault in done.out
    document = cli("plan", str(broken), "--json")
    assert document.code == 1 and len(document.document["problems"]) == 4


def test_chat_refuses_with_the_same_problems_before_anything_is_loaded(cli, broken):
    done = cli("chat", str(broken), "-p", "hello")
    assert done.code == 1 and done.out == ""
    assert done.err.count("\n  - ") == 4 and "uncrate plan" in done.err
    error = cli("chat", str(broken), "-p", "hello", "--json").document["error"]
    assert error["type"] == "PlanError" and len(error["faults"]) == 4


def test_what_is_allowed_is_no_problem(cli, broken):
    patterns = ("--allow-missing", "*final_layernorm*", "--allow-unexpected", "surplus.*", "--allow-unexpected", "x")
    problems = cli("plan", str(broken), *patterns, "--json").document["problems"]
    assert len(problems) == 2 and all(problem.startswith("wrong") for problem in problems)


def test_an_index_that_points_outside_the_folder(cli, golden, tmp_path):
    folder = tmp_path / "outside"
    shutil.copytree(golden, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../../etc/passwd"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for command in ("inspect", "plan"):
        done = cli(command, str(folder))
        assert done.code == 1 and done.out == "" and "../../etc/passwd" in done.err


def test_options_reach_the_plan(cli, golden):
    document = cli(
        "plan", golden, "--dtype", "bfloat16", "--device", "cpu", "--task", "classification", "--json"
    ).document
    assert (document["dtype"], document["device"], document["task"]) == ("bfloat16", "cpu", "classification")
    done = cli("plan", golden, "--device", "cuda:77")
    assert done.code == 2 and "cuda:77" in done.err and "cpu" in done.err


def test_no_config_says_what_to_do(cli, golden, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(Path(golden) / "tokenizer.model", folder)
    done = cli("plan", str(folder))
    assert done.code == 1 and "config.json" in done.err and "uncrate inspect" in done.err
