"""A checkpoint written anew from a plan, tensor by tensor: adapters folded in, dtype changed, files beside it kept.

Only one tensor is in memory at a time; no model is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uncrate.checkpoint.facts import TensorEntry
from uncrate.checkpoint.jsonfile import CONFIG_LIMIT, thaw
from uncrate.checkpoint.manifest import CONFIG, Manifest
from uncrate.checkpoint.source import LocalSource
from uncrate.errors import CheckpointError, UsageError, escape
from uncrate.plan import FLOATS, Plan
from uncrate.runtime.aside import written_aside
from uncrate.runtime.lora import Delta, delta_of, map_adapter
from uncrate.runtime.mapping import MappedFile
from uncrate.runtime.shards import Piece, Progress, parse_size, write_weights
from uncrate.runtime.tensors import TORCH_DTYPES, view

STORED = {torch_name: name for name, torch_name in FLOATS.items()}
# What is not copied: weights (they are written anew) and formats of other libraries.
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz", ".index.json",
)  # fmt: skip
_ADAPTER = "adapter_config.json"
_COPY_LIMIT = 1 << 30


@dataclass(frozen=True)
class Written:
    """What was written: weight files and others, tensors, bytes of weights, and how many tensors adapters changed."""

    files: tuple[str, ...]
    tensors: int
    bytes: int
    changed: int


def rewrite(
    plan: Plan,
    out: Path,
    *,
    dtype: str = "auto",
    shard_size: str = "5GB",
    force: bool = False,
    finish: Callable[[Path], None] = lambda folder: None,
    skip: Callable[[str], bool] = lambda path: False,
    progress: Progress = lambda done, total, name: None,
) -> Written:
    """Write the plan's model into the new folder `out`, its adapters folded into its weights.

    dtype: "auto" keeps every tensor's own. `skip` names files that are not copied; `finish` adds files of its own to
    the folder before it is moved into place. Every stored tensor is kept, those that no parameter needs as well. Raises
    UsageError for a place that is taken, DoesNotFit, and what reading raises.
    """
    limit = parse_size(shard_size)
    manifest = plan.manifest
    mapped = map_files(manifest, manifest.weights.tensors)
    pieces, changed = _pieces(plan, mapped, dtype)
    copied = [path for path in copied_files(manifest) if not skip(path)]
    size = sum(piece.size for piece in pieces)
    read = [item.source for item in (manifest, *(adapter.manifest for adapter in plan.adapters))]
    sources = [source.folder for source in read if isinstance(source, LocalSource)]
    with written_aside(out, size=size, force=force, sources=sources) as folder:
        copy_files(manifest, copied, folder)
        if dtype != "auto":
            set_dtype(folder / CONFIG, dtype)
        names = write_weights(pieces, folder, limit=limit, progress=progress)
        finish(folder)
        there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert set(names) <= set(there)
    return Written(tuple(there), len(pieces), size, changed)


def map_files(manifest: Manifest, names: Iterable[str]) -> dict[str, MappedFile]:
    """Map the weight files that hold these stored tensors; a hub's are fetched first."""
    wanted = {manifest.weights.tensors[name].file for name in names}
    files = [file for file in manifest.weights.files if file.path in wanted]
    paths = manifest.open().local_many([file.path for file in files])
    return {file.path: MappedFile(path, file.path, file.size) for file, path in zip(files, paths, strict=True)}


def copied_files(manifest: Manifest) -> list[str]:
    """The files of a checkpoint that are kept as they are when its weights are written anew."""
    return [file.path for file in manifest.files if not file.path.endswith(_WEIGHTS) and file.path != _ADAPTER]


def copy_files(manifest: Manifest, paths: Sequence[str], folder: Path) -> None:
    """Copy files of a checkpoint as they are, byte by byte."""
    files = manifest.open()
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files.read(path, _COPY_LIMIT))


def set_dtype(config: Path, dtype: str) -> None:
    """Write the new dtype into config.json, under the key that it has; every other key stays as it was."""
    values = json.loads(config.read_bytes()[:CONFIG_LIMIT])
    values["dtype" if "dtype" in values and "torch_dtype" not in values else "torch_dtype"] = dtype
    write_json(config, values)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file as the hub's own tools do: two blanks a level, keys in their order, a line end."""
    path.write_text(json.dumps(thaw(values), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _pieces(plan: Plan, mapped: Mapping[str, MappedFile], dtype: str) -> tuple[list[Piece], int]:
    """One piece for every stored tensor, in the files' order, with what adapters do to it."""
    if dtype != "auto" and dtype not in STORED:
        raise UsageError(f"dtype {escape(repr(dtype))} is not known; choose from auto, {', '.join(STORED)}")
    changes = _changes(plan)
    changed = len(changes)
    parameters = {item.parameter for item in plan.assignments}
    pieces = []
    for entry in plan.manifest.weights.tensors.values():
        is_parameter = entry.name in parameters
        stored = STORED[dtype] if dtype != "auto" and is_parameter else entry.dtype
        if stored not in TORCH_DTYPES or entry.dtype not in TORCH_DTYPES:
            raise CheckpointError(f"tensors of type {escape(entry.dtype)} cannot be written", where=escape(entry.name))
        change = changes.pop(entry.name, None) if is_parameter else None
        pieces.append(_piece(entry, mapped[entry.file], stored, change))
    if changes:
        names = ", ".join(sorted(changes)[:5])
        raise UsageError(
            f"the adapter cannot be merged: the base stores no {escape(names, 400)}",
            next="open it beside its base: uncrate chat ADAPTER",
        )
    return pieces, changed


Change = Callable[[Tensor], Tensor]


def _piece(entry: TensorEntry, file: MappedFile, stored: str, change: Change | None) -> Piece:
    def read() -> Tensor:
        tensor = view(file, entry)
        if change is not None:
            tensor = change(tensor)
        return tensor.to(TORCH_DTYPES[stored])

    return Piece(entry.name, stored, entry.shape, read, lambda: file.release(entry.start, entry.end))


def _changes(plan: Plan) -> dict[str, Change]:
    """What the adapters do to each parameter, one after the other: replaced as a whole, or a product added."""
    changes: dict[str, Change] = {}

    def add(name: str, step: Change) -> None:
        before = changes.get(name, lambda tensor: tensor)
        changes[name] = lambda tensor: step(before(tensor))

    for adapter in plan.adapters:
        mapped = map_adapter(adapter)
        for name, entry in adapter.replaced.items():
            add(name, lambda _, file=mapped[entry.file], entry=entry: view(file, entry))  # type: ignore[misc]
    for adapter in plan.adapters:
        mapped = map_adapter(adapter)
        for module in adapter.modules:
            delta = delta_of(module, mapped)
            add(f"{module.module}.weight", lambda tensor, delta=delta: _fold(tensor, delta))  # type: ignore[misc]
            if delta.bias is not None:
                add(f"{module.module}.bias", lambda tensor, delta=delta: _fold_bias(tensor, delta))  # type: ignore[misc]
    return changes


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _fold(weight: Tensor, delta: Delta) -> Tensor:
    return delta.to(weight.device, _wide(weight)).merged(weight.to(_wide(weight)))


def _fold_bias(bias: Tensor, delta: Delta) -> Tensor:
    assert delta.bias is not None
    return bias.to(_wide(bias)) + delta.bias.to(_wide(bias)) * delta.scale
