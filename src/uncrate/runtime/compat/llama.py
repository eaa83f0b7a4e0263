"""transformers' own Llama parts as old checkpoints call them."""

from __future__ import annotations

import importlib
import re
from typing import Any

from uncrate.runtime.compat.hooks import Hooks

LLAMA = "transformers.models.llama.modeling_llama"
_ATTENTION = re.compile(r"(\w+?)(FlashAttention2|SdpaAttention)")
# Since 4.48 the attention returns two values and has no rotary embeddings of its own; code of that age must not get
# the old one.
_OLD_CALLS = re.compile(
    r"Llama(FlashAttention2|SdpaAttention)|LLAMA_ATTENTION_CLASSES|\w+,\s*\w+,\s*\w+\s*=\s*self\.\w*attn\w*\("
)
_TABLE = re.compile(r"(\w+)_ATTENTION_CLASSES")


def _parts() -> Any:
    return importlib.import_module("uncrate.runtime.compat.llama_modules")


def llama_attention_v4(hooks: Hooks) -> None:
    """Hand out a LlamaAttention and rotary embeddings with the signatures of 4.4x."""
    if _OLD_CALLS.search(hooks.text):
        hooks.replace[(LLAMA, "LlamaAttention")] = lambda real: _parts().LlamaAttention
    hooks.replace[(LLAMA, "LlamaRotaryEmbedding")] = lambda real: _parts().LlamaRotaryEmbedding
    hooks.replace[(LLAMA, "apply_rotary_pos_emb")] = lambda real: _parts().apply_rotary_pos_emb


def removed_attention_classes(hooks: Hooks) -> None:
    """Give removed attention variants back: one arithmetic under all their names."""
    for name in ("LlamaFlashAttention2", "LlamaSdpaAttention"):
        hooks.add_names(LLAMA, **{name: lambda: _parts().LlamaAttention})
    hooks.add_names(LLAMA, LLAMA_ATTENTION_CLASSES=lambda: _parts().ATTENTION_CLASSES)
    hooks.add_names(LLAMA, LlamaLinearScalingRotaryEmbedding=lambda: _parts().LlamaLinearScalingRotaryEmbedding)
    hooks.add_names(LLAMA, LlamaDynamicNTKScalingRotaryEmbedding=lambda: _parts().LlamaDynamicNTKScalingRotaryEmbedding)
    hooks.guess.append(_guess_attention)


def _guess_attention(module: str, name: str) -> Any:
    """Answer `XxxSdpaAttention` and `XXX_ATTENTION_CLASSES` of a model's module with its one attention class."""
    if not module.startswith("transformers.models."):
        return None
    real = importlib.import_module(module)
    variant, table = _ATTENTION.fullmatch(name), _TABLE.fullmatch(name)
    if variant is not None:
        return getattr(real, f"{variant.group(1)}Attention", None)
    if table is not None:
        wanted = table.group(1).replace("_", "").lower() + "attention"
        found = next((value for key, value in vars(real).items() if key.lower() == wanted), None)
        return dict.fromkeys(("eager", "sdpa", "flash_attention_2"), found) if found is not None else None
    return None


def rope_init_default(hooks: Hooks) -> None:
    """Give ROPE_INIT_FUNCTIONS its entry for plain rotary embeddings back, in the checkpoint's own copy."""

    def with_default(real: Any) -> Any:
        return {**real, "default": _parts().default_rope_parameters}

    hooks.replace[("transformers.modeling_rope_utils", "ROPE_INIT_FUNCTIONS")] = with_default
    hooks.add_names(
        "transformers.modeling_rope_utils", _compute_default_rope_parameters=lambda: _parts().default_rope_parameters
    )
