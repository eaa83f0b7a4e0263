"""AutoConfig: a checkpoint's config.json as a transformers configuration object, read over the road."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from uncrate.auto.keywords import CONFIG, Given, dtype_of, refuse_unknown, sort_keywords
from uncrate.auto.looking import Found, Where, find, name_of
from uncrate.checkpoint.jsonfile import thaw
from uncrate.checkpoint.manifest import Manifest
from uncrate.errors import CheckpointError, UsageError, escape
from uncrate.families.table import find_family

# Facts of the class, and names that transformers answers with a deprecation.
_NO_ATTRIBUTES = frozenset(
    ("model_type", "attribute_map", "sub_configs", "base_config_key", "torch_dtype", "use_return_dict", "rope_scaling")
)


class AutoConfig:
    """Open a checkpoint's configuration; never built itself."""

    def __init__(self) -> None:
        raise UsageError("AutoConfig is not built itself", next="AutoConfig.from_pretrained(WHERE)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Where, **kwargs: Any) -> Any:
        """Return the configuration, or (configuration, unused keywords) with `return_unused_kwargs=True`.

        Keywords that are attributes of the configuration set them. An adapter leads to its base. Raises UncrateError:
        UsageError for refused and unknown keywords, ConfigError for a model type that nothing here knows.
        """
        given = sort_keywords(kwargs, CONFIG)
        found = find(pretrained_model_name_or_path, given)
        config = read_config_object(found, given)
        unused = set_attributes(config, given.others)
        dtype = dtype_of(given)
        if dtype != "auto":
            config.dtype = torch_dtype(dtype)
        if given.get("return_unused_kwargs"):
            return config, unused
        refuse_unknown(unused, CONFIG, attributes_of(config))
        return config


def read_config_object(found: Found, given: Given) -> PretrainedConfig:
    """Return the configuration object of the model that a call leads to."""
    config = config_object(found.model)
    config.name_or_path = name_of(found.model.source)
    set_attention(config, given)
    return config


def config_object(manifest: Manifest) -> PretrainedConfig:
    """Return a manifest's config.json as the class that fits it: ours, the approved code's, or transformers'."""
    if manifest.config is None:
        raise CheckpointError(
            "there is no config.json", where=str(manifest.source), next=f"uncrate inspect {manifest.source}"
        )
    if find_family(manifest.config) is not None:
        from uncrate.models.chatglm.hf_config import ChatGLMConfig

        return ChatGLMConfig(**thaw(manifest.config))
    from uncrate.auto.foreign import foreign_config

    return foreign_config(manifest)


def attributes_of(config: PretrainedConfig) -> list[str]:
    """Return the names that keywords may set on a configuration."""
    names = {*vars(config), *dir(type(config)), *config.attribute_map}
    return sorted(name for name in names if is_attribute(config, name))


def is_attribute(config: PretrainedConfig, name: str) -> bool:
    """Whether a keyword of this name is a fact of the configuration, and not one of its methods."""
    if name.startswith("_") or name in _NO_ATTRIBUTES:
        return False
    return hasattr(config, name) and not callable(getattr(type(config), name, None))


def set_attributes(config: PretrainedConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Set those keywords that are attributes of the configuration; returns the rest."""
    unused: dict[str, Any] = {}
    for name, value in values.items():
        if is_attribute(config, name):
            setattr(config, name, value)
        else:
            unused[name] = value
    return unused


def set_attention(config: PretrainedConfig, given: Given) -> None:
    """Set the attention implementation of a call. Raises UsageError for one that the native model does not have."""
    wanted = given.get("attn_implementation")
    if wanted is None:
        return
    from uncrate.models.chatglm.hf_config import ChatGLMConfig

    if isinstance(config, ChatGLMConfig) and wanted not in ("eager", "sdpa"):
        raise UsageError(
            f"attn_implementation={escape(repr(wanted))} is not one of eager and sdpa",
            why="the native model runs torch's scaled_dot_product_attention, which takes flash kernels by itself",
            next='give attn_implementation="sdpa", or leave it out',
        )
    config._attn_implementation = wanted


def torch_dtype(name: str) -> Any:
    """Return torch's dtype of that name. Raises UsageError for what is none."""
    import torch

    from uncrate.runtime.build import TORCH_NAMES

    if name not in TORCH_NAMES:
        raise UsageError(f"dtype {escape(repr(name))} is not one of {', '.join(TORCH_NAMES)}, auto")
    dtype = TORCH_NAMES[name]
    assert isinstance(dtype, torch.dtype)
    return dtype
