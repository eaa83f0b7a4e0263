"""What an exported folder holds, what it costs to write, and what is refused."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
import torch
from loras import write_lora
from safetensors.torch import load_file
from tiny import GOLDEN, TEXT, golden_config, golden_tensors, random_tensors, write_checkpoint

import uncrate
from uncrate.cli.main import main
from uncrate.errors import PlanError, UsageError
from uncrate.export import AUTO_MAP, export
from uncrate.export.code import code_files
from uncrate.families.chatglm import expected_tensors, read_config

CODE = ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py")


def read(path):
    return json.loads(path.read_text())


def tensors_in(folder):
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= load_file(file)
    return found


def test_the_folder(tmp_path):
    done = export(str(GOLDEN), tmp_path / "out")
    out = tmp_path / "out"
    assert set(done.code) == set(CODE) and all((out / name).is_file() for name in CODE)
    before, after = read(GOLDEN / "config.json"), read(out / "config.json")
    assert after == before | {"auto_map": AUTO_MAP} and list(after) == list(before)
    before, after = read(GOLDEN / "tokenizer_config.json"), read(out / "tokenizer_config.json")
    assert after == before and after["auto_map"] == {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}
    assert (out / "tokenizer.model").read_bytes() == (GOLDEN / "tokenizer.model").read_bytes()
    stored = tensors_in(out)
    assert all(torch.equal(stored[name], tensor) for name, tensor in golden_tensors().items())
    assert not (out / "tokenizer.json").exists()


def test_self_contained_points_nowhere_else(tmp_path):
    done = export(str(GOLDEN), tmp_path / "out", self_contained=True)
    config = read(tmp_path / "out" / "config.json")
    assert "_name_or_path" not in config and "--" not in json.dumps(config["auto_map"])
    assert (tmp_path / "out" / "tokenizer.json").is_file() and done.proven >= 300_000


def test_the_checkpoints_own_code_stays_behind(tmp_path):
    config = golden_config(auto_map={"AutoModel": "evil/repo--modeling_x.X"}, surprise=[1])
    where = write_checkpoint(tmp_path / "in", config, golden_tensors(), tokenizer=True)
    (where / "modeling_chatglm.py").write_text("raise SystemExit('old code ran')")
    (where / "visual.py").write_text("raise SystemExit('old code ran')")
    (where / "custom_generate").mkdir()
    (where / "custom_generate" / "generate.py").write_text("raise SystemExit('old code ran')")
    done = export(str(where), tmp_path / "out")
    assert set(done.left_behind) == {"modeling_chatglm.py", "visual.py", "custom_generate/generate.py"}
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.py")) == sorted(CODE)
    config = read(tmp_path / "out" / "config.json")
    assert config["auto_map"] == AUTO_MAP and config["surprise"] == [1]


def test_an_adapter_is_folded_in(tmp_path):
    lora = write_lora(tmp_path / "lora")
    export(str(lora), tmp_path / "out", dtype="float32")
    ids = torch.tensor([[702, 704, 707, 10, 11, 708]])
    with torch.inference_mode():
        got, wanted = uncrate.open(str(tmp_path / "out")).model(ids).logits, uncrate.open(str(lora)).model(ids).logits
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def test_dtype_is_written_and_said(tmp_path):
    export(str(GOLDEN), tmp_path / "out", dtype="bfloat16")
    assert read(tmp_path / "out" / "config.json")["torch_dtype"] == "bfloat16"
    kinds = {name: tensor.dtype for name, tensor in tensors_in(tmp_path / "out").items()}
    assert kinds.pop("transformer.rotary_pos_emb.inv_freq") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}


def test_a_text_model_without_a_tokenizer(tmp_path):
    where = write_checkpoint(tmp_path / "in", TEXT, random_tensors(TEXT))
    done = export(str(where), tmp_path / "out")
    assert set(done.code) == set(CODE[:2]) and not (tmp_path / "out" / "tokenizer_config.json").exists()


def test_what_is_not_exported(tmp_path):
    other = write_checkpoint(tmp_path / "other", {"model_type": "llama"}, {"a": torch.zeros(1)})
    with pytest.raises(UsageError, match="no ChatGLM checkpoint"):
        export(str(other), tmp_path / "out")
    tensors = random_tensors(TEXT)
    del tensors["transformer.output_layer.weight"]
    with pytest.raises(PlanError, match="missing"):
        export(str(write_checkpoint(tmp_path / "cut", TEXT, tensors)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, capsys):
    arguments = ["export", str(GOLDEN), str(tmp_path / "out"), "--tokenizer-json"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "modeling_chatglm.py" in out and "the same ids on 30" in out and "trust_remote_code=True" in out
    assert main([*arguments, "--json"]) == 2
    assert "not empty" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert main([*arguments, "--json", "--force"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1 and document["code"] == list(CODE) and document["tokenizer_json_characters"] > 3e5


def test_the_files_are_readable_and_of_one_piece():
    files = code_files()
    assert tuple(files) == CODE
    for name, text in files.items():
        tree = ast.parse(text)
        assert ast.get_docstring(tree), name
        modules = {
            node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
        } | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not any(module.split(".")[0] == "uncrate" for module in modules), name
        beside = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
        assert beside <= {"configuration_chatglm"}
        assert text.count('"""') > 20 and "# ---" in text and not any(len(line) > 122 for line in text.splitlines())


def test_the_files_have_no_name_that_nothing_defines():
    """ruff's pyflakes rules on the generated text; what is left are annotations of packages that may be missing."""
    pytest.importorskip("ruff")
    for name, text in code_files().items():
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "--output-format", "concise", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        left = [line for line in done.stdout.splitlines() if line.startswith("-:") and "F402" not in line]
        assert all("SentencePieceProcessor" in line or "`tiktoken`" in line for line in left), (name, left)


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from the kernel")
def test_weights_are_never_all_in_memory(tmp_path):
    """400 MB of bf16 weights: the process grows by a small part of that at its peak."""
    config = TEXT | {"padded_vocab_size": 65536, "hidden_size": 512, "ffn_hidden_size": 8192, "num_layers": 8}
    shapes = expected_tensors(read_config(config))
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    size = sum(tensor.nbytes for tensor in tensors.values())
    where = write_checkpoint(tmp_path / "in", config, tensors)
    del tensors
    assert size > 3e8
    code = f"""
import torch
torch.set_num_threads(1)
from uncrate.export import export
export({str(GOLDEN)!r}, {str(tmp_path / "warm")!r})
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
export({str(where)!r}, {str(tmp_path / "out")!r}, shard_size="100MB")
print((peak() - before) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 0.35 * size
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) >= 4


def test_a_hub_checkpoint_at_its_commit(tmp_path, hub):
    names = ["config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors.index.json"]
    names += [path.name for path in GOLDEN.glob("model-*")]
    commit = hub.commit("someone/model", {name: (GOLDEN / name).read_bytes() for name in names})
    hub.commit("someone/model", {"config.json": b"{}", "modeling_chatglm.py": b"raise SystemExit"})
    done = export(f"someone/model@{commit}", tmp_path / "out")
    assert done.plan.manifest.commit == commit and done.left_behind == ()
    assert all(torch.equal(tensors_in(tmp_path / "out")[name], tensor) for name, tensor in golden_tensors().items())
