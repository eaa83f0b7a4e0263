"""Fill a model with stored tensors: which tensor goes where, what is tied, what is missing, told by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from uncrate.errors import PlanError, escape
from uncrate.runtime.slots import Slot, State, slots_of
from uncrate.runtime.tie import share, shared_names, tie

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

    loaded: model name to stored name. tied: name to the name whose tensor it shares. buffers: persistent buffers that
    no
    file holds, kept as the class computed them. initialised: parameters that no file holds and that were allowed.
    ignored,
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

    tensors: stored name to tensor; a lazy mapping is read once for each tensor that is used. dtype: the floating dtype
    that
    the model was built in; `cast` converts parameters to it, otherwise they keep the stored one. new: name patterns
    (fnmatch) of parameters that may be missing; they are initialised. built_values: names to what `__init__` put there.
    Raises `PlanError` with every fault.
    """
    state = State(model, slots_of(model))
    shared = shared_names(state.slots)
    if conversions:
        leftover = _convert(state, tensors, conversions, dtype)
    else:
        leftover = _assign(state, tensors, dtype, cast)
    share(state, shared)
    tie(state)
    allowed = [re.compile(pattern) for pattern in _patterns(model, "_keys_to_ignore_on_load_missing")]
    missing = [name for name, slot in state.slots.items() if slot.parameter and state.absent(name)]
    fresh = [name for name in missing if any(fnmatch(name, pattern) for pattern in new)]
    computed = [name for name in missing if name not in fresh and any(pattern.search(name) for pattern in allowed)]
    known = {*fresh, *computed, *state.refused}
    state.faults += [f"{escape(name)}: no file holds it" for name in missing if name not in known]
    if state.faults:
        raise PlanError(f"the stored tensors do not fit {type(model).__name__}", state.faults)
    for name, value in (built_values([*computed, *fresh]) if missing else {}).items():
        state.slots[name].put(value)
    _initialise(state, fresh)
    buffers = tuple(name for name, slot in state.slots.items() if not slot.parameter and state.absent(name))
    expected = [re.compile(pattern) for pattern in _expected_leftovers(model, state.slots)]
    ignored = tuple(name for name in leftover if any(pattern.search(name) for pattern in expected))
    unexpected = tuple(name for name in leftover if name not in ignored)
    return Filled(
        state.loaded, state.tied, buffers, tuple(computed), tuple(fresh), ignored, unexpected, tuple(state.notes)
    )


def _model_name(stored: str, slots: Mapping[str, Slot], prefix: str, renames: Iterable[tuple[str, str]]) -> str | None:
    """Return the name in the model that a stored name stands for, or None."""
    renamed = stored
    for pattern, replacement in renames:
        renamed, count = re.subn(pattern, replacement, renamed)
        if count:
            break
    for name in dict.fromkeys((stored, renamed)):
        for spelling in (name, *(re.sub(old, new, name) for old, new in LEGACY_SPELLING)):
            for candidate in (
                spelling,
                f"{prefix}.{spelling}" if prefix else spelling,
                spelling.removeprefix(f"{prefix}."),
            ):
                if candidate in slots:
                    return candidate
    return None


def _assign(state: State, tensors: Mapping[str, Tensor], dtype: torch.dtype, cast: bool) -> list[str]:
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
            state.refused.add(name)
        elif name in found and name != stored:
            leftover.append(stored)
        else:
            found[name] = _in_dtype(tensor, slot, dtype, cast, bool(keep and keep.search(name)))
            state.loaded[name] = stored
    if not state.faults:
        _load_state(state, found)
    return leftover


def _load_state(state: State, found: dict[str, Tensor]) -> None:
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
        (type(module)._load_from_state_dict is not own and not type(module).__module__.startswith("torch.nn.modules"))
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


def _in_dtype(tensor: Tensor, slot: Slot, dtype: torch.dtype, cast: bool, keep: bool) -> Tensor:
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


def _convert(state: State, tensors: Mapping[str, Tensor], conversions: Any, dtype: torch.dtype) -> list[str]:
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
    state.faults += [
        f"{escape(str(key))}: the stored shape does not fit" for key in sorted(map(str, info.mismatched_keys))
    ]
    state.faults += [escape(str(text), 500) for text in (*info.conversion_errors.values(), *(info.error_msgs or ()))]
    state.loaded.update({name: name for name in state.slots if name not in info.missing_keys})
    return sorted(info.unexpected_keys)


def _initialise(state: State, names: list[str]) -> None:
    """Run the class's own initialisation over fresh parameters, leaving their neighbours in the same module alone."""
    if not hasattr(state.model, "_init_weights"):
        return
    modules: dict[int, nn.Module] = {id(state.slots[name].module): state.slots[name].module for name in names}
    fresh = {(id(state.slots[name].module), state.slots[name].name) for name in names}
    for key, module in modules.items():
        kept = {name: tensor for name, tensor in module._parameters.items() if (key, name) not in fresh}
        copies = {
            name: None if tensor is None else nn.Parameter(tensor.detach().clone()) for name, tensor in kept.items()
        }
        module._parameters.update(copies)
        with torch.no_grad():
            state.model._init_weights(module)
        module._parameters.update(kept)


def _expected_leftovers(model: Any, slots: Mapping[str, Slot]) -> list[str]:
    """Return the patterns of stored names that the class, or a habit of old checkpoints, leaves over."""
    patterns = _patterns(model, "_keys_to_ignore_on_load_unexpected")
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("inv_freq") for name in buffers):
        patterns.append(r"rotary\w*\.inv_freq$")
    if any(name.endswith("position_ids") for name in buffers):
        patterns.append(r"(^|\.)position_ids$")
    return patterns
