"""The hub, through the real huggingface_hub client: the only file that reaches the network for a checkpoint.

The revision is resolved once to a commit, and everything after is read at that commit. What the cache holds is used
without asking. Weights are only downloaded by `local` and `local_many`; their headers come by range requests.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import huggingface_hub as hub
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]
from huggingface_hub.utils import tqdm as hub_tqdm  # type: ignore[attr-defined]

from uncrate import settings
from uncrate.checkpoint import huberrors
from uncrate.checkpoint.facts import FileEntry
from uncrate.checkpoint.files import MAX_FILES, LocalFiles, Progress, check_path, path_fault
from uncrate.checkpoint.hubcache import Listing, RepoCache
from uncrate.checkpoint.source import COMMIT, HubSource, Source
from uncrate.errors import CheckpointError, DoesNotFit, HubError, SourceError, UncrateError, UsageError, escape

TIMEOUT = 10.0
"""Seconds that a request may wait for an answer."""
_PAUSES = (0.5, 1.5)
_SIDE_BY_SIDE = 8
# A server that ignores Range sends the file from its start; so much of it is read for what was asked, and no more.
_WITHOUT_RANGE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_ANSWER = TypeVar("_ANSWER")


class _Silent(hub_tqdm):
    """No bar: files of a few kilobytes come many at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


