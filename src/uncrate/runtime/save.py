"""An opened model written back as a checkpoint: its parameters as they are now, everything else as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from uncrate.checkpoint.manifest import CONFIG
from uncrate.checkpoint.source import LocalSource
from uncrate.errors import UsageError
from uncrate.runtime.aside import written_aside
from uncrate.runtime.rewrite import Written, copied_files, copy_files, map_files, set_dtype
from uncrate.runtime.shards import STORED_NAMES, Piece, Progress, parse_size, write_weights
from uncrate.runtime.tensors import TORCH_DTYPES, view

if TYPE_CHECKING:
    from uncrate.opened import Opened


def save(
    opened: Opened,
    folder: str | Path,
    *,
    shard_size: str = "5GB",
    force: bool = False,
    progress: Progress = lambda done, total, name: None,
) -> Written:
    """Write an opened model into the new folder `folder`, one tensor at a time; opened again it is the same.

    Parameters have their present values and dtype; stored tensors that are no parameter, config.json with keys that
    nobody knows, tokenizer and code are kept as they were. Raises UsageError for a place that is taken or while
    adapters are in use, DoesNotFit.
    """
    if opened.adapters.active:
        raise UsageError(
            f"adapters are in use ({', '.join(opened.adapters.active)}), and a checkpoint holds none",
            next="opened.adapters.disable() saves the model without them; uncrate merge ADAPTER OUT folds them in",
        )
    limit = parse_size(shard_size)
    manifest = opened.plan.manifest
    pieces = _pieces(opened)
    source = manifest.source
    sources = [source.folder] if isinstance(source, LocalSource) else []
    size = sum(piece.size for piece in pieces)
    with written_aside(Path(folder), size=size, force=force, sources=sources) as aside:
        copy_files(manifest, copied_files(manifest), aside)
        _note_dtype(opened, aside / CONFIG)
        write_weights(pieces, aside, limit=limit, progress=progress)
        there = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
    return Written(tuple(there), len(pieces), size, 0)


def _note_dtype(opened: Opened, config: Path) -> None:
    """Tell config.json the dtype where the model was converted; untouched it stays as it is, byte by byte."""
    values = opened.plan.manifest.config or {}
    said = values.get("torch_dtype", values.get("dtype"))
    if said is not None and said != opened.plan.dtype:
        set_dtype(config, opened.plan.dtype)


def _pieces(opened: Opened) -> list[Piece]:
    """Parameters in the order of the files they came from, then those that no file held."""
    stored = opened.plan.manifest.weights.tensors
    names = {item.tensor.name: item.parameter for item in opened.plan.assignments}
    mapped = map_files(opened.plan.manifest, [name for name in stored if name not in names])
    pieces = []
    for name, entry in stored.items():
        if name in names:
            pieces.append(_parameter(opened.model, names[name]))
        else:

            def read(entry=entry) -> Tensor:  # type: ignore[no-untyped-def]
                return view(mapped[entry.file], entry)

            pieces.append(Piece(name, entry.dtype, entry.shape, read))
    return pieces + [_parameter(opened.model, name) for name in opened.plan.initialised]


def _parameter(model: nn.Module, name: str) -> Piece:
    def read() -> Tensor:
        return model.get_parameter(name).detach()

    tensor = read()
    assert tensor.dtype in TORCH_DTYPES.values()
    return Piece(name, STORED_NAMES[tensor.dtype], tuple(tensor.shape), read)
