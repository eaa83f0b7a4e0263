"""Weight files mapped into memory, and read ahead by the kernel while torch is still being imported. No torch here.

A mapping is private and copy-on-write: training may write to a mapped parameter, the file never changes.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uncrate.errors import MalformedWeights
from uncrate.plan import Plan

# From Linux's mman-common.h; Python's mmap module does not name it, and its madvise holds the interpreter lock.
MADV_POPULATE_READ = 22
CHUNK = 16 << 20
THREADS = 4


class MappedFile:
    """One weight file in memory. `buffer` is its bytes; views of it keep the mapping alive."""

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
        self.buffer = memoryview(self._map)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def populate(self, start: int, end: int) -> bool:
        """Bring bytes [start, end) into memory now, without the interpreter lock; False where the kernel cannot."""
        return self._advise(MADV_POPULATE_READ, start - start % mmap.PAGESIZE, end)

    def release(self, start: int, end: int) -> None:
        """Let go of the whole pages inside [start, end): they were copied and will not be read again."""
        first, last = start + -start % mmap.PAGESIZE, end - end % mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self._advise(mmap.MADV_DONTNEED, first, last)

    def _advise(self, advice: int, start: int, end: int) -> bool:
        if _madvise is None:
            return False
        return _madvise(ctypes.c_void_p(self._address + start), ctypes.c_size_t(end - start), advice) == 0


def _find_madvise() -> ctypes._NamedFuncPointer | None:
    if not hasattr(mmap, "MADV_WILLNEED") or os.uname().sysname != "Linux":
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.restype = ctypes.c_int
    return function


_madvise = _find_madvise() if os.name == "posix" else None


@dataclass(frozen=True)
class Mapped:
    """Every weight file that a plan reads, by name, being read ahead in the order in which it will be needed.

    `paths` says where the files lie; pickles are not mapped here, torch maps them itself.
    """

    paths: Mapping[str, Path]
    files: Mapping[str, MappedFile]
    _stop: threading.Event

    def stop(self) -> None:
        """End the reading ahead: what is still needed is read when it is touched."""
        self._stop.set()


def map_weights(plan: Plan) -> Mapped:
    """Map the files of a sound plan (a hub's are fetched first) and start reading them ahead in the background.

    Raises MalformedWeights where a file changed since the plan, HubError where it cannot be fetched.
    """
    sizes = {file.path: file.size for file in plan.manifest.weights.files}
    names = list(dict.fromkeys(item.tensor.file for item in plan.assignments))
    if plan.manifest.weights.format == "pickle":
        names = list(sizes)
    paths = dict(zip(names, plan.manifest.open().local_many(names, logging.getLogger("uncrate").info), strict=True))
    if plan.manifest.weights.format == "pickle":
        return Mapped(paths, {}, threading.Event())
    files = {name: MappedFile(path, name, sizes[name]) for name, path in paths.items()}
    mapped = Mapped(paths, files, threading.Event())
    _read_ahead(mapped, [(name, sizes[name]) for name in names])
    return mapped


def _read_ahead(mapped: Mapped, files: Sequence[tuple[str, int]]) -> None:
    chunks = iter([(name, start, min(start + CHUNK, size)) for name, size in files for start in range(0, size, CHUNK)])
    lock = threading.Lock()

    def work() -> None:
        while not mapped._stop.is_set():
            with lock:
                chunk = next(chunks, None)
            if chunk is None or not mapped.files[chunk[0]].populate(chunk[1], chunk[2]):
                return

    for _ in range(THREADS):
        threading.Thread(target=work, name="uncrate-read-ahead", daemon=True).start()
