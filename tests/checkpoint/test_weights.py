"""Which files hold the weights, and the index held against the headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint.checkpoints import sharded, sound, write

from uncrate.checkpoint.manifest import read_manifest
from uncrate.errors import MalformedWeights

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def test_shards(tmp_path: Path) -> None:
    weights = read_manifest(sharded(tmp_path)).weights
    assert weights.format == "safetensors"
    assert [file.path for file in weights.files] == [FIRST, SECOND]
    assert {name: (tensor.file, tensor.shape) for name, tensor in weights.tensors.items()} == {
        "a": (FIRST, (2, 3)),
        "b": (FIRST, (4,)),
        "c": (SECOND, (5,)),
    }
    assert (weights.parameters, weights.bytes, weights.dtypes) == (15, 52, {"F32": 2, "BF16": 1})
    assert weights.metadata["format"] == "pt"


def test_a_single_file_comes_before_shards(tmp_path: Path) -> None:
    write(sharded(tmp_path), {"model.safetensors": sound({"only": ("F32", [1])})})
    manifest = read_manifest(tmp_path)
    assert set(manifest.weights.tensors) == {"only"}
    assert any("model.safetensors is used" in note for note in manifest.notes)


def test_config_alone(tmp_path: Path) -> None:
    weights = read_manifest(write(tmp_path, {"config.json": {}})).weights
    assert (weights.format, len(weights.tensors), weights.files, weights.bytes) == ("none", 0, (), 0)


def test_weights_alone(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, {"model.safetensors": sound({"a": ("F32", [1])})}))
    assert manifest.config is None
    assert manifest.tokenizer == ()
    assert dict(manifest.sheet())["model"] == "no config.json"


def test_pickles_are_listed_and_not_read(tmp_path: Path) -> None:
    files = {"config.json": {}, "pytorch_model-00001-of-00002.bin": b"x" * 9, "pytorch_model-00002-of-00002.bin": b"y"}
    weights = read_manifest(write(tmp_path, {**files, "pytorch_model.bin.index.json": "not even JSON"})).weights
    assert (weights.format, len(weights.files), weights.bytes, len(weights.tensors)) == ("pickle", 2, 10, 0)


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    write(tmp_path, {"pytorch_model.bin": b"x", "model.safetensors": sound({"a": ("F32", [1])})})
    assert read_manifest(tmp_path).weights.format == "safetensors"


def test_a_whole_set_of_shards_needs_no_index(tmp_path: Path) -> None:
    (sharded(tmp_path) / INDEX).unlink()
    manifest = read_manifest(tmp_path)
    assert set(manifest.weights.tensors) == {"a", "b", "c"}
    assert any("missing" in note for note in manifest.notes)
    (tmp_path / FIRST).unlink()
    with pytest.raises(MalformedWeights, match="not a whole set"):
        read_manifest(tmp_path)


def test_other_weights_beside_it_are_a_note(tmp_path: Path) -> None:
    write(sharded(tmp_path), {"consolidated.safetensors": sound({"x": ("F32", [1])})})
    manifest = read_manifest(tmp_path)
    assert set(manifest.weights.tensors) == {"a", "b", "c"}
    assert any("consolidated.safetensors" in note for note in manifest.notes)
    (tmp_path / "lone").mkdir()
    lone = read_manifest(write(tmp_path / "lone", {"config.json": {}, "weights.gguf": b"GGUF"}))
    assert lone.weights.format == "none"
    assert any("weights.gguf" in note for note in lone.notes)


def test_all_faults_of_index_and_shards_are_told_at_once(tmp_path: Path) -> None:
    sharded(
        tmp_path, weight_map={"a": FIRST, "c": FIRST, "d": SECOND, "e": "model-00003-of-00003.safetensors", "f": "../f"}
    )
    write(tmp_path, {"model-00004-of-00004.safetensors": sound({"a": ("F32", [1])})})
    with pytest.raises(MalformedWeights) as caught:
        read_manifest(tmp_path)
    message = str(caught.value)
    for part in [
        "6 faults",
        "/weight_map/f must be a file of the folder, and is ../f",
        "model-00003-of-00003.safetensors is not there, and the index puts 1 tensor in it",
        "model-00004-of-00004.safetensors is a shard that the index does not name",
        f"/weight_map/c is {FIRST}, which does not hold it, it is in {SECOND}",
        f"/weight_map/d is {SECOND}, which does not hold it",
        f"tensor b in {FIRST} is not in the index",
    ]:
        assert part in message, message


def test_faults_in_headers_are_told_with_the_others(tmp_path: Path) -> None:
    sharded(tmp_path)
    data = (tmp_path / SECOND).read_bytes()
    (tmp_path / SECOND).write_bytes(data[:-3])
    (tmp_path / FIRST).write_bytes((tmp_path / FIRST).read_bytes() + b"xx")
    with pytest.raises(MalformedWeights) as caught:
        read_manifest(tmp_path)
    assert f"{SECOND}: the file ends 3 bytes early" in str(caught.value)
    assert f"{FIRST}: 2 bytes at the end belong to no tensor" in str(caught.value)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    sharded(tmp_path)
    write(tmp_path, {SECOND: sound({"c": ("F32", [5]), "a": ("F32", [2, 3])})})
    with pytest.raises(MalformedWeights, match=f"tensor a is in {FIRST} and again in {SECOND}"):
        read_manifest(tmp_path)
