"""Which adapters a recipe can ask for, and the keys of peft_config that each of them has."""

from __future__ import annotations

PEFT_TYPES = ("LORA", "PREFIX_TUNING")
# What PEFT reads of each type, as far as GLM-4's users write it; anything else would be lost without a word.
LORA_KEYS = (
    "peft_type",
    "task_type",
    "inference_mode",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "bias",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
    "base_model_name_or_path",
    "revision",
    "fan_in_fan_out",
)
PREFIX_KEYS = (
    "peft_type",
    "task_type",
    "inference_mode",
    "num_virtual_tokens",
    "token_dim",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "encoder_hidden_size",
    "prefix_projection",
    "base_model_name_or_path",
    "revision",
)
