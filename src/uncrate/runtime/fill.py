"""Fill a model with stored tensors: which tensor goes where, what is tied, what is missing, told by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from uncrate.errors import PlanError, escape

# How old checkpoints spell what modules call otherwise today; tried when the stored name fits nothing.
LEGACY_SPELLING = (
    (r"(^|\.)gamma$", r"\1weight"),
    (r"(^|\.)beta$", r"\1bias"),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
)


@dataclass(frozen=True)
class Filled:
    """What became of every stored tensor and every parameter, by name in the model (stored names where said).

    loaded: model name to stored name. tied: name to the name whose tensor it shares. buffers: persistent buffers that no
    file holds, kept as the class computed them. initialised: parameters that no file holds and that were allowed. ignored,
    unexpected: stored names that fit nothing, expected by the class's patterns or not. notes: sentences for the report.
    """

    loaded: Mapping[str, str]
    tied: Mapping[str, str]
    buffers: tuple[str, ...]
    computed: tuple[str, ...]
    initialised: tuple[str, ...]
    ignored: tuple[str, ...]
    unexpected: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Slot:
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
class _State:
    model: Any
    slots: dict[str, _Slot]
    loaded: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def absent(self, name: str) -> bool:
        return name not in self.loaded and name not in self.tied


def slots_of(model: nn.Module) -> dict[str, _Slot]:
    """Return every parameter and persistent buffer by name; a shared module or tensor appears under each of its names."""
    found: dict[str, _Slot] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found[start + name] = _Slot(module, name, True)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[start + name] = _Slot(module, name, False)
    return found


def fill(
    model: Any,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    cast: bool,
    built_values: Callable[[list[str]], Mapping[str, Tensor]],
    new: Iterable[str] = (),
    conversions: Any = None,
) -> Filled:
    """Put stored tensors in the place of a model's parameters and persistent buffers, tie what belongs together.

    tensors: stored name to tensor; a lazy mapping is read once for each tensor that is used. dtype: the floating dtype that
    the model was built in; `cast` converts parameters to it, otherwise they keep the stored one. new: name patterns
    (fnmatch) of parameters that may be missing; they are initialised. built_values: names to what `__init__` put there.
    Raises `PlanError` with every fault.
    """
    state = _State(model, slots_of(model))
    shared = _shared(state.slots)
    if conversions:
        leftover = _convert(state, tensors, conversions, dtype)
    else:
        leftover = _assign(state, tensors, dtype, cast)
    _share(state, shared)
    _tie(state)
    allowed = [re.compile(pattern) for pattern in _patterns(model, "_keys_to_ignore_on_load_missing")]
    missing = [name for name, slot in state.slots.items() if slot.parameter and state.absent(name)]
    fresh = [name for name in missing if any(fnmatch(name, pattern) for pattern in new)]
    computed = [name for name in missing if name not in fresh and any(pattern.search(name) for pattern in allowed)]
    state.faults += [f"{escape(name)}: no file holds it" for name in missing if name not in (*fresh, *computed)]
    if state.faults:
        raise PlanError(f"the stored tensors do not fit {type(model).__name__}", state.faults)
    for name, value in (built_values([*computed, *fresh]) if missing else {}).items():
        state.slots[name].put(value)
    _initialise(state, fresh)
    buffers = tuple(name for name, slot in state.slots.items() if not slot.parameter and state.absent(name))
    expected = [re.compile(pattern) for pattern in _expected_leftovers(model, state.slots)]
    ignored = tuple(name for name in leftover if any(pattern.search(name) for pattern in expected))
    unexpected = tuple(name for name in leftover if name not in ignored)
    return Filled(state.loaded, state.tied, buffers, tuple(computed), tuple(fresh), ignored, unexpected, tuple(state.notes))


def _shared(slots: Mapping[str, _Slot]) -> list[list[str]]:
    """Group names whose tensor is one and the same object as the class built it."""
    groups: dict[int, list[str]] = {}
    for name, slot in slots.items():
        groups.setdefault(id(slot.tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _model_name(stored: str, slots: Mapping[str, _Slot], prefix: str, renames: Iterable[tuple[str, str]]) -> str | None:
    """Return the name in the model that a stored name stands for, or None."""
    renamed = stored
    for pattern, replacement in renames:
        renamed, count = re.subn(pattern, replacement, renamed)
        if count:
            break
    for name in dict.fromkeys((stored, renamed)):
        for spelling in (name, *(re.sub(old, new, name) for old, new in LEGACY_SPELLING)):
            for candidate in (spelling, f"{prefix}.{spelling}" if prefix else spelling, spelling.removeprefix(f"{prefix}.")):
                if candidate in slots:
                    return candidate
    return None


def _assign(state: _State, tensors: Mapping[str, Tensor], dtype: torch.dtype, cast: bool) -> list[str]:
    """Load what fits by name; return the stored names that fit nothing."""
    model, slots = state.model, state.slots
    prefix = getattr(model, "base_model_prefix", "") or ""
    renames = list((getattr(model, "_checkpoint_conversion_mapping", None) or {}).items())
    keep = _kept_in_float32(model, dtype)
    leftover: list[str] = []
    found: dict[str, Tensor] = {}
    for stored in tensors:
        name = _model_name(stored, slots, prefix, renames)
        if name is None:
            leftover.append(stored)
            continue
        tensor, slot = tensors[stored], slots[name]
        fault = _misfit(name, stored, tensor, slot.tensor)
        if fault is not None:
            state.faults.append(fault)
        elif name in found and name != stored:
            leftover.append(stored)
        else:
            found[name] = _in_dtype(tensor, slot, dtype, cast, bool(keep and keep.search(name)))
            state.loaded[name] = stored
    if not state.faults:
        _load_state(state, found)
    return leftover


def _load_state(state: _State, found: dict[str, Tensor]) -> None:
    if _plain(state.model):
        for name, tensor in found.items():
            state.slots[name].put(tensor)
        return
    # Some module has its own idea of loading; torch's walk honours it.
    try:
        state.model.load_state_dict(found, strict=False, assign=True)
    except RuntimeError as error:
        state.faults.append(escape(str(error), 1000))
    state.slots = slots_of(state.model)


def _plain(model: nn.Module) -> bool:
    """Whether no module overrides or hooks into loading."""
    own = nn.Module._load_from_state_dict
    return not any(
        type(module)._load_from_state_dict is not own
        and not type(module).__module__.startswith("torch.nn.modules")
        or module._load_state_dict_pre_hooks
        or module._load_state_dict_post_hooks
        for module in model.modules()
    )


def _misfit(name: str, stored: str, tensor: Tensor, wanted: Tensor) -> str | None:
    where = escape(name) if name == stored else f"{escape(stored)} (for {escape(name)})"
    if tuple(tensor.shape) != tuple(wanted.shape) and not (tensor.numel() == wanted.numel() == 1):
        return f"{where}: the shape is {tuple(tensor.shape)}, the class expects {tuple(wanted.shape)}"
    if wanted.is_floating_point() and not tensor.is_floating_point():
        return f"{where}: the dtype is {tensor.dtype}, the class expects a floating one"
    return None


def _in_dtype(tensor: Tensor, slot: _Slot, dtype: torch.dtype, cast: bool, keep: bool) -> Tensor:
    """Return the tensor in the dtype it is kept in: stored or asked for, unless the class chose one itself."""
    built = slot.tensor.dtype
    if tuple(tensor.shape) != tuple(slot.tensor.shape):
        tensor = tensor.reshape(slot.tensor.shape)
    if not tensor.is_floating_point():
        return tensor if built == tensor.dtype or slot.parameter else tensor.to(built)
    if keep:
        return tensor.to(torch.float32)
    if built != dtype or cast or not slot.parameter:
        return tensor.to(built)
    return tensor


def _kept_in_float32(model: Any, dtype: torch.dtype) -> re.Pattern[str] | None:
    """Return the pattern of names that stay in float32 although the model is asked for in half precision."""
    names: list[str] = []
    if dtype == torch.float16:
        names += _patterns(model, "_keep_in_fp32_modules")
    if dtype in (torch.float16, torch.bfloat16):
        names += _patterns(model, "_keep_in_fp32_modules_strict")
    return re.compile("|".join(rf"(?:^|\.){name}(?:\.|$)" for name in sorted(set(names)))) if names else None


def _patterns(model: nn.Module, attribute: str) -> list[str]:
    """Collect a class's list of patterns over a model and the models inside it."""
    found: dict[str, None] = {}
    for module in model.modules():
        if hasattr(module, "config") and isinstance(getattr(module, attribute, None), (list, tuple, set, frozenset)):
            found.update(dict.fromkeys(sorted(getattr(module, attribute))))
    return list(found)


