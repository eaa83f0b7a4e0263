"""Stored bytes become tensors: mapped where they can stay as they are, converted in parallel where they cannot.

A mapping is private and copy-on-write: training may write to a mapped parameter, the file never changes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from uncrate.checkpoint.manifest import TensorEntry
from uncrate.errors import MalformedWeights

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class MappedFile:
    """One weight file mapped into memory; tensors of it are views that keep the mapping alive."""

    def __init__(self, path: Path, name: str, size: int) -> None:
        self.name = name
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise MalformedWeights(
                    f"the file has {found} bytes, it had {size} when it was inspected",
                    where=name,
                    why="it changed between the plan and the load",
                    next="open it again",
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._buffer = memoryview(self._map)

    def advise(self, advice: int) -> None:
        """Tell the kernel how the mapping will be used, where it can be told."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(advice)

    def tensor(self, entry: TensorEntry) -> Tensor:
        """Return a view of one stored tensor in its stored dtype and shape."""
        dtype = TORCH_DTYPES[entry.dtype]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        flat = torch.frombuffer(self._buffer[entry.start : entry.end], dtype=torch.uint8)
        if entry.start % dtype.itemsize:  # a header of odd length leaves tensors unaligned
            flat = flat.clone()
        return flat.view(dtype).view(entry.shape)


def read_tensors(
    entries: Iterable[tuple[str, TensorEntry]],
    paths: Mapping[str, Path],
    sizes: Mapping[str, int],
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Tensor]:
    """Return the named tensors in `dtype` (None: as stored) on `device`.

    Same dtype on the CPU: views of the mapped files. Otherwise each is converted straight from the mapping into its
    final
    place, several at a time. `progress` is told the bytes done.
    """
    wanted = list(entries)
    files = {
        name: MappedFile(paths[name], name, sizes[name]) for name in dict.fromkeys(entry.file for _, entry in wanted)
    }

    def place(item: tuple[str, TensorEntry]) -> tuple[str, Tensor]:
        name, entry = item
        view = files[entry.file].tensor(entry)
        target = dtype if dtype is not None and view.is_floating_point() else view.dtype
        if device.type == "cpu" and target == view.dtype:
            result = view
        else:
            result = torch.empty(entry.shape, dtype=target, device=device)
            result.copy_(view)
        progress(entry.end - entry.start)
        return name, result

    if device.type == "cpu" and (dtype is None or all(TORCH_DTYPES[entry.dtype] == dtype for _, entry in wanted)):
        return dict(map(place, wanted))
    # copy_ lets go of the interpreter lock; one thread a core is enough to saturate memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(pool.map(place, wanted))
