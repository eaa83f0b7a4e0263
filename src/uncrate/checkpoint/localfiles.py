"""The files of a folder, read so that no link, pipe or device in it can lead or hold a reader elsewhere."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from uncrate.checkpoint.facts import FileEntry
from uncrate.checkpoint.paths import MAX_FILES, Progress, check_path, path_fault
from uncrate.checkpoint.source import LocalSource, Source
from uncrate.errors import CheckpointError, SourceError, UncrateError, escape

MAX_DEPTH = 12

# Folders that hold no part of a checkpoint: version control, caches, byte code.
_SKIPPED_FOLDERS = ("__pycache__", "node_modules")
_SHARED_BLOB = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")


class LocalFiles:
    """The files of a folder. Links are followed inside it, or into the blobs of the hub cache that it belongs to."""

    commit: str | None = None
    partial = False
    notes: tuple[str, ...] = ()

    def __init__(self, source: LocalSource, *, subfolder: str | None = None) -> None:
        self.source: Source = source
        self._where = source.text if subfolder is None else f"{source.text.rstrip('/')}/{subfolder}"
        top = _real_folder(source.folder, source.text)
        self._allowed = _allowed_roots(top)
        self._root = top if subfolder is None else _real_folder(top / subfolder, self._where)
        if not _inside(self._root, (top,)):
            raise SourceError(
                f"the subfolder {escape(str(subfolder))} is a link that leads out of the folder", where=source.text
            )
        self._entries: dict[str, FileEntry] = {}
        self._refused: dict[str, str] = {}
        self._scanned = False

    def entries(self) -> tuple[FileEntry, ...]:
        self._scan_once()
        return tuple(self._entries[path] for path in sorted(self._entries))

    def refused(self) -> Mapping[str, str]:
        self._scan_once()
        return MappingProxyType(self._refused)

    def missing(self, *paths: str) -> UncrateError:
        names = ", ".join(map(escape, paths[:8])) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
        what = f"{names} {'is' if len(paths) == 1 else 'are'} missing"
        return CheckpointError(
            what,
            where=escape(self._where),
            next="copy what is missing into the folder, or download the checkpoint again",
        )

    def read(self, path: str, limit: int) -> bytes:
        with self._open(path) as (fd, size):
            if size > limit:
                raise _too_large(self._where, path, size, limit)
            return _read_all(fd, 0, size, self._name(path))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        with self._open(path) as (fd, _):
            return _read_all(fd, start, end, self._name(path))

    def local(self, path: str) -> Path:
        with self._open(path):
            return self._resolve(path)

    def local_many(self, paths: Sequence[str], progress: Progress | None = None) -> tuple[Path, ...]:
        return tuple(self.local(path) for path in paths)

    def require(self, paths: Sequence[str]) -> None:
        """Nothing to do: the files are here."""

    def prefetch(self, paths: Sequence[str]) -> None:
        """Nothing to do: the files are here."""

    def _name(self, path: str) -> str:
        return f"{escape(self._where).rstrip('/')}/{escape(path)}"

    def _scan_once(self) -> None:
        if not self._scanned:
            self._scan("", 0)
            self._scanned = True

    def _scan(self, inside: str, depth: int) -> None:
        try:
            with os.scandir(self._root / inside) as found:
                children = sorted(found, key=lambda child: child.name)
        except OSError as error:
            raise SourceError(
                f"the folder cannot be read: {error.strerror}", where=self._name(inside).rstrip("/")
            ) from error
        for child in children:
            path = f"{inside}/{child.name}" if inside else child.name
            if child.is_dir(follow_symlinks=False):
                if depth >= MAX_DEPTH:
                    self._refused[path] = f"a folder more than {MAX_DEPTH} levels deep"
                elif not child.name.startswith(".") and child.name not in _SKIPPED_FOLDERS:
                    self._scan(path, depth + 1)
                continue
            self._add(path)
            if len(self._entries) + len(self._refused) > MAX_FILES:
                raise SourceError(
                    f"more than {MAX_FILES:,} files lie in the folder",
                    where=escape(self._where),
                    next="give the folder that holds config.json",
                )

    def _add(self, path: str) -> None:
        fault = path_fault(path)
        if fault is None:
            try:
                info = os.stat(self._resolve(path), follow_symlinks=False)
            except (OSError, CheckpointError) as error:
                fault = error.what if isinstance(error, CheckpointError) else f"it cannot be read: {error.strerror}"
            else:
                if stat.S_ISREG(info.st_mode):
                    self._entries[path] = FileEntry(path, info.st_size)
                    return
                fault = (
                    "a link to a folder"
                    if stat.S_ISDIR(info.st_mode)
                    else "not a regular file (a pipe, a socket or a device)"
                )
        self._refused[path] = fault

    def _resolve(self, path: str) -> Path:
        """Return the file's real path; CheckpointError when a link leads out of the checkpoint."""
        plain = os.path.join(self._root, path)
        if os.name == "posix" and not os.path.islink(plain) and "/" not in path:
            return Path(plain)
        real = os.path.realpath(plain)
        if not _inside(Path(real), self._allowed):
            raise CheckpointError(
                "a link that leads out of the folder",
                where=self._name(path),
                next="copy the file into the folder in place of the link",
            )
        return Path(real)

    @contextmanager
    def _open(self, path: str) -> Iterator[tuple[int, int]]:
        """Open the file without following a last link and without waiting on a pipe; yield descriptor and size."""
        check_path(path)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        flags |= getattr(os, "O_BINARY", 0)
        try:
            fd = os.open(self._resolve(path), flags)
        except FileNotFoundError:
            raise self.missing(path) from None
        except OSError as error:
            raise CheckpointError(f"cannot be opened: {error.strerror}", where=self._name(path)) from error
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise CheckpointError(
                    "not a regular file (a folder, a pipe, a socket or a device)", where=self._name(path)
                )
            yield fd, info.st_size
        finally:
            os.close(fd)


