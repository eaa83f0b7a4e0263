"""Make one tensor of names that belong together, and never over two that a file holds apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from uncrate.runtime.slots import Slot, State, slots_of


def shared_names(slots: Mapping[str, Slot]) -> list[list[str]]:
    """Group names whose tensor is one and the same object as the class built it."""
    groups: dict[int, list[str]] = {}
    for name, slot in slots.items():
        groups.setdefault(id(slot.tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def share(state: State, groups: list[list[str]]) -> None:
    """Make one tensor again of names that were one when the class was built."""
    for names in groups:
        loaded = [name for name in names if name in state.loaded and name in state.slots]
        if not loaded:
            continue
        source = state.slots[loaded[0]].tensor
        for name in names:
            if name == loaded[0] or name not in state.slots:
                continue
            tensor = state.slots[name].tensor
            if name in loaded and tensor is not source and not _equal(tensor, source):
                state.notes.append(
                    f"{name} and {loaded[0]} are one tensor in the class and two in the file; kept as two"
                )
                continue
            state.slots[name].put(source)
            state.tied[name] = loaded[0]


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


def tie(state: State) -> None:
    """Tie by the class's table or config, in either direction, then by its own methods; never over different stored
    tensors."""
    model, slots = state.model, state.slots
    expand = getattr(model, "get_expanded_tied_weights_keys", None)
    pairs = expand(all_submodels=True) if expand is not None else {}
    for target, source in pairs.items():
        if target not in slots or source not in slots:
            continue
        if state.absent(source) and not state.absent(target):
            target, source = source, target
        if state.absent(source) or slots[target].tensor is slots[source].tensor:
            continue
        if target in state.loaded and not _equal(slots[target].tensor, slots[source].tensor):
            state.notes.append(
                f"{target} should be tied to {source}, but the file holds another tensor for it; kept as two"
            )
            continue
        slots[target].put(slots[source].tensor)
        state.tied[target] = source
    if _ties_itself(model):
        _tie_by_methods(state)


def _ties_itself(model: Any) -> bool:
    from uncrate.runtime.custom_code import closure_of

    own = getattr(type(model), "tie_weights", None)
    if own is not None and closure_of(own.__module__) is not None:
        return True
    return any("_tie_weights" in vars(owner) for module in model.modules() for owner in type(module).__mro__)


def _tie_by_methods(state: State) -> None:
    before = {name: slot.tensor for name, slot in state.slots.items()}
    state.model.tie_weights()
    state.slots = slots_of(state.model)
    names = {id(tensor): name for name, tensor in reversed(before.items())}
    for name, slot in state.slots.items():
        was = before.get(name)
        if was is None or slot.tensor is was:
            continue
        if name in state.loaded and not _equal(slot.tensor, was):
            slot.put(was)
            state.notes.append(f"{name} is tied by the class, but the file holds another tensor for it; kept as two")
        elif id(slot.tensor) in names and not state.absent(names[id(slot.tensor)]):
            state.tied[name] = names[id(slot.tensor)]
