"""Small safetensors files and checkpoints, made byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1, "I8": 1, "BOOL": 1}


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file with this header (a JSON value, or bytes as they are) and these tensor bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def sound(tensors: Mapping[str, tuple[str, list[int]]], metadata: dict[str, str] | None = None) -> bytes:
    """Return a sound file of zeros that holds tensors of these dtypes and shapes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    place = 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for dim in shape:
            size *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    return safetensors(header, bytes(place))


def write(folder: Path, files: Mapping[str, bytes | str | dict[str, Any]]) -> Path:
    """Write files into the folder, dicts as JSON; return the folder."""
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps(content) if isinstance(content, dict) else content
        place.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def sharded(folder: Path, *, weight_map: Mapping[str, object] | None = None) -> Path:
    """Write a sound checkpoint of two shards: a and b in the first, c in the second."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    return write(
        folder,
        {
            "config.json": {"model_type": "chatglm"},
            first: sound({"a": ("F32", [2, 3]), "b": ("BF16", [4])}),
            second: sound({"c": ("F32", [5])}, {"format": "pt"}),
            "model.safetensors.index.json": {
                "metadata": {"total_size": 52},
                "weight_map": {"a": first, "b": first, "c": second} if weight_map is None else dict(weight_map),
            },
        },
    )
