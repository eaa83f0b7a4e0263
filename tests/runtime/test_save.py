"""Saving: open, save, open gives the same bytes of every tensor and the same keys; a folder appears whole or not."""

from __future__ import annotations

import json
import os

import pytest
import torch
from loras import write_lora
from safetensors import safe_open
from tiny import GOLDEN, TEXT, random_tensors, write_checkpoint

import uncrate
from uncrate import Options
from uncrate.errors import DoesNotFit, UsageError
from uncrate.runtime import aside, shards
from uncrate.runtime.shards import Piece, cut, parse_size, write_weights


def stored(folder):
    """Name to (dtype, shape, bytes) of every tensor in a folder, read by the safetensors library."""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name.startswith("expected"):
            continue
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                out[name] = (tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return out


@pytest.mark.parametrize("shard_size", ["5GB", "300KB", "1B"])
def test_open_save_open(tmp_path, shard_size):
    opened = uncrate.open(str(GOLDEN))
    written = opened.save(tmp_path / "out", shard_size=shard_size)
    assert stored(tmp_path / "out") == stored(GOLDEN)
    assert written.tensors == len(stored(GOLDEN)) == len(uncrate.inspect(str(tmp_path / "out")).weights.tensors)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.model"):
        assert (tmp_path / "out" / name).read_bytes() == (GOLDEN / name).read_bytes()
    again = uncrate.open(str(tmp_path / "out"))
    for (name, one), (other, two) in zip(opened.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert name == other and torch.equal(one, two)
    assert again.plan.mapped


def test_keys_and_files_that_nobody_knows_survive(tmp_path):
    where = write_checkpoint(
        tmp_path / "in", TEXT | {"surprise": {"deep": [1, None, "é"]}}, random_tensors(TEXT) | {"x.y": torch.ones(2)}
    )
    (where / "notes.txt").write_text("keep me")
    (where / "sub").mkdir()
    (where / "sub" / "more.json").write_text("{}")
    opened = uncrate.open(str(where), Options(allow_unexpected=("x.*",)))
    opened.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["surprise"] == {"deep": [1, None, "é"]}
    assert (tmp_path / "out" / "notes.txt").read_text() == "keep me" and (tmp_path / "out" / "sub/more.json").exists()
    assert stored(tmp_path / "out") == stored(where)


def test_a_converted_model_says_its_dtype_and_keeps_every_other_key(tmp_path):
    opened = uncrate.open(str(GOLDEN), Options(dtype="bfloat16"))
    opened.save(tmp_path / "out")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN, tmp_path / "out"))
    assert after == before | {"torch_dtype": "bfloat16"} and list(after) == list(before)
    kinds = {dtype for dtype, _, _ in stored(tmp_path / "out").values()}
    assert kinds == {torch.bfloat16, torch.float32}  # inv_freq is no parameter and stays as it was


def test_trained_values_are_saved_and_the_source_stays(tmp_path):
    before = stored(GOLDEN)
    opened = uncrate.open(str(GOLDEN))
    with torch.no_grad():
        opened.model.transformer.output_layer.weight.add_(1.0)
    opened.save(tmp_path / "out")
    after = stored(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"transformer.output_layer.weight"}
    assert stored(GOLDEN) == before


def test_adapters_in_use_are_not_lost_in_silence(tmp_path):
    opened = uncrate.open(str(write_lora(tmp_path / "lora")))
    with pytest.raises(UsageError, match=r"adapters are in use \(lora\)"):
        opened.save(tmp_path / "out")
    opened.adapters.disable()
    opened.save(tmp_path / "out")
    assert stored(tmp_path / "out") == stored(GOLDEN)


def test_places_that_are_taken(tmp_path):
    opened = uncrate.open(str(GOLDEN))
    taken = tmp_path / "taken"
    taken.mkdir()
    opened.save(taken)  # an empty folder is free
    assert stored(taken) == stored(GOLDEN)
    with pytest.raises(UsageError, match=r"not empty\n.*--force"):
        opened.save(taken)
    opened.save(taken, force=True, shard_size="300KB")
    assert len(list(taken.glob("*.safetensors"))) > 1 and stored(taken) == stored(GOLDEN)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="no checkpoint"):
        opened.save(precious, force=True)
    assert (precious / "thesis.txt").read_text() == "years"
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a folder"):
        opened.save(tmp_path / "file", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "precious", "taken"]


@pytest.mark.parametrize("place", ["", "..", "inner"])
def test_what_is_read_is_not_written_over(tmp_path, place):
    where = write_checkpoint(tmp_path / "in" / "model", TEXT, random_tensors(TEXT))
    opened = uncrate.open(str(where))
    with pytest.raises(UsageError, match="the checkpoint that is read"):
        opened.save(where / place, force=True)
    assert stored(where)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, error):
    count = []

    def stop(done, total, name):
        count.append(name)
        if len(count) == 5:
            raise error

    from uncrate.runtime.save import save

    (tmp_path / "out").mkdir()
    with pytest.raises(error):
        save(uncrate.open(str(GOLDEN)), tmp_path / "out", shard_size="300KB", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_told_before_it_is_full(tmp_path, monkeypatch):
    usage = aside.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(aside.shutil, "disk_usage", lambda path: type(usage)(usage.total, usage.used, 1000))
    with pytest.raises(DoesNotFit, match=r"0\.00 GB are free"):
        uncrate.open(str(GOLDEN)).save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(DoesNotFit, match="the disk is full; nothing was left behind"):
        uncrate.open(str(GOLDEN)).save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        uncrate.open(str(GOLDEN)).save(tmp_path / "closed" / "out")


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500 MB", 500 * 10**6), ("1.5KiB", 1536), ("7", 7), ("2gib", 2 << 30)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-5GB", "0", "5XB", "GB", "0.1B", "1e3MB"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


def test_shards_are_cut_in_order_by_size():
    pieces = [Piece(str(i), "U8", (size,), lambda: torch.zeros(0)) for i, size in enumerate((4, 4, 9, 1, 1, 30, 2))]
    assert [[piece.name for piece in shard] for shard in cut(pieces, 10)] == [
        ["0", "1"],
        ["2", "3"],
        ["4"],
        ["5"],
        ["6"],
    ]


def test_every_dtype_and_odd_shapes_are_read_by_the_safetensors_library(tmp_path):
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "bf": torch.randn(2, 3).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "bool": torch.tensor([True, False]),
        "eight": torch.randn(4).to(torch.float8_e4m3fn),
        "turned": torch.randn(4, 5).T,
        "ünï": torch.ones(1, dtype=torch.int64),
    }
    pieces = [
        Piece(name, shards.STORED_NAMES[tensor.dtype], tuple(tensor.shape), lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    ]
    write_weights(pieces, tmp_path, limit=10**9, progress=lambda done, total, name: None)
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert set(opened.keys()) == set(tensors) and opened.metadata() == {"format": "pt"}
        for name, tensor in tensors.items():
            got = opened.get_tensor(name)
            assert got.dtype == tensor.dtype and got.shape == tensor.shape
            assert torch.equal(got.double(), tensor.double())
