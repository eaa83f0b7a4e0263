"""LoRA folders made in code, as PEFT lays them out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import GOLDEN

from uncrate.families.chatglm import expected_tensors, read_config

PREFIX = "base_model.model."


def golden_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the golden checkpoint."""
    return expected_tensors(read_config(json.loads((GOLDEN / "config.json").read_text())))


def modules_named(*ends: str, shapes: dict[str, tuple[int, ...]] | None = None) -> list[str]:
    """The modules of the golden checkpoint that target_modules means by these ends."""
    names = [name.removesuffix(".weight") for name, shape in (shapes or golden_shapes()).items() if len(shape) == 2]
    return [name for name in names if any(name == end or name.endswith("." + end) for end in ends)]


def lora_tensors(
    modules: Iterable[str], rank: int = 4, *, seed: int = 0, shapes: dict[str, tuple[int, ...]] | None = None
) -> dict[str, torch.Tensor]:
    """Random A and B of every module, under PEFT's keys."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        outputs, inputs = (shapes or golden_shapes())[f"{module}.weight"]
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.2
    return tensors


def write_lora(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, *, base: str | None = str(GOLDEN), **changes: Any
) -> Path:
    """Write adapter_config.json and adapter_model.safetensors; by default on query_key_value of both towers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": ["query_key_value"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "task_type": "CAUSAL_LM",
        **changes,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(lora_tensors(modules_named("query_key_value")) if tensors is None else tensors, folder / WEIGHTS)
    return folder


WEIGHTS = "adapter_model.safetensors"
