"""Permission by the name of a checkpoint, as users of Python and the command line ask for it: trust, verify, review."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from uncrate.checkpoint.code import Code, read_code
from uncrate.checkpoint.manifest import Manifest, read_manifest
from uncrate.checkpoint.source import HubSource, parse_source
from uncrate.errors import AdapterError, UsageError, escape
from uncrate.trust.approve import approve, lock_for, write_base
from uncrate.trust.lock import Approval, Lock
from uncrate.trust.lockfile import LockedBase
from uncrate.trust.review import Review, make_review

Where = str | os.PathLike[str]


def read_where(
    where: Where,
    *,
    lock: Where | None = None,
    subfolder: str | None = None,
    latest: bool = False,
    offline: bool | None = None,
) -> tuple[Manifest, Code, Lock]:
    """Return the manifest, the code and the lock that holds for `where`. Nothing runs and nothing is written.

    Code in other repositories is read at the commits that the lock pins; `latest` reads it where it is now.
    """
    source = parse_source(where)
    held = lock_for(source, lock_path=Path(lock) if lock is not None else None)
    manifest = read_manifest(source, subfolder=subfolder, offline=offline)
    pins = {} if latest else held.pins(str(source))
    return manifest, read_code(manifest, pins=pins, offline=offline), held


def review(where: Where, *, lock: Where | None = None, subfolder: str | None = None, latest: bool = False) -> Review:
    """Return what a person reads before approving: `.to_text()`, `.to_markdown()`, `.to_dict()`."""
    manifest, code, held = read_where(where, lock=lock, subfolder=subfolder, latest=latest)
    return make_review(code, source=str(manifest.source), commit=manifest.commit, lock=held)


def review_of(manifest: Manifest) -> Review:
    """Return the review of a checkpoint that has been looked at already; its code is read, never run."""
    held = lock_for(manifest.source)
    code = read_code(manifest, pins=held.pins(str(manifest.source)))
    return make_review(code, source=str(manifest.source), commit=manifest.commit, lock=held)


def trust(
    where: Where,
    *,
    sha: str,
    who: str | None = None,
    note: str = "",
    lock: Where | None = None,
    subfolder: str | None = None,
    latest: bool = False,
) -> Approval:
    """Approve the code of `where` that was reviewed: `sha` is how its closure's hash starts, eight digits at least.

    Writes uncrate.lock (the one that is found, or `lock`) and the store. Raises UsageError for a `sha` that is none,
    NotApproved when the code is in another state than the one reviewed, CodeError when there is none.
    """
    manifest, code, _ = read_where(where, lock=lock, subfolder=subfolder, latest=latest)
    return approve(
        code,
        sha=sha,
        source=manifest.source,
        commit=manifest.commit,
        who=who,
        note=note,
        lock_path=Path(lock) if lock is not None else None,
    )


def verify(where: Where, *, lock: Where | None = None, subfolder: str | None = None) -> Approval:
    """Return whether the code of `where` is approved, for CI: no network (a hub id is read from the cache), no writes.

    `.require()` raises NotApproved when it is not; a checkpoint without code needs no approval.
    """
    _, code, held = read_where(where, lock=lock, subfolder=subfolder, offline=True)
    return held.status(code)


@dataclass(frozen=True)
class PinnedBase:
    """What `pin_base` wrote: the entry, the lock that holds it, and what else a user should know."""

    base: LockedBase
    lock: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the fields as `--json` prints them; `code_approved` is False, always."""
        return {**vars(self.base), "lock": self.lock, "code_approved": False, "notes": list(self.notes)}


def pin_base(
    adapter: Where,
    base: str,
    *,
    who: str | None = None,
    note: str = "",
    lock: Where | None = None,
    subfolder: str | None = None,
) -> PinnedBase:
    """Write into uncrate.lock that what `adapter` names as its base is `base`, a hub id, at the commit it has now.

    The hub is asked once; from then on adapters that name this base are opened at that commit. Code of the base still
    needs an approval of its own. Raises UsageError for what is no adapter or no hub id, AdapterError for an adapter
    that names no base, HubError where there is no such model.
    """
    source, model = parse_source(adapter), parse_source(base)
    if not isinstance(model, HubSource):
        raise UsageError(
            f"{escape(base)} is a folder, and a folder has no commit to pin",
            next="name a model on the hub, or give the folder each time: --base",
        )
    lock_path = Path(lock) if lock is not None else None
    lock_for(source, lock_path=lock_path)  # a lock that is refused is refused before the hub is asked
    manifest = read_manifest(source, subfolder=subfolder)
    if manifest.adapter is None:
        raise UsageError(f"{escape(str(source))} is no adapter, so it has no base", next="name an adapter")
    if manifest.adapter.base is None:
        raise AdapterError(
            "the adapter does not name its base, so there is nothing to pin",
            where=escape(str(source), 300),
            next="name the base each time: --base MODEL",
        )
    found = read_manifest(model)
    if found.commit is None:
        raise UsageError(f"{escape(base)} has no commit to pin", next="name a model on the hub")
    entry, held = write_base(
        manifest.adapter.base,
        repo=model.repo,
        commit=found.commit,
        source=source,
        who=who,
        note=note,
        lock_path=lock_path,
    )
    return PinnedBase(entry, escape(str(held.path), 400), held.notes)
