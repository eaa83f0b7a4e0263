"""The plain values that a manifest is made of: files, tensors, an adapter, and what points outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any


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

    @property
    def parameters(self) -> int:
        """The number of elements: the product of the shape, 1 for a scalar."""
        return prod(self.shape)


@dataclass(frozen=True)
class Weights:
    """All tensors of a checkpoint and the files that hold them; empty when it has no weights.

    `format` is "safetensors", "pickle" (listed, never read before the runtime) or "none".
    """

    format: str
    files: tuple[FileEntry, ...]
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def parameters(self) -> int:
        """Elements in all tensors together."""
        return sum(tensor.parameters for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Bytes of all tensors together; of the files where the tensors are not known (pickle)."""
        if self.tensors:
            return sum(tensor.end - tensor.start for tensor in self.tensors.values())
        return sum(file.size for file in self.files) if self.format == "pickle" else 0

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors have each dtype, most frequent first."""
        return dict(Counter(tensor.dtype for tensor in self.tensors.values()).most_common())


NO_WEIGHTS = Weights("none", (), MappingProxyType({}))


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter folder: its adapter_config.json as it stands and the base it names (None when it names none)."""

    config: Mapping[str, Any]
    base: str | None
    peft_type: str


@dataclass(frozen=True)
class Redirect:
    """Something outside the checkpoint that it points to; `moving` when no commit pins it.

    `kind` is "base", "code" or "kernel".
    """

    kind: str
    target: str
    named_by: str
    moving: bool