def _convert(state: _State, tensors: Mapping[str, Tensor], conversions: Any, dtype: torch.dtype) -> list[str]:
    """Let transformers rename, split and fuse the tensors for parts of its own."""
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig
    from transformers.utils import logging

    model = state.model
    names = {id(slot.tensor): name for name, slot in state.slots.items()}
    plan = model._get_dtype_plan(dtype) if hasattr(model, "_get_dtype_plan") else {}
    settings = LoadStateDictConfig(dtype=dtype, dtype_plan=plan, weight_mapping=conversions)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        info, _ = convert_and_load_state_dict_in_model(model, dict(tensors), settings)
    finally:
        if shown:
            logging.enable_progress_bar()
    del names
    state.slots = slots_of(model)
    state.faults += [f"{escape(str(key))}: the stored shape does not fit" for key in sorted(map(str, info.mismatched_keys))]
    state.faults += [escape(str(text), 500) for text in (*info.conversion_errors.values(), *(info.error_msgs or ()))]
    state.loaded.update({name: name for name in state.slots if name not in info.missing_keys})
    return sorted(info.unexpected_keys)


def _share(state: _State, groups: list[list[str]]) -> None:
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
                state.notes.append(f"{name} and {loaded[0]} are one tensor in the class and two in the file; kept as two")
                continue
            state.slots[name].put(source)
            state.tied[name] = loaded[0]


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


