"""LoRA folders made in code, as PEFT lays them out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import GOLDEN

import uncrate
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


IDS = torch.tensor([[702, 704, 707, 10, 11, 12, 13, 14, 708, 20]])
VISION = {"images": torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)}
IMAGE_IDS = torch.tensor([[702, 704, 707, 10, 710, 700, 711, 14, 708, 20]])

KINDS: dict[str, dict[str, Any]] = {
    "query_key_value": {"r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["query_key_value"]},
    "pattern": {"target_modules": r".*\.layers\.[0-9]+\.(?:self_)?attention\.query_key_value"},
    "many": {"r": 3, "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "fc1", "fc2"]},
    "rslora": {"r": 9, "lora_alpha": 5, "use_rslora": True, "target_modules": ["dense"]},
    "ranks": {
        "target_modules": ["query_key_value", "dense"],
        "rank_pattern": {"layers.1.self_attention.query_key_value": 2, "dense": 5},
        "alpha_pattern": {r"^transformer\.encoder\.layers\.0\.self_attention\.dense": 3, "dense": 40},
    },
    "fan": {"target_modules": ["query_key_value"], "fan_in_fan_out": True},
    "lora_bias": {"target_modules": ["query_key_value"], "lora_bias": True},
    "dora": {"target_modules": ["query_key_value", "dense_4h_to_h"], "use_dora": True, "lora_alpha": 20},
    "head": {"target_modules": ["query_key_value"], "modules_to_save": ["output_layer", "final_layernorm"]},
    "embedding": {"target_modules": ["word_embeddings", "query_key_value"]},
    "layers": {"target_modules": ["query_key_value"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "exclude": {"target_modules": ["query_key_value"], "exclude_modules": r".*vision.*"},
}


def train_with_peft(folder: Path, **config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A random adapter as PEFT saves it, and the logits that PEFT gives with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(uncrate.open(str(GOLDEN)).model, LoraConfig(**config)).eval()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 1.0 if "magnitude" in name else 0.0, 0.15)
        model.save_pretrained(folder)
    with torch.inference_mode():
        return model(IDS).logits, model(IMAGE_IDS, **VISION).logits
