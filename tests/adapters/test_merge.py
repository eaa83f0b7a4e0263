"""Merging: the sum of base and adapter, tensor by tensor, proven before the folder has its name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from loras import IDS, KINDS, PREFIX, lora_tensors, modules_named, train_with_peft, write_lora
from tiny import GOLDEN, TEXT, golden_tensors, random_tensors, write_checkpoint

import uncrate
from uncrate import Options
from uncrate.cli.main import main
from uncrate.errors import CheckpointError, PlanError, UsageError
from uncrate.export import merging
from uncrate.export.merging import merge
from uncrate.families.chatglm import expected_tensors, read_config


def logits(where, options=None):
    with torch.inference_mode():
        return uncrate.open(str(where), options or Options()).model(IDS).logits


def parameters(folder):
    return dict(uncrate.open(str(folder)).model.named_parameters())


def test_the_sum_and_nothing_else(tmp_path):
    lora = lora_tensors(modules_named("query_key_value"))
    done = merge(str(write_lora(tmp_path / "lora", lora)), tmp_path / "out")
    wanted = golden_tensors()
    for key, a in lora.items():
        if key.endswith("lora_A.weight"):
            name = key.removeprefix(PREFIX).replace("lora_A.weight", "weight")
            wanted[name] = wanted[name] + (lora[key.replace("lora_A", "lora_B")] @ a) * 2.0
    got = parameters(tmp_path / "out")
    assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert done.written.changed == 5 and done.written.tensors == 63
    assert (tmp_path / "out" / "config.json").read_bytes() == (GOLDEN / "config.json").read_bytes()
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    manifest = uncrate.inspect(str(tmp_path / "out"))
    assert "transformer.rotary_pos_emb.inv_freq" in manifest.weights.tensors and manifest.adapter is None


def test_the_proof_and_its_figure(tmp_path):
    lora = write_lora(tmp_path / "lora")
    done = merge(str(lora), tmp_path / "out", shard_size="300KB")
    assert done.proof is not None and done.proof.difference < 1e-4 < done.proof.effect and done.proof.dtype == "float32"
    assert done.proof.same_choice == 1.0 and "tolerance 0.0001" in done.proof.describe()
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == 4
    torch.testing.assert_close(logits(tmp_path / "out"), logits(lora), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes(tmp_path, dtype):
    lora = write_lora(tmp_path / "lora")
    done = merge(str(lora), tmp_path / "out", dtype=dtype)
    assert done.proof.dtype == dtype and done.proof.difference <= merging.TOLERANCES[dtype] < 1
    again = uncrate.open(str(tmp_path / "out"))
    assert again.plan.dtype == dtype and again.plan.mapped
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


def test_the_sum_is_made_in_float32_and_rounded_once(tmp_path):
    config = read_config(TEXT)
    shapes = expected_tensors(config, "causal")
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(TEXT).items()}
    base = write_checkpoint(tmp_path / "base", TEXT, tensors)
    modules = modules_named("query_key_value", shapes=shapes)
    lora = lora_tensors(modules, shapes=shapes)
    merge(str(write_lora(tmp_path / "lora", lora, base=str(base))), tmp_path / "out")
    got = parameters(tmp_path / "out")
    for module in modules:
        a, b = (lora[f"{PREFIX}{module}.lora_{part}.weight"] for part in ("A", "B"))
        wanted = (tensors[f"{module}.weight"].float() + b @ a * 2.0).bfloat16()
        assert torch.equal(got[f"{module}.weight"], wanted)


def test_every_kind_that_is_applied_is_merged(tmp_path):
    for kind in ("dora", "lora_bias", "head", "embedding", "ranks"):
        text, _ = train_with_peft(tmp_path / kind, **KINDS[kind])
        done = merge(str(tmp_path / kind), tmp_path / f"{kind}-out", base=str(GOLDEN))
        assert done.proof.difference < 1e-4, kind
        torch.testing.assert_close(logits(tmp_path / f"{kind}-out"), text, atol=1e-4, rtol=0)


def test_chains_and_more_adapters(tmp_path):
    inner = write_lora(tmp_path / "inner")
    outer = write_lora(
        tmp_path / "outer", lora_tensors(modules_named("dense"), seed=3), base=str(inner), target_modules=["dense"]
    )
    more = write_lora(tmp_path / "more", lora_tensors(modules_named("query_key_value"), seed=4))
    done = merge(str(outer), tmp_path / "out", adapters=(str(more),))
    assert done.proof.difference < 1e-4 and done.written.changed == 10
    wanted = logits(outer, Options(adapters=(str(more),)))
    torch.testing.assert_close(logits(tmp_path / "out"), wanted, atol=1e-4, rtol=0)


def test_a_merge_that_does_not_hold_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(merging.TOLERANCES, "float32", 0.0)
    with pytest.raises(CheckpointError, match="does not answer as base and adapter do"):
        merge(str(write_lora(tmp_path / "lora")), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_mistakes(tmp_path):
    with pytest.raises(UsageError, match="is no adapter"):
        merge(str(GOLDEN), tmp_path / "out")
    with pytest.raises(PlanError, match="rank 5 implies"):
        merge(str(write_lora(tmp_path / "bad", r=5)), tmp_path / "out")
    lora = write_lora(tmp_path / "lora")
    for place in (lora, lora / "inside", GOLDEN, GOLDEN.parent):
        with pytest.raises(UsageError, match="the checkpoint that is read"):
            merge(str(lora), place, force=True)
    with pytest.raises(UsageError, match="not a size"):
        merge(str(lora), tmp_path / "out", shard_size="huge")
    assert not (tmp_path / "out").exists()


def test_a_bias_that_the_base_has_no_place_for(tmp_path):
    module = "transformer.encoder.layers.0.mlp.dense_4h_to_h"
    tensors = lora_tensors([module]) | {f"{PREFIX}{module}.lora_B.bias": torch.ones(64)}
    lora = write_lora(tmp_path / "lora", tensors, lora_bias=True, target_modules=["layers.0.mlp.dense_4h_to_h"])
    assert uncrate.open(str(lora)).adapters.active == ("lora",)
    with pytest.raises(UsageError, match=r"stores no .*dense_4h_to_h\.bias"):
        merge(str(lora), tmp_path / "out")


@pytest.fixture
def run(capsys):
    """Run one command line here; returns its exit code and what it printed."""

    def call(*arguments):
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        return code, *capsys.readouterr()

    return call


def test_the_command(tmp_path, run):
    lora = write_lora(tmp_path / "lora", base="/gone")
    code, out, err = run("merge", lora, tmp_path / "out", "--base", GOLDEN)
    assert (code, err) == (0, "") and "(float32, tolerance 0.0001)" in out
    code, out, _ = run("merge", lora, tmp_path / "out", "--base", GOLDEN, "--json")
    assert code == 2 and "--force" in json.loads(out)["error"]["next"]
    code, out, _ = run("merge", lora, tmp_path / "out", "--base", GOLDEN, "--force", "--json", "--dtype", "bfloat16")
    document = json.loads(out)
    assert code == 0 and document["schema"] == 1 and document["changed"] == 5
    assert document["proof"]["dtype"] == "bfloat16" and document["proof"]["difference"] <= 0.1
    code, out, _ = run("merge", lora, tmp_path / "out", "--force", "--json")
    assert code == 1 and json.loads(out)["error"]["type"] == "AdapterError"


def test_chat_and_plan_take_adapters(tmp_path, run):
    lora = write_lora(tmp_path / "lora", base="/gone")
    asked = ("-p", "hello", "--greedy", "--max-tokens", "8", "--json")
    lines = ((lora, "--base", GOLDEN), (GOLDEN, "--adapter", lora), (GOLDEN,))
    tokens = [json.loads(run("chat", *line, *asked)[1])["tokens"] for line in lines]
    assert tokens[0] == tokens[1] != tokens[2]
    code, out, _ = run("plan", lora, "--base", GOLDEN)
    assert code == 0 and "LoRA of rank 4 on 5 modules" in out and "named by --base" in out


def test_an_interrupted_merge_leaves_nothing_behind(tmp_path):
    """A process that is sent Ctrl-C while it writes: exit code 130, no folder, no remains."""
    lora = write_lora(tmp_path / "lora")
    code = (
        "import sys, os, signal, uncrate.runtime.shards as shards\n"
        "write = shards._bytes_of\n"
        "def slow(piece):\n"
        "    if piece.name.endswith('final_layernorm.weight'): os.kill(os.getpid(), signal.SIGINT)\n"
        "    return write(piece)\n"
        "shards._bytes_of = slow\n"
        "from uncrate.cli.main import run\n"
        f"sys.argv = ['uncrate', 'merge', {str(lora)!r}, {str(tmp_path / 'out')!r}]\n"
        "run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_adapter_and_base_on_the_hub(tmp_path, hub):
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.model")
    names += ("model.safetensors.index.json", *(path.name for path in GOLDEN.glob("model-*")))
    model = hub.commit("zai-org/glm-4v-9b", {name: (GOLDEN / name).read_bytes() for name in names})
    lora = write_lora(tmp_path / "lora", base="THUDM/glm-4v-9b")
    hub.commit("someone/lora", {path.name: path.read_bytes() for path in lora.iterdir()})
    done = merge("someone/lora", tmp_path / "out")
    assert done.plan.manifest.commit == model and done.proof.difference < 1e-4
    torch.testing.assert_close(logits(tmp_path / "out"), logits(lora, Options(base=str(GOLDEN))), atol=1e-4, rtol=0)
    assert sorted(done.written.files) == ["config.json", "generation_config.json", "model.safetensors",
                                          "tokenizer.model", "tokenizer_config.json"]  # fmt: skip
