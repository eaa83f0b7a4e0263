"""Approved source bytes, kept under their own hash: for the diff after a change, and for other processes to load.

    STORE/91/91c0a7e2...   the file's bytes; the name is their sha256

Nothing in it is believed: every read hashes again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from uncrate import settings
from uncrate.errors import TrustError, escape

MAX_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Store:
    """The content-addressed folder at `root`; by default the user's own (`settings.store_home()`)."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else settings.store_home()

    def path(self, sha256: str) -> Path:
        """Return where the bytes with this hash lie, or would. ValueError when it is no sha256."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a sha256: {escape(sha256)}")
        return self.root / sha256[:2] / sha256

    def get(self, sha256: str) -> bytes | None:
        """Return the bytes with this hash, None when they are not kept here.

        Raises TrustError when the file does not hold those bytes (altered, cut short, a link, not a file).
        """
        path = self.path(sha256)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(path, flags), "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _altered(path, "it is not a plain file") from None
            raise TrustError(
                "the stored code cannot be read", where=escape(str(path), 400), why=error.strerror
            ) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _altered(path, "its bytes have another hash than its name")
        return data

    def put(self, data: bytes) -> str:
        """Keep `data` and return its sha256; several processes may do so at once.

        Raises TrustError when it cannot be written (read-only home, full disk), or an altered file is in its place.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if self.get(sha256) is not None:
            return sha256
        path = self.path(sha256)
        aside: str | None = None
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # Written aside and renamed: a process that is killed midway leaves no half file under the name.
            fd, aside = tempfile.mkstemp(prefix=".new-", dir=path.parent)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            aside = None
        except OSError as error:
            raise TrustError(
                "the approved code cannot be stored",
                where=escape(str(path.parent), 400),
                why=error.strerror,
                next="set UNCRATE_HOME to a folder that can be written and has room",
            ) from error
        finally:
            if aside is not None:
                _discard(aside)
        return sha256

    def put_all(self, sources: Iterable[bytes]) -> str | None:
        """Keep all of `sources`; return None, or why they could not be kept (they are in memory all the same).

        Raises TrustError for an altered file, as `put` does: that is never a reason to go on.
        """
        for data in sources:
            try:
                self.put(data)
            except TrustError as error:
                if isinstance(error.__cause__, OSError):
                    return f"{error.what} in {error.where}: {error.why}"
                raise
        return None


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return  # it is one small hidden file; the error that is on its way up says more


def _altered(path: Path, why: str) -> TrustError:
    return TrustError(
        "the stored code was altered and is refused",
        where=escape(str(path), 400),
        why=why,
        next=f"find out who changed it, then delete {escape(str(path), 400)} and run the command again",
    )
