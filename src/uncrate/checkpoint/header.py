"""The safetensors header, read strictly: 8 bytes of length, a JSON object of tensors, then the tensors' bytes.

Rules of the format (https://github.com/huggingface/safetensors, README "Format"), each because what breaks it could be
read differently by two readers: the length is little-endian and inside the file; the header is a JSON object without
equal keys; each tensor has a known dtype, a shape and offsets that span exactly its bytes; together the tensors cover
the rest of the file with no overlap, no hole and nothing left over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

from uncrate.checkpoint.facts import TensorEntry
from uncrate.checkpoint.jsonfile import kind, parse_object, thaw
from uncrate.errors import MalformedJSON, MalformedWeights, escape

MAX_HEADER = 100_000_000
"""Bytes that a header may have: the bound of the safetensors library itself."""
MAX_NAME = 512
MAX_RANK = 64
MAX_DIM = (1 << 63) - 1
# One request over a network brings the length and, for nearly every shard in use, the whole header too.
FIRST_READ = 128 << 10

DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
        "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    }
)  # fmt: skip
"""Bits of one element of each dtype of the format."""

_LFS = b"version https://git-lfs"
_KEYS = frozenset(("dtype", "shape", "data_offsets"))

Reader = Callable[[int, int], bytes]
"""Returns bytes [start, end) of the file, exactly."""


@dataclass(frozen=True)
class Header:
    """What one safetensors file says it holds, in the order of its bytes."""

    tensors: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]


def read_header(read: Reader, file: str, size: int) -> Header:
    """Return the header of a safetensors file of `size` bytes, of which `read` reads a range.

    Raises MalformedWeights that tells every fault of the file.
    """
    first = read(0, min(size, FIRST_READ))
    lfs = lfs_fault(first, size)
    if lfs:
        raise MalformedWeights(lfs, where=escape(file), next="git lfs install && git lfs pull")
    if size < 8:
        raise MalformedWeights(f"the file has {size} bytes and a header needs 8", where=escape(file), next=_AGAIN)
    length = int.from_bytes(first[:8], "little")
    if length < 2 or length > MAX_HEADER:
        why = "it is not a safetensors file, or it is damaged"
        raise MalformedWeights(
            f"the header's length is {length:,}, and can be 2 to {MAX_HEADER:,}", where=escape(file), why=why
        )
    if 8 + length > size:
        missing = 8 + length - size
        raise MalformedWeights(
            f"the file ends inside its header, {missing:,} bytes early", where=escape(file), next=_AGAIN
        )
    data = first[8 : 8 + length] if 8 + length <= len(first) else first[8:] + read(len(first), 8 + length)
    if not data.startswith(b"{"):
        raise MalformedWeights(
            f"the header does not start with {{ but with {escape(ascii(data[:8]))}", where=escape(file)
        )
    try:
        content = parse_object(data, file, limit=MAX_HEADER)
    except MalformedJSON as error:
        raise MalformedWeights(f"the header is not strict JSON: {error.what}", where=error.where) from error
    return _read_entries(content, file, 8 + length, size)


_AGAIN = "copy or download the file again"


def lfs_fault(first: bytes, size: int) -> str | None:
    """Say that a file is a Git LFS pointer in place of the weights; None when it is not one."""
    if size > 2048 or not first.startswith(_LFS):
        return None
    found = re.search(rb"^size (\d{1,18})$", first, re.MULTILINE)
    real = f" of {int(found[1]):,} bytes" if found else ""
    return f"a Git LFS pointer, not the file{real} that it points to"


def fault_list(faults: list[str], *, what: str, shown: int = 20) -> str:
    """Return one message of all faults: the fault itself when there is one, else a list of at most `shown`."""
    if len(faults) == 1:
        return faults[0]
    lines = [f"{len(faults):,} {what}", *faults[:shown]]
    if len(faults) > shown:
        lines.append(f"... and {len(faults) - shown:,} more")
    return "\n  - ".join(lines)


def _read_entries(content: Mapping[str, Any], file: str, start: int, size: int) -> Header:
    faults: list[str] = []
    tensors: list[TensorEntry] = []
    metadata: Mapping[str, str] = MappingProxyType({})
    for name, value in content.items():
        if name == "__metadata__":
            metadata = _metadata(value, faults)
            continue
        found = _entry(name, value, file, start)
        if isinstance(found, TensorEntry):
            tensors.append(found)
        else:
            faults.append(f"tensor {escape(name)}: {found}" if name else f"a tensor without a name: {found}")
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    # Places are only compared once each is sound by itself: one bad entry would make holes of its neighbours.
    if not faults:
        _check_cover(tensors, start, size, faults)
    if faults:
        truncated = any("early" in fault for fault in faults)
        raise MalformedWeights(
            fault_list(faults, what="faults in the header"), where=escape(file), next=_AGAIN if truncated else None
        )
    return Header(tuple(tensors), metadata)


def _metadata(value: Any, faults: list[str]) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        faults.append(f"/__metadata__ must be an object, and is {kind(value)}")
        return MappingProxyType({})
    for key, text in value.items():
        if not isinstance(text, str):
            faults.append(f"/__metadata__/{escape(key)} must be text, and is {kind(text)}")
    return value


def name_fault(name: str) -> str | None:
    """Say why a tensor cannot have this name; None when it can."""
    if not name or len(name) > MAX_NAME:
        return "the name is empty" if not name else f"the name is longer than {MAX_NAME} characters"
    if not name.isascii() or not name.isprintable():
        bad = next((char for char in name if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")), None)
        if bad is not None:
            return f"the name holds a control character (U+{ord(bad):04X})"
    if "\\" in name or name.startswith("/") or ".." in name.split("/"):
        return "the name is written like a path"
    return None


def _entry(name: str, value: Any, file: str, start: int) -> TensorEntry | str:
    """Return the tensor, or what is wrong with its entry."""
    fault = name_fault(name)
    if fault:
        return fault
    if not isinstance(value, Mapping):
        return f"its entry must be an object, and is {kind(value)}"
    if value.keys() != _KEYS:
        odd = sorted(value.keys() ^ _KEYS)[0]
        return f"{escape(odd)} is missing" if odd in _KEYS else f"unknown key {escape(odd)}"
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        return f"unknown dtype {escape(thaw(dtype))}"
    if not isinstance(shape, tuple) or not all(type(dim) is int and 0 <= dim <= MAX_DIM for dim in shape):
        return f"the shape must be a list of whole numbers from 0 to 2**63 - 1, and is {escape(thaw(shape))}"
    if len(shape) > MAX_RANK:
        return f"the shape has {len(shape)} dimensions, and at most {MAX_RANK} are read"
    if (
        not isinstance(offsets, tuple)
        or len(offsets) != 2
        or not all(type(at) is int and 0 <= at <= MAX_DIM for at in offsets)
    ):
        return f"data_offsets must be two whole numbers, and are {escape(thaw(offsets))}"
    if offsets[0] > offsets[1]:
        return f"data_offsets end before they begin: {escape(thaw(offsets))}"
    bits = prod(shape) * DTYPE_BITS[dtype]
    if prod(dim for dim in shape if dim) * DTYPE_BITS[dtype] > MAX_DIM:
        return f"the shape {escape(thaw(shape))} overflows"
    if bits % 8:
        return f"{prod(shape):,} elements of {dtype} do not fill whole bytes"
    span = offsets[1] - offsets[0]
    if span != bits // 8:
        return f"{dtype} {escape(thaw(shape))} needs {bits // 8:,} bytes, and data_offsets span {span:,}"
    return TensorEntry(name, dtype, shape, file, start + offsets[0], start + offsets[1])


def _check_cover(tensors: list[TensorEntry], start: int, size: int, faults: list[str]) -> None:
    place = start
    before = ""
    for tensor in tensors:
        if tensor.start < place:
            faults.append(f"tensor {escape(tensor.name)} overlaps {escape(before)} by {place - tensor.start:,} bytes")
        elif tensor.start > place:
            faults.append(f"{tensor.start - place:,} bytes before tensor {escape(tensor.name)} belong to no tensor")
        place, before = max(place, tensor.end), tensor.name
    if place > size:
        faults.append(f"the file ends {place - size:,} bytes early: its tensors need {place:,} and it has {size:,}")
    elif place < size:
        faults.append(f"{size - place:,} bytes at the end belong to no tensor")
