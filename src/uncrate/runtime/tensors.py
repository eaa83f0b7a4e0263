"""Stored bytes become tensors: views of the mapping where they can stay as they are, one converted copy where not."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from uncrate.checkpoint.manifest import TensorEntry
from uncrate.runtime.mapping import Mapped, MappedFile, _madvise

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
ALIGNMENT = 64
HUGE_PAGE = 2 << 20


def view(file: MappedFile, entry: TensorEntry) -> Tensor:
    """Return one stored tensor in its stored dtype and shape, as a view of the mapping."""
    dtype = TORCH_DTYPES[entry.dtype]
    if entry.start == entry.end:
        return torch.empty(entry.shape, dtype=dtype)
    flat = torch.frombuffer(file.buffer[entry.start : entry.end], dtype=torch.uint8)
    if entry.start % dtype.itemsize:  # a header of odd length leaves tensors unaligned
        flat = flat.clone()
    return flat.view(dtype).view(entry.shape)


class Arena:
    """One reserved block of memory that tensors are laid out in: huge pages, no page fault for every 4 kB."""

    def __init__(self, size: int) -> None:
        self._block = torch.empty(size + HUGE_PAGE, dtype=torch.uint8)
        self._used = -self._block.data_ptr() % ALIGNMENT
        if _madvise is not None and hasattr(mmap, "MADV_HUGEPAGE"):
            start = self._block.data_ptr() + -self._block.data_ptr() % HUGE_PAGE
            length = self._block.data_ptr() + self._block.numel() - start
            # A hint: where the kernel has no huge pages nothing is lost.
            _madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the next uninitialised tensor of the block."""
        size = dtype.itemsize * torch.Size(shape).numel()
        tensor = self._block[self._used : self._used + size].view(dtype).view(shape)
        self._used += size + -size % ALIGNMENT
        return tensor


def read_tensors(
    entries: Sequence[tuple[str, TensorEntry]],
    mapped: Mapped,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Tensor]:
    """Return the named tensors on `device`, floating ones in `dtype` (None: as stored).

    On the CPU in the stored dtype they are views of the mapping. Otherwise each is converted once, straight into its
    final place, and its source pages are let go. `progress` is told the bytes done.
    """
    targets = [_target(entry, dtype) for _, entry in entries]
    converted = [
        target for (_, entry), target in zip(entries, targets, strict=True) if target != TORCH_DTYPES[entry.dtype]
    ]
    arena = Arena(_arena_size(entries, targets)) if device.type == "cpu" and converted else None
    out: dict[str, Tensor] = {}
    for (name, entry), target in zip(entries, targets, strict=True):
        file = mapped.files[entry.file]
        stored = view(file, entry)
        if device.type != "cpu":
            out[name] = stored.to(device=device, dtype=target)
        elif target == stored.dtype:
            out[name] = stored
        else:
            assert arena is not None
            out[name] = arena.take(entry.shape, target).copy_(stored)
            del stored
            file.release(entry.start, entry.end)
        progress(entry.end - entry.start)
    return out


def _target(entry: TensorEntry, dtype: torch.dtype | None) -> torch.dtype:
    stored = TORCH_DTYPES[entry.dtype]
    return dtype if dtype is not None and stored.is_floating_point else stored


def _arena_size(entries: Sequence[tuple[str, TensorEntry]], targets: Sequence[torch.dtype]) -> int:
    sizes = (
        target.itemsize * torch.Size(entry.shape).numel() + ALIGNMENT
        for (_, entry), target in zip(entries, targets, strict=True)
        if target != TORCH_DTYPES[entry.dtype]
    )
    return sum(sizes) + ALIGNMENT
