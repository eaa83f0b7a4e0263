"""Reading a checkpoint's files, the same way for a folder and for the hub, and never outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from uncrate.checkpoint.facts import FileEntry
from uncrate.checkpoint.localfiles import LocalFiles
from uncrate.checkpoint.paths import Progress, check_path
from uncrate.checkpoint.source import HubSource, LocalSource, Source
from uncrate.errors import UncrateError

__all__ = ["Files", "Progress", "open_files"]


class Files(Protocol):
    """The files of one checkpoint at one moment: a folder, or a hub repository at one commit."""

    @property
    def source(self) -> Source:
        """The source as the user named it."""

    @property
    def commit(self) -> str | None:
        """The full commit hash that every file is read at; None for a folder."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know about how the files were reached."""

    def entries(self) -> tuple[FileEntry, ...]:
        """Every readable file, sorted by path."""

    def refused(self) -> Mapping[str, str]:
        """Path to reason, for what lies there and is no file of the checkpoint: links out of it, devices, bad names."""

    @property
    def partial(self) -> bool:
        """Whether files of the checkpoint may exist that `entries` does not list: offline, with a part in the cache."""

    def missing(self, *paths: str) -> UncrateError:
        """The error for files that the checkpoint needs and that are not there."""

    def read(self, path: str, limit: int) -> bytes:
        """The whole file; CheckpointError when it is longer than `limit` bytes."""

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of the file, exactly; CheckpointError when the file is shorter."""

    def local(self, path: str) -> Path:
        """A path on this machine that holds the file's bytes, downloaded when it must be."""

    def local_many(self, paths: Sequence[str], progress: Progress | None = None) -> tuple[Path, ...]:
        """`local` for several files."""

    def require(self, paths: Sequence[str]) -> None:
        """Raise at once, for all of them, when some can neither be read here nor fetched: offline, not in the cache."""

    def prefetch(self, paths: Sequence[str]) -> None:
        """Fetch small files side by side, so that reading them later waits for nothing."""


def open_files(
    source: Source, *, commit: str | None = None, subfolder: str | None = None, offline: bool | None = None
) -> Files:
    """Return the files of `source`: listed now, and for the hub resolved to one commit now.

    `commit` is the commit of an earlier manifest, which pins a hub source to it. `offline` reads from the cache alone;
    None means what the environment says. Raises SourceError, HubError.
    """
    inside = None if subfolder in (None, "", ".") else check_path(str(subfolder).rstrip("/"), what="subfolder")
    if isinstance(source, LocalSource):
        return LocalFiles(source, subfolder=inside)
    # The hub's client is heavy and only the hub needs it.
    from uncrate.checkpoint.hubfiles import HubFiles

    pinned = HubSource(source.repo, commit, source.access) if commit else source
    return HubFiles(source, pinned=pinned, subfolder=inside, offline=offline)
