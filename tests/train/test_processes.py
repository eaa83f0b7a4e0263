"""Several processes over gloo: the same weights as one, saved once, resumed on another number."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import uncrate
from uncrate.plan import Options
from uncrate.train.callbacks import read_log

pytestmark = pytest.mark.slow
TINY = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
SOURCE = Path(uncrate.__file__).parents[1]
FSDP = ("fsdp=true", "fsdp_config={version: 2, transformer_layer_cls_to_wrap: [GLMBlock, TransformerLayer]}")
# Order and dropout differ between one process and two; without them the arithmetic is the same.
SAME = (
    "peft_config.lora_dropout=0",
    "train_sampling_strategy=sequential",
    "per_device_train_batch_size=2",
    "max_steps=4",
    "save_steps=2",
    "eval_steps=2",
)


@pytest.fixture
def launch(data, tmp_path, recipe_text):
    """Run `uncrate train` in some processes; returns its output folder."""
    config = tmp_path / "c.yaml"

    def run(processes: int, name: str, *sets: str, resume: str = "no") -> Path:
        config.write_text(recipe_text.replace("OUT", str(tmp_path / name)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        several = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
        command = [sys.executable, *(several if processes > 1 else []), "-m", "uncrate", "train"]
        options = [word for text in (*SAME, *sets) for word in ("--set", text)]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(data), str(TINY), str(config), resume, *options],
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("holds the result") == 1
        return tmp_path / name

    return run


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_log(folder / "log.jsonl") if "loss" in record]


def close(one: Path, other: Path, name: str, within: float = 2e-6) -> None:
    ours, theirs = load_file(one / name), load_file(other / name)
    assert set(ours) == set(theirs)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], atol=within, rtol=1e-5)


def test_two_processes_and_accumulation_give_the_same_weights(start, launch):
    one = start(*SAME, "gradient_accumulation_steps=2", name="one").folder
    two = launch(2, "two", "ddp_backend=gloo")
    assert losses(two) == pytest.approx(losses(one), abs=1e-6)
    close(one, two, "adapter_model.safetensors")
    # A run of two processes goes on in one.
    more = start(*SAME, "gradient_accumulation_steps=2", "max_steps=6", name="two", resume="4").folder
    assert len(losses(more)) == 6
    # Sharded adapters are saved whole.
    shards = launch(2, "shards", "ddp_backend=gloo", *FSDP)
    close(one, shards, "adapter_model.safetensors")
    assert uncrate.open(str(shards), Options(device="cpu")).plan.adapters


def test_sharded_processes_train_and_save_what_opens(start, launch):
    sets = ("peft_config=", "learning_rate=1e-3")
    one = start(*SAME, *sets, "gradient_accumulation_steps=2", name="one").folder
    shards = launch(2, "shards", "ddp_backend=gloo", *sets, *FSDP)
    assert losses(shards) == pytest.approx(losses(one), abs=1e-4)
    # Adam divides by the gradient: where that is rounding alone (biases of keys), so is the step.
    close(one, shards, "model.safetensors", within=2e-3)
    first = load_file(shards / "model.safetensors")
    assert uncrate.open(str(shards), Options(device="cpu")).plan.parameters == 264_464
    again = launch(2, "shards", "ddp_backend=gloo", *sets, *FSDP, resume="2")
    assert all(torch.equal(tensor, first[name]) for name, tensor in load_file(again / "model.safetensors").items())
