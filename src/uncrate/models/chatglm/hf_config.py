"""config.json of a ChatGLM as transformers' configuration object: every key kept, the native config from it."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import PretrainedConfig

from uncrate.families.chatglm import ChatGLMConfig as TypedConfig
from uncrate.families.chatglm import read_config

# transformers' name of a key to the checkpoint's own.
ALIASES = {"num_hidden_layers": "num_layers", "vocab_size": "padded_vocab_size", "head_dim": "kv_channels"}
# How attention runs is a choice of the process that opens a checkpoint, never a fact of its file.
_NOT_KEPT = frozenset(
    (
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "output_attentions",
    )
)


class ChatGLMConfig(PretrainedConfig):
    """The configuration of ChatGLM2, ChatGLM3, GLM-4 and GLM-4V.

    Sizes have no default: a model built from a config that lacks one raises ConfigError with its name. Switches that
    published files leave out read as the original configuration's defaults. Keys that nobody knows are kept and saved
    again; so are keys that transformers 5 would drop or rename (`torch_dtype`, `_name_or_path`, defaults).
    """

    model_type: ClassVar[str] = "chatglm"
    attribute_map: ClassVar[dict[str, str]] = ALIASES
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    # Class attributes, not fields: they answer when asked and are saved only where somebody has set them.
    vision_config = None
    rmsnorm = True
    post_layer_norm = True
    apply_residual_connection_post_layernorm = False
    fp32_residual_connection = False
    pre_seq_len = None
    prefix_projection = False
    classifier_dropout = None
    hidden_dropout = 0.0
    attention_dropout = 0.0
    add_bias_linear = False
    add_qkv_bias = False
    multi_query_attention = False
    multi_query_group_num = 1
    rope_ratio = 1.0
    boi_token_id = None
    eoi_token_id = None
    bos_token_id = None
    eos_token_id = None
    pad_token_id = None
    tie_word_embeddings = False

    def __init__(self, **kwargs: Any) -> None:
        given = copy.deepcopy(kwargs)
        # Where a file has both names of a fact, the checkpoint's own decides.
        doubled = {alias: kwargs.pop(alias) for alias, name in ALIASES.items() if alias in kwargs and name in kwargs}
        self.use_cache = kwargs.pop("use_cache", True)
        super().__init__(**kwargs)
        self._given = tuple(given)
        self._doubled = {alias: value for alias, value in doubled.items() if value != getattr(self, ALIASES[alias])}
        self._dropped = {
            key: value
            for key, value in given.items()
            if key not in self.__dict__ and key not in _NOT_KEPT and key not in ("torch_dtype", "model_type", *ALIASES)
        }
        self._named = given.get("_name_or_path")

    def typed(self) -> TypedConfig:
        """Return the native config. Raises ConfigError with every missing or impossible key."""
        return read_config(self.to_diff_dict(), "config")

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads, by the name that transformers' caches ask for."""
        return self.multi_query_group_num if self.multi_query_attention else self.num_attention_heads

    def to_dict(self) -> dict[str, Any]:
        """Return every key, and those that only a file reader would miss."""
        return {**super().to_dict(), **copy.deepcopy(self._dropped)}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what config.json gets: each key that was given, under the name it had, and what was set since."""
        saved: dict[str, Any] = {**super().to_diff_dict(), "use_cache": self.use_cache}
        everything = self.to_dict()
        for key in self._given:
            if key in _NOT_KEPT:
                continue
            if key in ALIASES:
                saved[key] = self._doubled.get(key, getattr(self, key))
            elif key not in saved and key in everything:
                saved[key] = everything[key]
        if "torch_dtype" in self._given:
            # Readers before transformers 5 know no other name.
            value = saved.pop("dtype", None) if "dtype" not in self._given else saved.get("dtype")
            saved["torch_dtype"] = value
        if "use_cache" not in self._given and self.use_cache is True:
            del saved["use_cache"]
        if self._named is not None:
            saved["_name_or_path"] = self._named
        return saved

    def _remove_keys_not_serialized(self, d: dict[str, Any]) -> None:
        super()._remove_keys_not_serialized(d)
        for key in ("_given", "_doubled", "_dropped", "_named"):
            d.pop(key, None)
