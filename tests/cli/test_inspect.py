"""`uncrate inspect`: what is there, as a sheet and as a document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def test_sheet(cli, golden):
    done = cli("inspect", golden)
    assert done.code == 0 and done.err == ""
    lines = dict(line.split("  ", 1) for line in done.out.splitlines())
    assert lines["source"].strip() == golden
    assert lines["model"].strip() == "chatglm (ChatGLMModel)"
    assert "63 tensors, 264,468 parameters, 1.1 MB, F32" in lines["weights"]
    assert "tokenizer.model" in lines["tokenizer"]


def test_document(cli, golden):
    document = cli("inspect", golden, "--json").document
    assert {"schema", "source", "config", "model_type", "weights", "code", "adapter", "tokenizer", "redirects"} <= set(
        document
    )
    assert document["schema"] == 1 and document["source"] == golden and document["model_type"] == "chatglm"
    assert document["config"] == json.loads((Path(golden) / "config.json").read_text())
    weights = document["weights"]
    assert (weights["tensors"], weights["parameters"], weights["dtypes"]) == (63, 264468, {"F32": 63})
    assert len(weights["files"]) == 4 and weights["bytes"] == 4 * 264468
    assert document["adapter"] is None and "tensors" not in document


def test_tensors(cli, golden):
    text = cli("inspect", golden, "--tensors").out
    assert "tensor " in text and "transformer.output_layer.weight" in text
    listed = cli("inspect", golden, "--tensors", "--json").document["tensors"]
    assert len(listed) == 63
    one = next(entry for entry in listed if entry["name"] == "transformer.output_layer.weight")
    assert set(one) == {"name", "dtype", "shape", "file"} and one["dtype"] == "F32" and len(one["shape"]) == 2


def test_subfolder(cli, golden, tmp_path):
    shutil.copytree(golden, tmp_path / "all" / "inner")
    done = cli("inspect", str(tmp_path / "all"), "--subfolder", "inner", "--json")
    assert done.code == 0 and done.document["weights"]["tensors"] == 63 and done.document["subfolder"] == "inner"
    assert cli("inspect", str(tmp_path / "all"), "--subfolder", "elsewhere").code == 1


def test_a_checkpoint_that_is_broken_is_told_with_the_file(cli, golden, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(golden, folder)
    shard = folder / "model-00002-of-00004.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    done = cli("inspect", str(folder))
    assert done.code == 1 and "model-00002-of-00004.safetensors" in done.err and done.out == ""


def test_hostile_names_are_escaped(cli, tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "\x1b[2Jsafe\u202e"}))
    done = cli("inspect", str(folder))
    assert done.code == 0 and "\x1b" not in done.out and "\u202e" not in done.out and "\\u001b[2Jsafe" in done.out