def _tie(state: _State) -> None:
    """Tie by the class's table or config, in either direction, then by its own methods; never over different stored tensors."""
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
            state.notes.append(f"{target} should be tied to {source}, but the file holds another tensor for it; kept as two")
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


def _tie_by_methods(state: _State) -> None:
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


def _initialise(state: _State, names: list[str]) -> None:
    """Run the class's own initialisation over fresh parameters, leaving their neighbours in the same module alone."""
    if not hasattr(state.model, "_init_weights"):
        return
    modules: dict[int, nn.Module] = {id(state.slots[name].module): state.slots[name].module for name in names}
    fresh = {(id(state.slots[name].module), state.slots[name].name) for name in names}
    for key, module in modules.items():
        kept = {name: tensor for name, tensor in module._parameters.items() if (key, name) not in fresh}
        copies = {name: None if tensor is None else nn.Parameter(tensor.detach().clone()) for name, tensor in kept.items()}
        module._parameters.update(copies)
        with torch.no_grad():
            state.model._init_weights(module)
        module._parameters.update(kept)


def _expected_leftovers(model: Any, slots: Mapping[str, _Slot]) -> list[str]:
    """Return the patterns of stored names that the class, or a habit of old checkpoints, leaves over."""
    patterns = _patterns(model, "_keys_to_ignore_on_load_unexpected")
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("inv_freq") for name in buffers):
        patterns.append(r"rotary\w*\.inv_freq$")
    if any(name.endswith("position_ids") for name in buffers):
        patterns.append(r"(^|\.)position_ids$")
    return patterns
