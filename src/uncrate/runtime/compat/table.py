"""The shims: each legacy API that the plan knows by name, with what gives it back; nothing heavy is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uncrate.checkpoint.legacy import LEGACY

if TYPE_CHECKING:
    from uncrate.runtime.compat.hooks import Hooks


@dataclass(frozen=True)
class Shim:
    """One thing given back to old code.

    restores: the removed API, in words. removed_in: the version of transformers that took it away. apply: adds what is
    needed to the hooks of one closure.
    """

    name: str
    restores: str
    removed_in: str
    apply: Callable[[Hooks], None]


# Shim to the file of this package that has it, and the function there.
GIVEN_BY = {
    "removed_names": ("names", "removed_names"),
    "mask_helpers": ("masks", "mask_helpers"),
    "removed_attention_classes": ("llama", "removed_attention_classes"),
    "llama_attention_v4": ("llama", "llama_attention_v4"),
    "rope_init_default": ("llama", "rope_init_default"),
    "private_tables": ("names", "private_tables"),
    "private_auto_classes": ("auto", "private_auto_classes"),
    "config_old_defaults": ("config", "old_defaults"),
    "config_generation_values": ("config", "generation_values"),
    "rope_scaling_legacy": ("config", "rope_scaling"),
    "config_plain_class": ("config", "plain_class"),
    "legacy_config_facade": ("config", "facade"),
    "unfinished_init": ("model", "unfinished_init"),
    "no_generic_init": ("model", "no_generic_init"),
    "tied_keys_list": ("model", "tied_keys_list"),
    "head_mask_methods": ("model", "head_mask_methods"),
    "removed_model_methods": ("model", "removed_methods"),
    "support_flags_property": ("model", "support_flags_property"),
    "class_annotations": ("model", "class_annotations"),
    "generation_mixin_nested": ("generation", "generation_mixin"),
    "generate_old_inputs": ("generation", "old_inputs"),
    "legacy_tuple_cache": ("generation", "tuple_cache"),
    "extract_past": ("generation_parts", "extract_past"),
    "generation_config_none": ("generation_parts", "generation_config"),
    "removed_generation_methods": ("generation_parts", "removed_methods"),
    "cache_legacy_api": ("cache", "legacy_api"),
    "tokenizer_late_vocabulary": ("tokenizer", "late_vocabulary"),
    "tokenizer_old_methods": ("tokenizer", "old_methods"),
    "tokenizer_old_signatures": ("tokenizer_text", "old_signatures"),
    "tokenizer_property_errors": ("tokenizer", "property_errors"),
    "fast_tokenizer_converter": ("tokenizer", "fast_converter"),
    "sentencepiece_extractor": ("tokenizer", "sentencepiece_extractor"),
    "processor_attributes": ("processor", "attributes"),
}


def _from(group: str, function: str) -> Callable[[Hooks], None]:
    def apply(hooks: Hooks) -> None:
        getattr(importlib.import_module(f"uncrate.runtime.compat.{group}"), function)(hooks)

    return apply


SHIMS = tuple(Shim(api.name, api.restores, api.removed_in, _from(*GIVEN_BY[api.name])) for api in LEGACY)
