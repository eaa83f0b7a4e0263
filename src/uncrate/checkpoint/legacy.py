"""What code written for older transformers expects and the installed one no longer has, as facts about source text.

The plan lists what a checkpoint's code shows signs of needing; runtime/compat gives each of these back by the same
name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LegacyApi:
    """One thing that old code expects.

    restores: the removed API, in words. removed_in: the version of transformers that took it away. marker: a pattern
    in source text that tells that code may lean on it.
    """

    name: str
    restores: str
    removed_in: str
    marker: str


LEGACY: tuple[LegacyApi, ...] = (
    LegacyApi(
        "removed_names",
        "names and modules that left transformers: docstring decorators, is_torch_fx_available, generation_utils, ...",
        "4.2x to 5.0",
        r"from transformers",
    ),
    LegacyApi(
        "mask_helpers",
        "AttentionMaskConverter and _prepare_4d_causal_attention_mask",
        "deprecated, 5.10 at the latest",
        r"_4d_(causal_)?attention_mask|AttentionMaskConverter",
    ),
    LegacyApi(
        "removed_attention_classes",
        "LlamaFlashAttention2, *SdpaAttention, *_ATTENTION_CLASSES and the scaled rotary classes of "
        "transformers' own models",
        "4.48",
        r"\w+(FlashAttention2|SdpaAttention|_ATTENTION_CLASSES|ScalingRotaryEmbedding)",
    ),
    LegacyApi(
        "llama_attention_v4",
        "transformers' LlamaAttention and LlamaRotaryEmbedding called in the way of 4.4x",
        "4.48",
        r"import[^\n]*Llama(Attention|RotaryEmbedding)|\bLlamaAttention\b",
    ),
    LegacyApi(
        "rope_init_default",
        'ROPE_INIT_FUNCTIONS["default"]',
        "5.0",
        r"ROPE_INIT_FUNCTIONS",
    ),
    LegacyApi(
        "private_tables",
        "SLOW_TO_FAST_CONVERTERS, ALL_LAYERNORM_LAYERS and the like as the checkpoint's own copies, so that "
        "it may write to them",
        "scope",
        r"SLOW_TO_FAST_CONVERTERS|ALL_LAYERNORM_LAYERS",
    ),
    LegacyApi(
        "private_auto_classes",
        "AutoConfig.register and AutoModel.register: kept inside the checkpoint instead of transformers' global tables",
        "scope",
        r"\bAuto(Config|Model|Tokenizer)\w*\b",
    ),
    LegacyApi(
        "config_old_defaults",
        "PretrainedConfig's old defaults (pad_token_id, is_decoder, torchscript, use_cache, ...) and "
        "generation defaults (max_length, ...)",
        "5.0",
        r"config\.(max_length|num_beams|pad_token_id|eos_token_id|is_decoder|torchscript|use_cache|"
        r"add_cross_attention|use_return_dict)",
    ),
    LegacyApi(
        "config_generation_values",
        "generation values written in config.json (use_cache, num_beams, forced_bos_token_id) stay on the "
        "config and reach generation",
        "5.0",
        r"PretrainedConfig|PreTrainedConfig",
    ),
    LegacyApi(
        "rope_scaling_legacy",
        'config.rope_scaling as written (None, ["type"]) and config.rope_theta',
        "5.0",
        r"rope_scaling|rope_theta",
    ),
    LegacyApi(
        "config_plain_class",
        "a config class that is no dataclass: a subclass without __init__ keeps its parent's, any annotation "
        "and any value are allowed",
        "5.0",
        r"class \w+\((\w+\.)?(PretrainedConfig|PreTrainedConfig|\w+Config)\)",
    ),
    LegacyApi(
        "legacy_config_facade",
        "configs of transformers' own models, as old code reads them (LlamaConfig(...).rope_theta)",
        "5.0",
        r"import[^\n]*\b[A-Z]\w+Config\b",
    ),
    LegacyApi(
        "unfinished_init",
        "a model class that never calls post_init()",
        "5.0",
        r"class \w+\((\w+\.)?PreTrainedModel",
    ),
    LegacyApi(
        "no_generic_init",
        "no initialisation but the class's own: today's default also rewrites rotary tables it thinks it knows",
        "4.5x",
        r"class \w+\((\w+\.)?PreTrainedModel",
    ),
    LegacyApi(
        "tied_keys_list",
        "_tied_weights_keys as a list, tie_weights() without arguments, _tie_or_clone_weights, no output "
        "embeddings unless the class says so",
        "5.0",
        r"_tied_weights_keys|tie_weights|get_output_embeddings",
    ),
    LegacyApi(
        "head_mask_methods",
        "get_head_mask, get_extended_attention_mask, invert_attention_mask, create_extended_attention_mask_for_decoder",
        "5.0",
        r"get_head_mask|get_extended_attention_mask|invert_attention_mask",
    ),
    LegacyApi(
        "removed_model_methods",
        "_set_gradient_checkpointing(module, value), prune_heads, _convert_head_mask_to_5d, "
        "warn_if_padding..., dummy names",
        "5.0",
        r"_set_gradient_checkpointing|prune_heads",
    ),
    LegacyApi(
        "support_flags_property",
        "_supports_sdpa and the like written as a property that reads a submodule before it exists",
        "4.5x",
        r"@property\s+def _supports_",
    ),
    LegacyApi(
        "class_annotations",
        "class annotations that name things not importable at run time",
        "4.5x",
        r"TYPE_CHECKING",
    ),
    LegacyApi(
        "generation_mixin_nested",
        "generate() on every class that prepares inputs for it",
        "4.50",
        r"def prepare_inputs_for_generation",
    ),
    LegacyApi(
        "generate_old_inputs",
        "what generate() passed: an all-ones mask, no ready-made position ids, cache_position where it is "
        "asked for, no new arguments",
        "5.0",
        r"def prepare_inputs_for_generation",
    ),
    LegacyApi(
        "legacy_tuple_cache",
        "tuples as past_key_values for classes that do not say _supports_cache_class",
        "4.4x",
        r"past_key_values",
    ),
    LegacyApi(
        "extract_past",
        "_extract_past_from_model_output, with and without standardize_cache_format",
        "4.5x",
        r"_extract_past_from_model_output",
    ),
    LegacyApi(
        "generation_config_none",
        "GenerationConfig fields that are never None when the checkpoint's code reads them",
        "5.0",
        r"generation_config",
    ),
    LegacyApi(
        "removed_generation_methods",
        "greedy_search, sample, _get_logits_warper, _expand_inputs_for_generation and others that chat methods call",
        "4.4x to 5.0",
        r"_get_logits_warper|greedy_search|_get_stopping_criteria|\.sample\(",
    ),
    LegacyApi(
        "cache_legacy_api",
        "DynamicCache.from_legacy_cache, to_legacy_cache, get_usable_length, seen_tokens, key_cache, cache[i]",
        "4.5x to 5.0",
        r"DynamicCache|get_usable_length|from_legacy_cache|seen_tokens|key_cache",
    ),
    LegacyApi(
        "tokenizer_late_vocabulary",
        "slow tokenizers that set their vocabulary after super().__init__()",
        "4.34",
        r"PreTrainedTokenizer\b",
    ),
    LegacyApi(
        "tokenizer_old_methods",
        "encode_plus, batch_encode_plus, prepare_for_model, _batch_encode_plus, additional_special_tokens, "
        "as_target_tokenizer",
        "5.0",
        r"encode_plus|additional_special_tokens|prepare_for_model",
    ),
    LegacyApi(
        "tokenizer_old_signatures",
        "_pad without padding_side, tokenize and _tokenize that forward or refuse keywords, "
        "convert_tokens_to_string, _decode",
        "4.4x to 5.0",
        r"def _pad|def tokenize|def _decode",
    ),
    LegacyApi(
        "tokenizer_property_errors",
        "a property of a tokenizer that fails raises, and does not come back as the property object",
        "5.0",
        r"@property",
    ),
    LegacyApi(
        "fast_tokenizer_converter",
        "a fast tokenizer's own converter from its slow class, ignored silently since (other ids)",
        "5.0",
        r"SLOW_TO_FAST_CONVERTERS|slow_tokenizer_class",
    ),
    LegacyApi(
        "sentencepiece_extractor",
        "SentencePieceExtractor.extract(vocab_scores) returning vocabulary and merges",
        "5.0",
        r"SentencePieceExtractor|SpmConverter",
    ),
    LegacyApi(
        "processor_attributes",
        "ProcessorMixin with attributes and *_class lists, optional attributes, __call__ defaults",
        "5.0",
        r"ProcessorMixin",
    ),
)


def likely(sources: Iterable[str]) -> tuple[LegacyApi, ...]:
    """Return what source texts show signs of needing, in the order of the table."""
    texts = list(sources)
    return tuple(api for api in LEGACY if any(re.search(api.marker, text) for text in texts))
