"""Replacing uncrate.lock: one writer at a time, and a reader sees the old file or the new one, never a half."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uncrate.errors import TrustError, escape

_WAIT_SECONDS = 30.0


def write_atomically(path: Path, text: str) -> None:
    """Write `text` aside, flush it to the disk and rename it over `path`: a reader sees the old file or the new one."""
    aside: str | None = None
    try:
        fd, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, path.stat().st_mode & 0o755 if path.exists() else 0o644)
        os.replace(aside, path)
        aside = None
    except OSError as error:
        raise TrustError(
            "the lock cannot be written",
            where=escape(str(path), 400),
            why=error.strerror,
            next="name a lock that can be written, with --lock",
        ) from error
    finally:
        if aside is not None and os.path.exists(aside):
            os.unlink(aside)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the right to change the lock at `path`, so that parallel writers lose nothing of each other.

    The folder itself is locked (flock), which leaves no file behind. Where flock does not exist, the last writer wins.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(path.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError as error:
        raise TrustError("the lock cannot be written", where=escape(str(path), 400), why=error.strerror) from error
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrustError(
                        "another process is writing the lock", where=escape(str(path), 400), next="try again"
                    ) from None
                time.sleep(0.02)
            except OSError:
                break  # a file system without locks: the rename is still atomic
        yield
    finally:
        os.close(fd)
