"""Filling a model: the file's bytes, no private copy where none is needed, and nothing where something is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tiny import GOLDEN, TEXT, golden_tensors, random_tensors, write_checkpoint

import uncrate
from uncrate import Options
from uncrate.errors import CheckpointError, MalformedWeights, PlanError, TokenizerError


def test_every_parameter_equals_the_files_bytes():
    model = uncrate.open(str(GOLDEN)).model
    stored = golden_tensors()
    assert dict(model.named_parameters()).keys() == stored.keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[name]) and parameter.requires_grad
    assert not any(parameter.is_meta for parameter in model.parameters()) and not list(model.buffers())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_conversions(tmp_path, dtype, stored):
    tensors = {name: tensor.to(stored) for name, tensor in random_tensors(TEXT).items()}
    where = str(write_checkpoint(tmp_path / "c", TEXT, tensors, shards=3))
    model = uncrate.open(where, Options(dtype=dtype)).model
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[name].to(getattr(torch, dtype)))


def test_a_mapped_parameter_may_be_written_and_the_file_stays(tmp_path):
    where = write_checkpoint(tmp_path / "c", TEXT, random_tensors(TEXT))
    before = (where / "model.safetensors").read_bytes()
    model = uncrate.open(str(where)).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (where / "model.safetensors").read_bytes() == before


def test_a_model_opened_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        model = uncrate.open(str(GOLDEN), Options(dtype="bfloat16")).model
    ids = torch.tensor([[702, 704, 40, 41]])
    model(ids, labels=ids).loss.backward()
    assert model.transformer.output_layer.weight.grad.abs().sum() > 0


def test_a_header_of_odd_length(tmp_path):
    """Unaligned tensors are legal in the format; they are read right."""
    tensors = random_tensors(TEXT)
    where = write_checkpoint(tmp_path / "c", TEXT, tensors)
    data = (where / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip(b" ")
    header += b" " * (1 - len(header) % 2)
    (where / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert len(header) % 4
    for name, parameter in uncrate.open(str(where)).model.named_parameters():
        assert torch.equal(parameter, tensors[name])


def test_a_file_that_changes_between_plan_and_load(tmp_path):
    from uncrate.open import carry_out

    where = write_checkpoint(tmp_path / "c", TEXT, random_tensors(TEXT))
    plan = uncrate.plan(str(where))
    with (where / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(MalformedWeights, match="it changed between the plan and the load"):
        carry_out(plan)


def test_index_that_points_outside(tmp_path):
    where = write_checkpoint(tmp_path / "c", TEXT, random_tensors(TEXT), shards=2)
    index = where / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001-of-00002", "../../model-00001-of-00002"))
    with pytest.raises(CheckpointError):
        uncrate.open(str(where))


def test_tokenizer_of_another_checkpoint(tmp_path):
    where = write_checkpoint(tmp_path / "c", TEXT, random_tensors(TEXT), tokenizer=True)
    with pytest.raises(TokenizerError, match="714 words, the model 96"):
        uncrate.open(str(where))


def test_nothing_is_read_when_the_plan_has_problems(tmp_path, monkeypatch):
    where = write_checkpoint(tmp_path / "c", TEXT | {"num_layers": 3}, random_tensors(TEXT))
    monkeypatch.setattr("uncrate.runtime.carry_out.read_tensors", lambda *args, **options: pytest.fail("it read"))
    with pytest.raises(PlanError) as caught:
        uncrate.open(str(where))
    assert len(caught.value.faults) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="reads anonymous memory from /proc/self/smaps_rollup")
def test_opening_in_the_stored_dtype_makes_no_private_copy(tmp_path):
    """200 MB of bf16 weights: private memory grows by a small part of that, also after a forward pass."""
    config = TEXT | {"padded_vocab_size": 65536, "hidden_size": 512, "ffn_hidden_size": 4096, "num_layers": 6}
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(config).items()}
    size = sum(tensor.nbytes for tensor in tensors.values())
    where = write_checkpoint(tmp_path / "c", config, tensors, shards=2)
    assert size > 200e6
    code = f"""
import re, sys, torch
torch.set_num_threads(1)
def private():
    text = open("/proc/self/smaps_rollup").read()
    return sum(int(kb) for kb in re.findall(r"Anonymous: +([0-9]+) kB", text)) * 1024
import uncrate
from uncrate.open import carry_out
plan = uncrate.plan({str(where)!r})
torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
before = private()
opened = carry_out(plan)
loaded = private()
with torch.inference_mode():
    opened.model.transformer.embedding(torch.tensor([[1, 2, 3]]))
print(loaded - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) < 0.15 * size


def test_converted_parameters_have_memory_of_their_own(tmp_path):
    """safetensors refuses to save tensors that share a block of memory."""
    from safetensors.torch import load_file, save_file

    tensors = random_tensors(TEXT)
    where = str(write_checkpoint(tmp_path / "c", TEXT, tensors))
    model = uncrate.open(where, Options(dtype="bfloat16")).model
    save_file(model.state_dict(), tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[name], tensor.bfloat16()) for name, tensor in tensors.items())