def _real_folder(folder: Path, text: str) -> Path:
    shown = escape(text)
    try:
        real = folder.resolve(strict=True)
        is_folder = real.is_dir()
    except FileNotFoundError:
        plain = text.removeprefix("./").rstrip("/")
        hint = f"; for the hub write {escape(plain)}" if text.startswith("./") and plain.count("/") == 1 else ""
        raise SourceError("there is no such folder", where=shown, next=f"check the path{hint}") from None
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError("the folder cannot be opened", where=shown, why=escape(why)) from error
    if not is_folder:
        raise SourceError(
            "not a folder", where=shown, next=f"give the folder that holds it: {escape(os.path.dirname(text) or '.')}"
        )
    return real


def _allowed_roots(root: Path) -> tuple[Path, ...]:
    """The folder, and for a snapshot of the hub cache the places where that cache keeps the bytes it links to."""
    repo = root.parent.parent
    if root.parent.name == "snapshots" and re.match(r"(models|datasets|spaces)--", repo.name):
        return (root, repo / "blobs", repo.parent / "blobs")
    return (root,)


def _inside(path: Path, roots: tuple[Path, ...]) -> bool:
    if any(path == root or path.is_relative_to(root) for root in roots[:2]):
        return True
    # The blobs that several repositories of one cache share have a name of one form; nothing else there is ours.
    return any(
        path.is_relative_to(root) and _SHARED_BLOB.fullmatch(path.relative_to(root).as_posix()) for root in roots[2:]
    )


def _too_large(where: str, path: str, size: int, limit: int) -> CheckpointError:
    return CheckpointError(
        f"the file has {size:,} bytes and at most {limit:,} are read",
        where=f"{escape(where).rstrip('/')}/{escape(path)}",
    )


def _read_all(fd: int, start: int, end: int, name: str) -> bytes:
    parts: list[bytes] = []
    place = start
    while place < end:
        if hasattr(os, "pread"):
            part = os.pread(fd, min(end - place, 1 << 30), place)
        else:
            os.lseek(fd, place, os.SEEK_SET)
            part = os.read(fd, min(end - place, 1 << 30))
        if not part:
            raise CheckpointError(
                f"the file ends at byte {place:,}, {end - place:,} bytes early",
                where=name,
                next="copy or download the file again",
            )
        parts.append(part)
        place += len(part)
    return b"".join(parts) if len(parts) != 1 else parts[0]
