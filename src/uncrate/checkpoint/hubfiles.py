"""The files of a hub repository at one commit: from the cache where they are there, else by the hub's client.

The revision is resolved once, and everything after is read at that commit. Weights are only downloaded by `local` and
`local_many`; their headers come by range requests.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from uncrate import settings
from uncrate.checkpoint import huberrors
from uncrate.checkpoint.facts import FileEntry
from uncrate.checkpoint.fetch import HubClient, side_by_side
from uncrate.checkpoint.hubcache import Listing, RepoCache
from uncrate.checkpoint.localfiles import LocalFiles
from uncrate.checkpoint.paths import Progress, check_path, path_fault
from uncrate.checkpoint.source import HubSource, Source
from uncrate.errors import CheckpointError, DoesNotFit, HubError, SourceError, UncrateError, escape


class HubFiles:
    """The files of a hub repository at one commit."""

    def __init__(self, source: HubSource, *, pinned: HubSource, subfolder: str | None, offline: bool | None) -> None:
        self.source: Source = source
        self._pinned = pinned
        self._prefix = f"{subfolder}/" if subfolder else ""
        access = source.access
        offline = access.offline if offline is None else offline
        self._offline = settings.hub_offline() if offline is None else offline
        self._cache = RepoCache(access.cache or settings.hub_cache(), source.repo)
        # Files to be fetched again even though the cache holds them, until each has been.
        self._stale = access.refresh and not self._offline
        self._renewed: set[str] = set()
        self._client = HubClient(pinned)
        self._notes: list[str] = []
        self._remembered = pinned.pinned
        self._entries: dict[str, FileEntry] = {}
        self._refused: dict[str, str] = {}
        self._partial: bool | None = None
        # At a known commit nothing has to be asked before something is read that the cache lacks.
        self.commit: str | None = pinned.revision if pinned.pinned else self._list()

    @property
    def partial(self) -> bool:
        self._list()
        return bool(self._partial)

    @property
    def notes(self) -> tuple[str, ...]:
        self._list()
        return tuple(self._notes)

    def entries(self) -> tuple[FileEntry, ...]:
        self._list()
        return tuple(self._entries[path] for path in sorted(self._entries))

    def refused(self) -> Mapping[str, str]:
        self._list()
        return MappingProxyType(self._refused)

    def missing(self, *paths: str) -> UncrateError:
        names = ", ".join(map(escape, paths[:8])) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
        be = "is" if len(paths) == 1 else "are"
        where = escape(str(self.source))
        if self.partial or self._offline:
            files = " ".join(escape(self._prefix + path) for path in paths[:8]) if len(paths) <= 8 else ""
            next = f"with a network, run: hf download {self._pinned.repo} --revision {self.commit} {files}".rstrip()
            return HubError(f"{names} {be} not in the cache, and the hub is not asked", where=where, next=next)
        return CheckpointError(f"{names} {be} not in the repository at commit {self.commit}", where=where)

    def read(self, path: str, limit: int) -> bytes:
        if self._here(path):
            return self._cached(path).read(self._prefix + path, limit)
        size = self._size(path)
        if size > limit:
            raise CheckpointError(
                f"{escape(path)} has {size:,} bytes and at most {limit:,} are read", where=escape(str(self.source))
            )
        self._download(path, silent=True)
        return self._cached(path).read(self._prefix + path, limit)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        if self._here(path):
            return self._cached(path).read_range(self._prefix + path, start, end)
        size = self._size(path)
        if not 0 <= start <= end <= size:
            raise CheckpointError(
                f"{escape(path)} has {size:,} bytes, and byte {end:,} was asked for", where=escape(str(self.source))
            )
        if self._offline:
            raise self.missing(path)
        return self._client.range(self._prefix + path, str(self.commit), start, end, size)

    def local(self, path: str) -> Path:
        return self._download(path)

    def local_many(self, paths: Sequence[str], progress: Progress | None = None) -> tuple[Path, ...]:
        self.require(paths)
        wanted = [(path, self._size(path)) for path in dict.fromkeys(paths) if not self._here(path)]
        self._check_disk(sum(size for _, size in wanted))
        for number, (path, size) in enumerate(wanted, 1):
            if progress is not None:
                progress(f"downloading {number} of {len(wanted)}: {escape(path)}, {size / 1e6:,.1f} MB")
            self._download(path)
        return tuple(self._download(path) for path in paths)

    def require(self, paths: Sequence[str]) -> None:
        if self._offline:
            absent = [path for path in dict.fromkeys(paths) if not self._path(path).exists()]
            if absent:
                raise self.missing(*absent)

    def prefetch(self, paths: Sequence[str]) -> None:
        self._list()
        wanted = [path for path in paths if path in self._entries and not self._here(path)]
        if self._offline or len(wanted) < 2:
            return
        side_by_side(lambda path: self._download(path, silent=True), wanted)

    def _list(self) -> str:
        """Learn commit and files, once: from the hub, or offline from the cache."""
        if self._partial is None:
            listing = self._cached_listing() if self._offline else self._resolve()
            self._take(listing)
            self._partial = not listing.whole
            self.commit = listing.commit
        return str(self.commit)

    def _resolve(self) -> Listing:
        try:
            return self._client.listing()
        except HubError as error:
            cause = error.__cause__
            commit = self._cache.commit(self._pinned)
            if cause is None or not huberrors.unreachable(cause) or commit is None:
                raise
            self._notes.append(f"{error.what}; this is the copy in the cache, commit {commit[:12]}")
            self._offline = True
            return self._cache.listing(commit)

    def _cached_listing(self) -> Listing:
        commit = self._cache.commit(self._pinned)
        if commit is None:
            revision = f" --revision {escape(self._pinned.revision)}" if self._pinned.revision else ""
            raise HubError(
                "not in the cache, and offline mode is on",
                where=escape(str(self.source)),
                why=f"the cache is {escape(str(self._cache.root), 300)}",
                next=f"with a network, run: hf download {self._pinned.repo}{revision}",
            )
        listing = self._cache.listing(commit)
        if not listing.whole:
            self._notes.append("offline: only the files that the cache holds are known")
        return listing

    def _take(self, listing: Listing) -> None:
        for file in listing.files:
            if not file.path.startswith(self._prefix):
                continue
            path = file.path[len(self._prefix) :]
            fault = path_fault(path)
            if fault:
                self._refused[path] = fault
            elif not any(part.startswith(".") for part in path.split("/")[:-1]):
                self._entries[path] = FileEntry(path, file.size)
        if self._prefix and not self._entries:
            raise SourceError(
                f"the repository has no folder {escape(self._prefix.rstrip('/'))}", where=escape(str(self.source))
            )

    def _size(self, path: str) -> int:
        self._list()
        entry = self._entries.get(check_path(path))
        if entry is None:
            raise self.missing(path)
        return entry.size

    def _path(self, path: str) -> Path:
        check_path(path)
        return self._cache.folder / "snapshots" / str(self.commit) / self._prefix / path

    def _here(self, path: str) -> bool:
        return self._path(path).exists() and (not self._stale or path in self._renewed)

    def _cached(self, path: str) -> LocalFiles:
        snapshot = self._cache.snapshot(str(self.commit))
        if snapshot is None:
            raise self.missing(path)
        return snapshot

    def _download(self, path: str, *, silent: bool = False) -> Path:
        if self._here(path):
            return self._path(path)
        self._size(path)
        if self._offline:
            raise self.missing(path)
        found = self._client.download(
            self._prefix + path, str(self.commit), self._cache.root, silent=silent, again=self._stale
        )
        self._renewed.add(path)
        self._remember()
        return found

    def _remember(self) -> None:
        if not self._remembered:
            self._remembered = True
            try:
                self._cache.remember(self._pinned.revision or "main", str(self.commit))
            except OSError as error:
                raise huberrors.translate(error, self._pinned) from error

    def _check_disk(self, need: int) -> None:
        folder = self._cache.root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if need > free:
            raise DoesNotFit(
                f"{need / 1e9:,.1f} GB are to be downloaded and {free / 1e9:,.1f} GB are free",
                where=escape(str(self._cache.root), 300),
                next="free space, or set HF_HUB_CACHE to another disk",
            )
