"""Open classes that are not ours: a checkpoint's own, or transformers'. Config, model, weights, generation config."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from uncrate.errors import CodeError, ConfigError, MissingPackage, escape
from uncrate.runtime.custom_code import closure_of
from uncrate.runtime.empty import build, built_values
from uncrate.runtime.fill import Filled, fill


def build_config(config_class: type, config: Mapping[str, Any]) -> Any:
    """Return the class's config object for the contents of config.json; raises `ConfigError` when the class refuses
    them."""
    values = json.loads(json.dumps(_plain(config)))
    try:
        made = config_class.from_dict(values)  # type: ignore[attr-defined]
    except MissingPackage:
        raise
    except Exception as error:  # the class may be anybody's code
        raise ConfigError(
            f"{config_class.__name__} refuses config.json: {type(error).__name__}: {escape(str(error), 300)}",
            where="config.json",
        ) from error
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def open_model(
    model_class: type,
    config: Any,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    new: Iterable[str] = (),
    generation: Mapping[str, Any] | None = None,
    attention: str | None = None,
) -> tuple[Any, Filled]:
    """Return a model of any `PreTrainedModel` class filled with stored tensors, and what became of each.

    config: the class's config object. tensors: stored name to tensor, a lazy mapping may read on request. dtype: the
    floating dtype in memory; None keeps the stored one. new: name patterns of parameters that need not be stored.
    generation: the contents of generation_config.json. attention: attention implementation; None lets the class choose.
    Raises `PlanError` for tensors that do not fit, `CodeError` when the checkpoint's code fails.
    """
    config = copy.deepcopy(config)
    built_in = dtype or _main_dtype(config, tensors)
    _set_dtype(config, built_in)
    _set_attention(config, attention)
    try:
        model = build(model_class, config, dtype=built_in)
    except ImportError as error:
        raise MissingPackage(f"{model_class.__name__} cannot be built: {escape(str(error), 300)}") from error
    except Exception as error:
        if closure_of(model_class.__module__) is None:
            raise
        raise CodeError(
            f"{model_class.__name__} failed while being built: {type(error).__name__}: {escape(str(error), 300)}"
        ) from error

    def values(names: list[str]) -> Mapping[str, Tensor]:
        return built_values(model_class, config, model, names, dtype=built_in)

    filled = fill(
        model,
        tensors,
        dtype=built_in,
        cast=dtype is not None,
        built_values=values,
        new=new,
        conversions=_conversions(model),
    )
    _set_generation(model, generation)
    return model, filled


def _main_dtype(config: Any, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype that config.json names, else the most frequent floating one among the tensors, else float32."""
    named = config.__dict__.get("dtype")
    if isinstance(named, str):
        named = getattr(torch, named, None)
    counted = Counter(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    stored = counted.most_common(1)[0][0] if counted else torch.float32
    # The name is only a remark; what is stored decides unless it agrees.
    return named if isinstance(named, torch.dtype) and named in counted else stored


def _configs(config: Any) -> list[Any]:
    inner = [
        value
        for value in vars(config).values()
        if type(value).__name__.endswith("Config") and hasattr(value, "to_dict")
    ]
    return [config, *(found for value in inner for found in _configs(value))]


def _set_dtype(config: Any, dtype: torch.dtype) -> None:
    # Custom code passes config.torch_dtype to its layers; nested configs must say the same.
    for each in _configs(config):
        if "dtype" in vars(each):
            vars(each)["dtype"] = dtype


def _set_attention(config: Any, attention: str | None) -> None:
    """Choose the attention; one that needs flash_attn gives way where that cannot run."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    for each in _configs(config):
        asked = vars(each).get("_attn_implementation_internal")
        if attention is not None and each is config:
            each._attn_implementation = attention
        elif isinstance(asked, str) and asked.startswith("flash_attention") and not is_flash_attn_2_available():
            vars(each)["_attn_implementation_internal"] = None


def _conversions(model: Any) -> Any:
    """Return transformers' weight conversions for those parts of a model that are its own classes, or None."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:
        # transformers before 5 converts nothing.
        return None
    if not hasattr(model, "config"):
        return None
    if not get_model_conversion_mapping(model, add_legacy=False):
        return None
    return get_model_conversion_mapping(model)


def _set_generation(model: Any, generation: Mapping[str, Any] | None) -> None:
    """Give a generating model the values of generation_config.json; without one, __init__ took them from
    config.json."""
    if generation is not None and hasattr(model, "can_generate") and model.can_generate():
        model.generation_config = model.generation_config_class.from_dict(_plain(generation))
