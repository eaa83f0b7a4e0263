"""Build a native class on the meta device and put tensors in the place of its parameters."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uncrate.runtime.empty import NoInitialisationOnMeta

TORCH_NAMES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_native_class(reference: str) -> type[nn.Module]:
    """Return the class that a plan names as "module:Class"; native references come from our own table only."""
    module, _, name = reference.partition(":")
    assert module.startswith("uncrate.models."), reference
    cls = getattr(importlib.import_module(module), name)
    assert issubclass(cls, nn.Module)
    return cls


def build_empty(cls: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """Return the model with every parameter on the meta device: shapes, no memory."""
    with torch.device("meta"), NoInitialisationOnMeta():
        return cls(config)


def assign(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace each named parameter by its tensor, without a copy."""
    for name, tensor in tensors.items():
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._parameters[last] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())


def initialise(model: nn.Module, names: tuple[str, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Fill parameters that no file holds (a fresh class head, a fresh prefix): normal(0, 0.02), biases zero."""
    made: dict[str, Tensor] = {}
    for name in names:
        tensor = torch.empty(model.get_parameter(name).shape, dtype=dtype, device=device)
        made[name] = tensor.zero_() if name.endswith(".bias") else tensor.normal_(0.0, 0.02)
    assign(model, made)
