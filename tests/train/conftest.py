"""A tiny data set and configuration over the golden checkpoint, and runs of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
CONFIG = """\
data_config: {train_file: train.jsonl, val_file: dev.jsonl, test_file: dev.jsonl}
max_input_length: 64
max_output_length: 32
training_args:
  output_dir: OUT
  max_steps: 6
  learning_rate: 5e-3
  per_device_train_batch_size: 4
  save_steps: 2
  logging_steps: 1
  eval_strategy: steps
  eval_steps: 3
  predict_with_generate: true
  generation_config: {max_new_tokens: 4}
  use_cpu: true
peft_config: {peft_type: LORA, r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: [query_key_value]}
"""


def rows(count: int, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    out = []
    for index in range(count):
        a, b = draw.randrange(10), draw.randrange(10)
        ask = {"role": "user", "content": f"What is {a}+{b}?" + " please" * draw.randrange(3)}
        if index % 3:
            ask["image"] = str(TINY / ("image.png" if index % 2 else "image2.png"))
        out.append({"messages": [ask, {"role": "assistant", "content": str(a + b)}]})
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train.jsonl", 20), ("dev.jsonl", 3)):
        (folder / name).write_text("\n".join(map(json.dumps, rows(count))) + "\n")
    return folder


@pytest.fixture
def recipe_text() -> str:
    """The configuration that the runs start from; OUT stands for the output folder."""
    return CONFIG


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Callable:
    """Run a fine-tuning in this process: `start(*sets, name="out", **job)` returns its outcome."""

    def run_it(*sets: str, name: str = "out", config: str = CONFIG, model: str = str(TINY), **job):
        from uncrate.train.loop import Job, run
        from uncrate.train.recipe import read_recipe
        from uncrate.train.yamlfile import parse_yaml

        document = parse_yaml(config.replace("OUT", str(tmp_path / name)), "x.yaml")
        return run(Job(data=data, model=model, recipe=read_recipe(document, sets), **job))

    return run_it
