"""The hub, through the real huggingface_hub client: the only file that reaches the network for a checkpoint."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub as hub
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]
from huggingface_hub.utils import tqdm as hub_tqdm  # type: ignore[attr-defined]

from uncrate import settings
from uncrate.checkpoint import huberrors
from uncrate.checkpoint.facts import FileEntry
from uncrate.checkpoint.hubcache import Listing
from uncrate.checkpoint.paths import MAX_FILES, path_fault
from uncrate.checkpoint.source import COMMIT, HubSource
from uncrate.errors import HubError, UncrateError, UsageError, escape

TIMEOUT = 10.0
"""Seconds that a request may wait for an answer."""
_PAUSES = (0.5, 1.5)
_SIDE_BY_SIDE = 8
_MAX_UNSIZED = 1000
# A server that ignores Range sends the file from its start; so much of it is read for what was asked, and no more.
_WITHOUT_RANGE = 1 << 20
_ANSWER = TypeVar("_ANSWER")


class _Silent(hub_tqdm):
    """No bar: files of a few kilobytes come many at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


class HubClient:
    """Asks the hub about one repository at one revision, with the endpoint and token that the environment names now."""

    def __init__(self, source: HubSource) -> None:
        self._source = source
        self._endpoint = _endpoint()
        self._token = settings.hub_token() if source.access.token is None else source.access.token

    def listing(self) -> Listing:
        """Resolve the revision to a commit and list its files; HubError says why that cannot be done."""
        return self._patiently(self._ask)

    def range(self, path: str, commit: str, start: int, end: int, size: int) -> bytes:
        """Return bytes [start, end) of a file of `size` bytes, and take no more of it."""
        return self._patiently(lambda: self._range(path, commit, start, end, size), path) if start < end else b""

    def download(self, path: str, commit: str, cache: Path, *, silent: bool, again: bool = False) -> Path:
        """Return the file's path in the cache folder, after downloading it; a bar on a terminal unless `silent`."""
        try:
            found = hub.hf_hub_download(
                self._source.repo,
                path,
                revision=commit,
                cache_dir=cache,
                force_download=again,
                endpoint=self._endpoint,
                token=self._token,
                etag_timeout=TIMEOUT,
                tqdm_class=_Silent if silent else None,
            )
        except (huberrors.TransportError, OSError, RuntimeError, ValueError) as error:
            raise huberrors.translate(error, self._source, path=path) from error
        return Path(found)

    def _ask(self) -> Listing:
        api = hub.HfApi(endpoint=self._endpoint, token=self._token)
        try:
            info = api.model_info(
                self._source.repo, revision=self._source.revision, files_metadata=True, timeout=TIMEOUT
            )
            commit = info.sha
            siblings = [(file.rfilename, file.size) for file in info.siblings or ()]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._nonsense(f"{type(error).__name__}: {error}") from error
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise self._nonsense(f"its commit is {escape(commit)}")
        if self._source.pinned and commit != self._source.revision:
            raise self._nonsense(f"asked for commit {self._source.revision}, it answered with {commit}")
        if len(siblings) > MAX_FILES:
            raise HubError(f"the repository has more than {MAX_FILES:,} files", where=escape(str(self._source)))
        files: list[FileEntry] = []
        unsized: list[str] = []
        for path, size in siblings:
            if not isinstance(path, str) or (size is not None and (type(size) is not int or size < 0)):
                raise self._nonsense(f"a file of it is {escape(path)} with size {escape(size)}")
            if not path_fault(path) and size is None:
                unsized.append(path)
            files.append(FileEntry(path, size or 0))
        if unsized:
            sizes = self._ask_sizes(commit, unsized)
            files = [FileEntry(file.path, sizes.get(file.path, file.size)) for file in files]
        return Listing(commit, tuple(files), whole=True)

    def _ask_sizes(self, commit: str, paths: list[str]) -> dict[str, int]:
        """Ask for the sizes one by one, where a mirror leaves them out of its list."""
        if len(paths) > _MAX_UNSIZED:
            raise self._nonsense(f"it does not say how long its {len(paths):,} files are")

        def ask(path: str) -> int:
            url = hub.hf_hub_url(self._source.repo, path, revision=commit, endpoint=self._endpoint)
            size = hub.get_hf_file_metadata(url, token=self._token, timeout=TIMEOUT).size
            if size is None:
                raise self._nonsense(f"it does not say how long {path} is")
            return size

        return dict(zip(paths, side_by_side(ask, paths), strict=True))

    def _nonsense(self, why: str) -> HubError:
        what = f"{escape(self._endpoint)} does not answer like a hub"
        return HubError(
            what, where=escape(str(self._source)), why=escape(why, 200), next="check HF_ENDPOINT and the proxy"
        )

    def _range(self, path: str, commit: str, start: int, end: int, size: int) -> bytes:
        url = hub.hf_hub_url(self._source.repo, path, revision=commit, endpoint=self._endpoint)
        headers = {
            **build_hf_headers(token=self._token),
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            hf_raise_for_status(response)
            content_range = response.headers.get("Content-Range") if response.status_code == 206 else None
            if response.status_code == 200 and end <= _WITHOUT_RANGE:
                skip = start
            elif content_range == f"bytes {start}-{end - 1}/{size}":
                skip = 0
            else:
                raise self._no_range(path, commit, response.status_code, response.headers.get("Content-Range"))
            data = bytearray()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) >= skip + end - start:
                    break
        if len(data) < skip + end - start:
            raise HubError(
                f"{escape(path)}: the hub stopped sending after {len(data):,} bytes",
                where=escape(str(self._source)),
                next="try again",
            )
        return bytes(data[skip : skip + end - start])

    def _no_range(self, path: str, commit: str, status: int, content_range: str | None) -> HubError:
        return HubError(
            f"{escape(path)}: the hub does not send the part of the file that was asked for",
            where=escape(str(self._source)),
            why=f"HTTP {status}, {escape(content_range or 'no Content-Range')}",
            next=f"run: hf download {self._source.repo} {escape(path)} --revision {commit}",
        )

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
                    raise huberrors.translate(error, self._source, path=path) from error
                time.sleep(pause)
        raise AssertionError("the last round returns or raises")


def side_by_side(ask: Callable[[str], _ANSWER], paths: Sequence[str]) -> list[_ANSWER]:
    """Ask for each path, a few at a time; the first error ends it, and so does Ctrl-C, without waiting for the rest."""
    pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="uncrate-fetch")
    try:
        return list(pool.map(ask, paths))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _endpoint() -> str:
    endpoint = settings.hub_endpoint()
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint):
        raise UsageError(f"HF_ENDPOINT is not an address: {escape(endpoint)}", next="unset it, or write https://HOST")
    return endpoint
