"""The checkpoint's files, laid out as `THUDM/glm-4v-9b` lays out its own: config, tokenizer, shards and their index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from vocabulary import RANKS, SPECIAL_TOKENS

SHARDS = 3
INV_FREQ = "transformer.rotary_pos_emb.inv_freq"  # the 9B stores it, though it follows from the config


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What may differ from the 9B: sizes, and nothing else."""

    hidden: int = 128
    ffn: int = 256
    layers: int = 3
    heads: int = 4
    groups: int = 2
    vision_hidden: int = 96
    vision_ffn: int = 256
    vision_layers: int = 3
    vision_heads: int = 4
    picture: int = 64
    patch: int = 8


def special_id(token: str) -> int:
    return RANKS + SPECIAL_TOKENS.index(token)


def config_json(sizes: Sizes) -> dict[str, Any]:
    """config.json, every key that the 9B has."""
    model = "modeling_chatglm.ChatGLMForConditionalGeneration"
    return {
        "_name_or_path": "uncrate/nano",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": model,
            "AutoModelForCausalLM": model,
            "AutoModelForSeq2SeqLM": model,
            "AutoModelForSequenceClassification": "modeling_chatglm.ChatGLMForSequenceClassification",
        },
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": sizes.ffn,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": sizes.hidden,
        "kv_channels": sizes.hidden // sizes.heads,
        "layernorm_epsilon": 1.5625e-07,
        "multi_query_attention": True,
        "multi_query_group_num": sizes.groups,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.layers,
        "original_rope": True,
        "padded_vocab_size": RANKS + len(SPECIAL_TOKENS),
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": 1024,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.44.2",
        "tie_word_embeddings": False,
        **_ends(),
        "boi_token_id": special_id("<|begin_of_image|>"),
        "eoi_token_id": special_id("<|end_of_image|>"),
        "vision_config": {
            "dropout_prob": 0.0,
            "hidden_act": "gelu",
            "in_channels": 3,
            "num_hidden_layers": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden,
            "patch_size": sizes.patch,
            "num_heads": sizes.vision_heads,
            "intermediate_size": sizes.vision_ffn,
            "layer_norm_eps": 1e-06,
            "num_positions": (sizes.picture // sizes.patch) ** 2 + 1,
            "image_size": sizes.picture,
            "scaling_factor": 1,
        },
    }


def _ends() -> dict[str, Any]:
    stops = ("<|endoftext|>", "<|user|>", "<|observation|>")
    return {"eos_token_id": [special_id(stop) for stop in stops], "pad_token_id": special_id("<|endoftext|>")}


def tokenizer_config_json(sizes: Sizes) -> dict[str, Any]:
    """tokenizer_config.json, every key that the 9B has."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(special_id(token)): {"content": token, **flags} for token in SPECIAL_TOKENS}
    return {
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "image_size": sizes.picture,
        "model_max_length": 1024,
        "padding_side": "left",
        "remove_space": False,
        "tokenizer_class": "ChatGLM4Tokenizer",
    }


def write_small_files(folder: Path, sizes: Sizes, tokenizer_model: str) -> None:
    """Everything but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    # As on the hub, generation_config.json says how answers are drawn: here the likeliest word, the figures' own way.
    generation = {"_from_model_config": True, "do_sample": False, **_ends(), "transformers_version": "4.44.2"}
    _write_json(folder / "config.json", config_json(sizes))
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer_config.json", tokenizer_config_json(sizes))
    (folder / "tokenizer.model").write_text(tokenizer_model, encoding="utf-8", newline="\n")


def write_weights(folder: Path, model: nn.Module, sizes: Sizes) -> None:
    """The model's parameters in bfloat16, in shards of about one size, in the model's own order, and their index."""
    tensors = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    turned = sizes.hidden // sizes.heads // 2  # rotary embedding covers half of a head's channels, in pairs
    tensors[INV_FREQ] = (1.0 / 10_000 ** (torch.arange(0, turned, 2).float() / turned)).to(torch.bfloat16)
    total = sum(_bytes(value) for value in tensors.values())
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(SHARDS)]
    before = 0
    for name, value in tensors.items():
        shards[min(before * SHARDS // total, SHARDS - 1)][name] = value
        before += _bytes(value)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{SHARDS:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors lets only the owner read, and installed packages keep that
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
