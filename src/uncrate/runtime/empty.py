"""Build a class that was not written for the meta device: its parameters take no memory, everything it computes is
real.

Old modelling code computes in `__init__`: inverse frequencies, masks, drop rates with `.item()`. Under a meta device
these
come back as memory that nobody wrote, and the model answers wrongly without a word. Here only parameters go to meta,
at the
moment they are registered, and whatever else `__init__` makes is what it says.
"""

from __future__ import annotations

import copy
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode

# Where a parameter on meta remembers the place at which its class made it.
NUMBER = "_uncrate_number"


class NoInitialisationOnMeta(TorchFunctionMode):
    """Skip `torch.nn.init` for tensors without memory; everything else runs.

    There is nothing to fill, and the first fill on meta would import torch._dynamo, 1.3 s.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def parameters_on_meta(keep: frozenset[int] = frozenset()) -> Iterator[None]:
    """Send each parameter that this thread registers to the meta device; one parameter under two names stays one.

    Parameters are numbered as they come; those numbered in `keep` stay real.
    """
    owner = threading.get_ident()
    numbers = itertools.count()
    moved: dict[int, tuple[weakref.ref[nn.Parameter], nn.Parameter]] = {}
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if (
            threading.get_ident() != owner
            or param is None
            or param.is_meta
            or isinstance(param, UninitializedTensorMixin)
        ):
            return
        known = moved.get(id(param))
        if known is None or known[0]() is not param:
            number = next(numbers)
            empty = param
            if number not in keep:
                empty = type(param)(torch.empty_like(param, device="meta"), requires_grad=param.requires_grad)  # type: ignore[call-arg]
                empty.__dict__.update(param.__dict__)
            empty.__dict__[NUMBER] = number
            moved[id(param)] = known = (weakref.ref(param), empty)
        module._parameters[name] = known[1]

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        with NoInitialisationOnMeta():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` the one that tensors are created in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(cls: Callable[..., nn.Module], config: Any, *, dtype: torch.dtype) -> nn.Module:
    """Return `cls(config)` in evaluation mode, parameters on meta, buffers and everything else as `__init__` made them.

    A class that computes with its parameters cannot be built so; it is built in full instead.
    """
    from uncrate.runtime.compat.model import building

    token = building.set(True)
    try:
        with default_dtype(dtype):
            model = _on_meta(cls, config)
            if model is None:
                model = cls(copy.deepcopy(config))
    finally:
        building.reset(token)
    return model.eval()


def built_values(
    cls: Callable[..., nn.Module], config: Any, model: nn.Module, names: list[str], *, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return what `__init__` puts into some parameters of a model that `build` made; only they take memory.

    A parameter may be computed and never stored (sinusoidal positions), or be the fresh head of a new task.
    """
    from uncrate.runtime.compat.model import building

    found = {name: model.get_parameter(name) for name in names}
    numbers = {name: getattr(tensor, NUMBER) for name, tensor in found.items() if tensor.is_meta}
    values: dict[str, Tensor] = {name: tensor.detach() for name, tensor in found.items() if not tensor.is_meta}
    if numbers:
        token = building.set(True)
        try:
            with default_dtype(dtype), parameters_on_meta(frozenset(numbers.values())):
                again = cls(copy.deepcopy(config))
        finally:
            building.reset(token)
        values |= {name: again.get_parameter(name).detach() for name in numbers}
    return values


def _on_meta(cls: Callable[..., nn.Module], config: Any) -> nn.Module | None:
    try:
        with parameters_on_meta():
            model = cls(copy.deepcopy(config))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        # `.item()`, `.numpy()` or a mix with real tensors: the class reads its own parameters while it is built.
        if "meta" in str(error).lower() or "same device" in str(error).lower():
            return None
        raise
    return None if any(_computed_on_meta(module) for module in model.modules()) else model


def _computed_on_meta(module: nn.Module) -> bool:
    """Whether a buffer or a plain attribute was derived from an empty parameter."""
    if any(buffer is not None and buffer.is_meta for buffer in module._buffers.values()):
        return True
    return any(isinstance(value, Tensor) and value.is_meta for value in module.__dict__.values())
