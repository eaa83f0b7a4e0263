"""`.bin` checkpoints: read by torch's weights-only unpickler, mapped where the file allows, and only where the user
said so.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from uncrate.errors import MalformedWeights, escape

MOST_ENTRIES = 200_000
MOST_PICKLE_BYTES = 64 << 20


def read_pickles(paths: Mapping[str, Path]) -> dict[str, Tensor]:
    """Return every tensor of the files, by name; a name that stands in two files is an error.

    Only tensors and plain containers can come out: `torch.load(weights_only=True)`. Raises MalformedWeights.
    """
    out: dict[str, Tensor] = {}
    for name, path in paths.items():
        for key, value in _read(name, path).items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                continue
            if key in out:
                raise MalformedWeights(f"{escape(key)} is stored twice", where=name)
            out[key] = value
    return out


def _read(name: str, path: Path) -> Mapping[object, object]:
    zipped = _check_zip(name, path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError, AssertionError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MalformedWeights(
            "the weights-only reader refuses the file",
            where=name,
            why=escape(first),
            next="ask its publisher for safetensors; a pickle that needs more than tensors is a program",
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise MalformedWeights(f"holds {type(loaded).__name__}, not tensors by name", where=name)
    return loaded


def _check_zip(name: str, path: Path) -> bool:
    """Return whether the file is torch's zip format, after bounding what reading it can cost."""
    if not zipfile.is_zipfile(path):
        return False  # the format before torch 1.6: one pickle stream, which cannot be mapped
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise MalformedWeights(f"not a readable zip file: {escape(str(error))}", where=name) from error
    if len(entries) > MOST_ENTRIES:
        raise MalformedWeights(f"{len(entries):,} entries in the zip, at most {MOST_ENTRIES:,} are read", where=name)
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise MalformedWeights(f"{escape(entry.filename)} is compressed; torch never writes that", where=name)
        if entry.filename.endswith(".pkl") and entry.file_size > MOST_PICKLE_BYTES:
            raise MalformedWeights(f"{escape(entry.filename)} has {entry.file_size:,} bytes of pickle", where=name)
    return True
