"""The places in a model where tensors go, by name, and what has been put there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Slot:
    """One place for a tensor: the module that owns it, its name there, and whether it is a parameter."""

    module: nn.Module
    name: str
    parameter: bool

    @property
    def tensor(self) -> Tensor:
        table: Any = self.module._parameters if self.parameter else self.module._buffers
        found: Tensor = table[self.name]
        return found

    def put(self, tensor: Tensor) -> None:
        if self.parameter:
            if not isinstance(tensor, nn.Parameter):
                wants_grad = self.tensor.requires_grad and tensor.is_floating_point()
                tensor = nn.Parameter(tensor, requires_grad=wants_grad)
            self.module._parameters[self.name] = tensor
        else:
            self.module._buffers[self.name] = tensor


@dataclass
class State:
    model: Any
    slots: dict[str, Slot]
    loaded: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def absent(self, name: str) -> bool:
        return name not in self.loaded and name not in self.tied


def slots_of(model: nn.Module) -> dict[str, Slot]:
    """Return every parameter and persistent buffer by name; a shared module or tensor appears under each of its
    names."""
    found: dict[str, Slot] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found[start + name] = Slot(module, name, True)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[start + name] = Slot(module, name, False)
    return found
