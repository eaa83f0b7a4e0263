"""Stored bytes become tensors: views of the mapping where they can stay as they are, one converted copy where not."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

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


def reserve(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor with memory of its own, in huge pages where it is large: no page fault for every
    4 kB of it.
    """
    tensor = torch.empty(shape, dtype=dtype)
    start = tensor.data_ptr() + -tensor.data_ptr() % HUGE_PAGE
    length = tensor.data_ptr() + tensor.nbytes - start
    if length >= HUGE_PAGE and _madvise is not None and hasattr(mmap, "MADV_HUGEPAGE"):
        # A hint: where the kernel has no huge pages nothing is lost.
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(length - length % HUGE_PAGE), mmap.MADV_HUGEPAGE)
    return tensor


def read_tensors(
    entries: Sequence[tuple[str, TensorEntry]],
    mapped: Mapped,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the named tensors on `device`, floating ones in `dtype` (None: as stored).

    On the CPU in the stored dtype they are views of the mapping. Otherwise each is converted once, straight into its
    final place, and its source pages are let go.
    """
    out: dict[str, Tensor] = {}
    for name, entry in entries:
        file = mapped.files[entry.file]
        stored = view(file, entry)
        target = dtype if dtype is not None and stored.is_floating_point() else stored.dtype
        if device.type != "cpu":
            out[name] = stored.to(device=device, dtype=target)
        elif target == stored.dtype:
            out[name] = stored
        else:
            out[name] = reserve(entry.shape, target).copy_(stored)
            del stored
            file.release(entry.start, entry.end)
    return out
