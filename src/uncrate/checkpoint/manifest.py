"""What a checkpoint holds, learned from names, headers and JSON alone: no tensor is read and no code runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from uncrate.checkpoint.source import Source


@dataclass(frozen=True)
class FileEntry:
    """One file of the checkpoint: its path inside it (posix, relative) and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class TensorEntry:
    """One stored tensor: name, safetensors dtype ("BF16"), shape, file, and absolute byte range [start, end) in it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int


@dataclass(frozen=True)
class Weights:
    """All tensors of a checkpoint and the files that hold them; empty when it has no weights.

    `format` is "safetensors", "pickle" (listed, never read before the runtime) or "none".
    """

    format: str
    files: tuple[FileEntry, ...]
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter folder: its adapter_config.json as it stands and the base it names (None when it names none)."""

    config: Mapping[str, Any]
    base: str | None
    peft_type: str


@dataclass(frozen=True)
class Redirect:
    """Something the checkpoint points to outside itself: `kind` is "base", "code" or "kernel"; `moving` when no commit pins it."""

    kind: str
    target: str
    named_by: str
    moving: bool


@dataclass(frozen=True)
class Manifest:
    """What is there.

    `config` is config.json as it stands, deeply read-only, or None when the folder has none. `json_files` holds every
    other JSON file that steers loading (generation_config.json, tokenizer_config.json, adapter_config.json, ...), parsed
    strictly. `commit` is the full commit hash of a hub source, None for a folder.
    """

    source: Source
    commit: str | None
    files: tuple[FileEntry, ...]
    config: Mapping[str, Any] | None
    json_files: Mapping[str, Mapping[str, Any]]
    weights: Weights
    adapter: Adapter | None
    redirects: tuple[Redirect, ...]
