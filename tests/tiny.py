"""Tiny ChatGLM checkpoints made in code: a config, random weights, and the files as the hub lays them out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from uncrate.families.chatglm import INV_FREQ, expected_tensors, read_config

GOLDEN = Path(__file__).parent / "golden" / "data" / "glm4v-tiny"

TEXT: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "classifier_dropout": None,
    "ffn_hidden_size": 48,
    "hidden_size": 32,
    "kv_channels": 8,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "padded_vocab_size": 96,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 512,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def golden_config(**changes: Any) -> dict[str, Any]:
    """The golden GLM-4V config with `changes`; None removes a key."""
    config = json.loads((GOLDEN / "config.json").read_text()) | changes
    return {key: value for key, value in config.items() if value is not None}


def random_tensors(config: dict[str, Any], task: str = "causal", seed: int = 0) -> dict[str, torch.Tensor]:
    """Random float32 weights in the right scale for every tensor that the config implies."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_tensors(read_config(config), task).items():
        draw = torch.randn(shape, generator=generator)
        norm = "norm" in name and name.endswith("weight")
        tensors[name] = 1.0 + 0.1 * draw if norm else draw * (0.3 / max(shape[-1], 1) ** 0.5 if len(shape) > 1 else 0.1)
    return tensors


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    *,
    shards: int = 1,
    tokenizer: bool = False,
) -> Path:
    """Write config.json and safetensors files (with an index when there are several); returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for index in range(shards):
            part = {name: tensors[name] for name in names[index::shards]}
            file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
            save_file(part, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if tokenizer:
        for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
            shutil.copy(GOLDEN / name, folder / name)
    return folder


def golden_tensors() -> dict[str, torch.Tensor]:
    """The golden checkpoint's parameters, without the derived inv_freq."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(GOLDEN.glob("model-*.safetensors")):
        tensors.update(load_file(shard))
    tensors.pop(INV_FREQ)
    return tensors
