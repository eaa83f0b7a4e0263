"""LoRA on plain modules: y = W x + bias + scale * B A x, several adapters side by side, each on or off.

Axes in names: I inputs, O outputs, R rank. Source: LoRA (arXiv 2106.09685), rsLoRA (2312.03732), DoRA (2402.09353).
The weights keep their names and stay as they are: what an adapter adds is computed beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uncrate.adapters import AdapterPlan, LoraModule
from uncrate.runtime.mapping import MappedFile
from uncrate.runtime.tensors import view


@dataclass(frozen=True)
class Delta:
    """What one adapter holds for one module: a [R, I], b [O, R], perhaps bias and DoRA's magnitude [O]."""

    a: Tensor
    b: Tensor
    scale: float
    bias: Tensor | None = None
    magnitude: Tensor | None = None
    embedding: bool = False

    def to(self, device: torch.device, dtype: torch.dtype) -> Delta:
        """Return the same on `device` in `dtype`."""
        moved = {name: getattr(self, name) for name in ("a", "b", "bias", "magnitude")}
        moved = {name: None if tensor is None else tensor.to(device, dtype) for name, tensor in moved.items()}
        return Delta(moved["a"], moved["b"], self.scale, moved["bias"], moved["magnitude"], self.embedding)

    def weight(self) -> Tensor:
        """Return what is added to the module's weight: [O, I], of an embedding [words, size]."""
        product = self.b @ self.a
        return (product.T if self.embedding else product) * self.scale

    def merged(self, weight: Tensor) -> Tensor:
        """Return `weight` with the adapter in it, in the adapter's dtype."""
        summed = weight.to(self.a.dtype) + self.weight()
        if self.magnitude is None:
            return summed
        return summed * (self.magnitude / torch.linalg.norm(summed, dim=1))[:, None]

    def apply(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the module's output `y` for input `x` with the adapter's part added, in the adapter's dtype."""
        if self.embedding:
            return y + F.embedding(x, self.a.T) @ self.b.T * self.scale
        x, weight, bias = x.to(self.a.dtype), layer.weight, layer.bias
        added = F.linear(F.linear(x, self.a), self.b, self.bias) * self.scale
        if self.magnitude is None:
            return y + added
        assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
        scale = self.magnitude / torch.linalg.norm(weight.to(self.a.dtype) + self.weight(), dim=1)
        plain = y if bias is None else y - bias
        return (plain + added) * scale + (0 if bias is None else bias)


class AdaptedLinear(nn.Linear):
    """A linear layer that adapters are on: `deltas` maps an adapter's name to its part, `active` names those in use.

    It takes the parameters of the layer that it stands for, under the same names.
    """

    deltas: dict[str, Delta]
    active: tuple[str, ...]

    def forward(self, x: Tensor) -> Tensor:
        return adapted(self, x, super().forward(x))


class AdaptedEmbedding(nn.Embedding):
    """A word embedding that adapters are on; see AdaptedLinear."""

    deltas: dict[str, Delta]
    active: tuple[str, ...]

    def forward(self, x: Tensor) -> Tensor:
        return adapted(self, x, super().forward(x))


def adapted(layer: AdaptedLinear | AdaptedEmbedding, x: Tensor, y: Tensor) -> Tensor:
    """Return `y` with every active adapter's part. The sum is made in the adapters' dtype and rounded once."""
    on = [layer.deltas[name] for name in layer.active if name in layer.deltas]
    if not on:
        return y
    dtype = y.dtype
    y = y.to(on[0].a.dtype)
    for delta in on:
        y = delta.apply(layer, x, y)
    return y.to(dtype)


def wrap(model: nn.Module, name: str) -> AdaptedLinear | AdaptedEmbedding:
    """Return the module `name` ready for adapters; it is put in the place of the plain one where it is not yet."""
    module = model.get_submodule(name)
    if isinstance(module, AdaptedLinear | AdaptedEmbedding):
        return module
    made: AdaptedLinear | AdaptedEmbedding
    if type(module) is nn.Linear:
        made = AdaptedLinear.__new__(AdaptedLinear)
    else:
        assert type(module) is nn.Embedding, f"{name} is a {type(module).__name__}"
        made = AdaptedEmbedding.__new__(AdaptedEmbedding)
    # The same parameters, hooks and settings: only the class differs.
    made.__dict__.update(module.__dict__)
    made.deltas, made.active = {}, ()
    _put(model, name, made)
    return made


def unwrap(model: nn.Module, name: str) -> None:
    """Put the plain module back where no adapter is on it any more."""
    module = model.get_submodule(name)
    if not isinstance(module, AdaptedLinear | AdaptedEmbedding) or module.deltas:
        return
    kind = nn.Linear if isinstance(module, AdaptedLinear) else nn.Embedding
    plain = kind.__new__(kind)
    plain.__dict__.update({key: value for key, value in module.__dict__.items() if key not in ("deltas", "active")})
    _put(model, name, plain)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, module)


def read_deltas(plan: AdapterPlan, *, dtype: torch.dtype, device: torch.device) -> dict[str, Delta]:
    """Return each module's part of an adapter, read from its file; at least float32, as PEFT keeps them."""
    mapped = map_adapter(plan)
    wide = torch.promote_types(dtype, torch.float32)
    return {module.module: delta_of(module, mapped).to(device, wide) for module in plan.modules}


def read_replaced(plan: AdapterPlan, *, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Return the whole parameters that an adapter puts in the place of the base's."""
    mapped = map_adapter(plan)
    return {
        name: view(mapped[entry.file], entry).to(device=device, dtype=dtype, copy=True)
        for name, entry in plan.replaced.items()
    }


def map_adapter(plan: AdapterPlan) -> dict[str, MappedFile]:
    """Map an adapter's weight files; a hub's are fetched first."""
    files = plan.manifest.weights.files
    paths = plan.manifest.open().local_many([file.path for file in files])
    return {file.path: MappedFile(path, file.path, file.size) for file, path in zip(files, paths, strict=True)}


def delta_of(module: LoraModule, mapped: Mapping[str, MappedFile]) -> Delta:
    """Return one module's part as it is stored: views of the mapped file."""

    def read(entry: object) -> Tensor | None:
        return None if entry is None else view(mapped[entry.file], entry)  # type: ignore[attr-defined, arg-type]

    a, b = read(module.a), read(module.b)
    assert a is not None and b is not None
    return Delta(a, b, module.scale, read(module.bias), read(module.magnitude), module.embedding)
