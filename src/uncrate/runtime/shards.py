"""safetensors files written one tensor at a time: the header first, for every size is known, then each tensor's bytes.

Never more than one tensor is in memory. The format: https://github.com/huggingface/safetensors, README "Format".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from uncrate.checkpoint.header import DTYPE_BITS
from uncrate.checkpoint.weights import INDEX, SINGLE
from uncrate.errors import UsageError, escape
from uncrate.runtime.tensors import TORCH_DTYPES

STORED_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
Progress = Callable[[int, int, str], None]
"""Told the bytes written, the bytes in all, and the tensor that was written last."""


@dataclass(frozen=True)
class Piece:
    """One tensor to write: its name, safetensors dtype, shape, and how to get it when its turn comes.

    `done` is called once its bytes are written.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    done: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


def parse_size(text: str) -> int:
    """Return the bytes that a shard size like "5GB" or "500MiB" means. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS or float(found[1]) * _UNITS[found[2].upper()] < 1:
        raise UsageError(f"{escape(repr(text))} is not a size", next="write it like 5GB or 500MB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def cut(pieces: Sequence[Piece], limit: int) -> list[list[Piece]]:
    """Return the pieces in shards of at most `limit` bytes, in order; a piece larger than that is a shard alone."""
    shards: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        if not shards or piece.size > room:
            shards.append([])
            room = limit
        shards[-1].append(piece)
        room -= piece.size
    return shards


def write_weights(pieces: Sequence[Piece], folder: Path, *, limit: int, progress: Progress) -> list[str]:
    """Write all pieces into `folder`: model.safetensors, or numbered shards and their index. Returns the file names."""
    shards = cut(pieces, limit) or [[]]
    total = sum(piece.size for piece in pieces)
    names = [SINGLE]
    if len(shards) > 1:
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    written = 0
    for name, shard in zip(names, shards, strict=True):
        written = _write_file(folder / name, shard, written, total, progress)
    if len(shards) > 1:
        shard_of = {piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(shard_of.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        names.append(INDEX)
    return names


def _write_file(path: Path, shard: Sequence[Piece], written: int, total: int, progress: Progress) -> int:
    # Wide types first: each tensor then starts at a multiple of its own width, and can be mapped as it lies.
    ordered = sorted(shard, key=lambda piece: -DTYPE_BITS[piece.dtype])
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for piece in ordered:
        span = [place, place + piece.size]
        header[piece.name] = {"dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": span}
        place += piece.size
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    head += b" " * (-len(head) % 8)
    with path.open("xb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for piece in ordered:
            data = _bytes_of(piece)
            file.write(data)
            piece.done()
            written += piece.size
            progress(written, total, piece.name)
        file.flush()
        os.fsync(file.fileno())
    return written


def _bytes_of(piece: Piece) -> memoryview:
    tensor = piece.read().detach().to("cpu").contiguous()
    assert tuple(tensor.shape) == piece.shape and STORED_NAMES[tensor.dtype] == piece.dtype, piece.name
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