class HubFiles:
    """The files of a hub repository at one commit."""

    def __init__(self, source: HubSource, *, pinned: HubSource, subfolder: str | None, offline: bool | None) -> None:
        self.source: Source = source
        self._pinned = pinned
        self._prefix = f"{subfolder}/" if subfolder else ""
        self._offline = settings.hub_offline() if offline is None else offline
        self._endpoint = _endpoint()
        self._token = settings.hub_token()
        self._cache = RepoCache(settings.hub_cache(), source.repo)
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
        if self._path(path).exists():
            return self._cached(path).read(self._prefix + path, limit)
        size = self._size(path)
        if size > limit:
            raise CheckpointError(
                f"{escape(path)} has {size:,} bytes and at most {limit:,} are read", where=escape(str(self.source))
            )
        self._download(path, silent=True)
        return self._cached(path).read(self._prefix + path, limit)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        if self._path(path).exists():
            return self._cached(path).read_range(self._prefix + path, start, end)
        size = self._size(path)
        if not 0 <= start <= end <= size:
            raise CheckpointError(
                f"{escape(path)} has {size:,} bytes, and byte {end:,} was asked for", where=escape(str(self.source))
            )
        if self._offline:
            raise self.missing(path)
        return self._patiently(lambda: self._range(path, start, end, size), path)

    def local(self, path: str) -> Path:
        return self._download(path)

    def local_many(self, paths: Sequence[str], progress: Progress | None = None) -> tuple[Path, ...]:
        absent = [path for path in dict.fromkeys(paths) if not self._path(path).exists()]
        if absent and self._offline:
            raise self.missing(*absent)
        wanted = [(path, self._size(path)) for path in absent]
        self._check_disk(sum(size for _, size in wanted))
        for number, (path, size) in enumerate(wanted, 1):
            if progress is not None:
                progress(f"downloading {number} of {len(wanted)}: {escape(path)}, {size / 1e6:,.1f} MB")
            self._download(path)
        return tuple(self._download(path) for path in paths)

    def prefetch(self, paths: Sequence[str]) -> None:
        self._list()
        wanted = [path for path in paths if path in self._entries and not self._path(path).exists()]
        if self._offline or len(wanted) < 2:
            return
        pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="uncrate-fetch")
        try:
            list(pool.map(lambda path: self._download(path, silent=True), wanted))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

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
            return self._patiently(self._ask)
        except HubError as error:
            cause = error.__cause__
            commit = self._cache.commit(self._pinned)
            if cause is None or not huberrors.unreachable(cause) or commit is None:
                raise
            self._notes.append(f"{error.what}; this is the copy in the cache, commit {commit[:12]}")
            self._offline = True
            return self._cache.listing(commit)

    def _ask(self) -> Listing:
        api = hub.HfApi(endpoint=self._endpoint, token=self._token)
        try:
            info = api.model_info(
                self._pinned.repo, revision=self._pinned.revision, files_metadata=True, timeout=TIMEOUT
            )
            commit = info.sha
            siblings = [(file.rfilename, file.size) for file in info.siblings or ()]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._nonsense(f"{type(error).__name__}: {error}") from error
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise self._nonsense(f"its commit is {escape(commit)}")
        if self._pinned.pinned and commit != self._pinned.revision:
            raise self._nonsense(f"asked for commit {self._pinned.revision}, it answered with {commit}")
        if len(siblings) > MAX_FILES:
            raise HubError(f"the repository has more than {MAX_FILES:,} files", where=escape(str(self.source)))
        files = []
        for path, size in siblings:
            if not isinstance(path, str) or (size is not None and (type(size) is not int or size < 0)):
                raise self._nonsense(f"a file of it is {escape(path)} with size {escape(size)}")
            # Some mirrors leave the size out; -1 asks for it when the file is needed.
            files.append(FileEntry(path, -1 if size is None else size))
        return Listing(commit, tuple(files), whole=True)

    def _nonsense(self, why: str) -> HubError:
        what = f"{escape(self._endpoint)} does not answer like a hub"
        return HubError(
            what, where=escape(str(self.source)), why=escape(why, 200), next="check HF_ENDPOINT and the proxy"
        )

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
        return self._cache.listing(commit)

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
        if entry.size < 0:
            url = hub.hf_hub_url(self._pinned.repo, self._prefix + path, revision=self.commit, endpoint=self._endpoint)
            found = self._patiently(
                lambda: hub.get_hf_file_metadata(url, token=self._token, timeout=TIMEOUT), path
            ).size
            if found is None:
                raise self._nonsense(f"it does not say how long {path} is")
            entry = self._entries[path] = FileEntry(path, found)
        return entry.size

    def _path(self, path: str) -> Path:
        check_path(path)
        return self._cache.folder / "snapshots" / str(self.commit) / self._prefix / path

    def _cached(self, path: str) -> LocalFiles:
        snapshot = self._cache.snapshot(str(self.commit))
        if snapshot is None:
            raise self.missing(path)
        return snapshot

    def _download(self, path: str, *, silent: bool = False) -> Path:
        place = self._path(path)
        if place.exists():
            return place
        self._size(path)
        if self._offline:
            raise self.missing(path)
        try:
            found = hub.hf_hub_download(
                self._pinned.repo,
                self._prefix + path,
                revision=self.commit,
                cache_dir=self._cache.root,
                endpoint=self._endpoint,
                token=self._token,
                etag_timeout=TIMEOUT,
                tqdm_class=_Silent if silent else None,
            )
            self._remember()
        except (huberrors.TransportError, OSError, RuntimeError, ValueError) as error:
            raise huberrors.translate(error, self._pinned, path=path) from error
        return Path(found)

    def _remember(self) -> None:
        if not self._remembered:
            self._remembered = True
            self._cache.remember(self._pinned.revision or "main", str(self.commit))

    def _range(self, path: str, start: int, end: int, size: int) -> bytes:
        """Ask for bytes [start, end) and take exactly them."""
        if start == end:
            return b""
        url = hub.hf_hub_url(self._pinned.repo, self._prefix + path, revision=self.commit, endpoint=self._endpoint)
        headers = {
            **build_hf_headers(token=self._token),
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            hf_raise_for_status(response)
            skip = start - self._range_start(
                response.status_code, response.headers.get("Content-Range"), start, end, size, path
            )
            data = bytearray()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) >= skip + end - start:
                    break
        if len(data) < skip + end - start:
            raise HubError(
                f"{escape(path)}: the hub stopped sending after {len(data):,} bytes",
                where=escape(str(self.source)),
                next="try again",
            )
        return bytes(data[skip : skip + end - start])

    def _range_start(self, status: int, content_range: str | None, start: int, end: int, size: int, path: str) -> int:
        """Return the byte that the answer begins at; HubError when it is not what was asked for."""
        if status == 200 and end <= _WITHOUT_RANGE:
            return 0
        found = _CONTENT_RANGE.fullmatch(content_range or "") if status == 206 else None
        if found is None or (int(found[1]), int(found[3])) != (start, size) or int(found[2]) != end - 1:
            said = f"HTTP {status}, {escape(content_range or 'no Content-Range')}"
            raise HubError(
                f"{escape(path)}: the hub does not send the part of the file that was asked for",
                where=escape(str(self.source)),
                why=said,
                next=f"run: hf download {self._pinned.repo} {escape(self._prefix + path)} --revision {self.commit}",
            )
        return start

    def _patiently(self, ask: Callable[[], _ANSWER], path: str | None = None) -> _ANSWER:
        """Ask, and ask again shortly after where the hub was busy; errors come out as sentences."""
        for pause in (*_PAUSES, None):
            try:
                return ask()
            except UncrateError:
                raise
            except (huberrors.TransportError, OSError) as error:
                busy = huberrors.status_of(error) in huberrors.BUSY or "Timeout" in type(error).__name__
                if pause is None or not busy:
                    raise huberrors.translate(error, self._pinned, path=path) from error
                time.sleep(pause)
        raise AssertionError("the last round returns or raises")

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


def _endpoint() -> str:
    endpoint = settings.hub_endpoint()
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint):
        raise UsageError(f"HF_ENDPOINT is not an address: {escape(endpoint)}", next="unset it, or write https://HOST")
    return endpoint
