"""What the hub's client raises, as sentences with the next command."""

from __future__ import annotations

import errno
from pathlib import Path

import huggingface_hub.errors as raised

from uncrate import settings
from uncrate.checkpoint.source import HubSource
from uncrate.errors import HubError, escape

# The client's transport (httpx, by the name that its version uses) is reached through the class it derives from.
TransportError: type[BaseException] = raised.HfHubHTTPError.__bases__[0]
BUSY = frozenset((408, 429, 500, 502, 503, 504))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that the hub answered with, None when it did not answer."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def cause_of(error: BaseException) -> BaseException:
    """Return the error below the client's 'not in the cache either'."""
    if isinstance(error, raised.LocalEntryNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def unreachable(error: BaseException) -> bool:
    """Whether the hub gave no answer of its own: no network, a timeout, or a server that is down or busy."""
    error = cause_of(error)
    status = status_of(error)
    if status is not None:
        return status in BUSY
    return isinstance(error, (TransportError, raised.OfflineModeIsEnabled, raised.LocalEntryNotFoundError))


def translate(error: BaseException, source: HubSource, *, path: str | None = None) -> HubError:
    """Return the HubError that says what `error` means for the user."""
    error = cause_of(error)
    where = escape(str(source))
    page = f"{settings.hub_endpoint()}/{source.repo}"
    if isinstance(error, raised.GatedRepoError):
        return HubError(
            "access to this repository is restricted",
            where=where,
            next=f"accept its terms at {page}, then run: hf auth login",
        )
    if isinstance(error, raised.DisabledRepoError):
        return HubError("the hub has disabled this repository", where=where)
    if isinstance(error, raised.RepositoryNotFoundError):
        return _no_repository(source)
    if isinstance(error, raised.RevisionNotFoundError):
        what = f"the repository has no revision {escape(source.revision or 'main')}"
        return HubError(what, where=where, next=f"see {page}/tree/main for its branches, or leave @REVISION away")
    if isinstance(error, raised.EntryNotFoundError) and not isinstance(error, raised.LocalEntryNotFoundError):
        return HubError(f"the repository has no file {escape(path or '')}".rstrip(), where=where)
    status = status_of(error)
    if status is not None:
        return _answered(status, source, page)
    if isinstance(error, raised.OfflineModeIsEnabled):
        return HubError(
            "offline mode is on", where=where, next="unset HF_HUB_OFFLINE and UNCRATE_OFFLINE, or open a folder"
        )
    if isinstance(error, (TransportError, raised.LocalEntryNotFoundError)):
        return _no_answer(error, where)
    if isinstance(error, OSError):
        return _disk(error, where)
    return HubError(f"reading from the hub failed: {escape(str(error), 300)}", where=where, next="try again")


def _no_repository(source: HubSource) -> HubError:
    next = "check the spelling; for a private one run: hf auth login"
    if Path(source.repo).is_dir():
        next = f"for the folder of that name write ./{escape(source.repo)}"
    return HubError("the hub has no such model repository, or it is private", where=escape(str(source)), next=next)


def _answered(status: int, source: HubSource, page: str) -> HubError:
    where = escape(str(source))
    if status in (401, 403):
        why = "the token is missing, wrong or not allowed to read this repository"
        return HubError(
            f"the hub refuses access (HTTP {status})",
            where=where,
            why=why,
            next=f"run: hf auth login, and look at {page}",
        )
    if status == 404:
        return _no_repository(source)
    if status == 429:
        return HubError(
            "the hub asks to slow down (HTTP 429)",
            where=where,
            next="wait a few minutes; logging in raises the limit: hf auth login",
        )
    if status >= 500 or status == 408:
        return HubError(
            f"the hub is not working now (HTTP {status})", where=where, next="try again later, or open a folder"
        )
    return HubError(f"the hub answered HTTP {status}", where=where, next=f"look at {page}")


def _no_answer(error: BaseException, where: str) -> HubError:
    endpoint = escape(settings.hub_endpoint())
    if "Timeout" in type(error).__name__:
        what = f"{endpoint} does not answer"
    else:
        what = f"{endpoint} cannot be reached"
    why = escape(str(error), 200) or type(error).__name__
    return HubError(
        what,
        where=where,
        why=why,
        next="check the network, the proxy and HF_ENDPOINT; or set HF_HUB_OFFLINE=1 to use the cache",
    )


def _disk(error: OSError, where: str) -> HubError:
    cache = escape(str(settings.hub_cache()), 300)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(
            "the disk is full",
            where=where,
            why=f"the cache is {cache}",
            next="free space, or set HF_HUB_CACHE to another disk",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return HubError(
            f"the cache folder {cache} cannot be written",
            where=where,
            why=error.strerror,
            next="set HF_HUB_CACHE to a folder of yours",
        )
    return HubError(f"the download failed: {escape(str(error), 300)}", where=where, next="try again")
