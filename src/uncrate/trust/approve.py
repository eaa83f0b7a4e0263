"""Giving, checking and taking back permission. No prompt: whoever calls has shown the review already."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from uncrate import settings
from uncrate.checkpoint.source import LocalSource, Source
from uncrate.errors import CodeError, NotApproved, TrustError, UsageError, escape
from uncrate.trust.lock import Approval, Lock, load_lock, read_lock
from uncrate.trust.lockfile import (
    Approved,
    LockedBase,
    LockedEntry,
    LockedFile,
    LockedRedirect,
    Revocation,
    format_lock,
)
from uncrate.trust.lockwrite import write_atomically, writing
from uncrate.trust.store import Store

if TYPE_CHECKING:
    from uncrate.checkpoint.code import Code

_PREFIX = re.compile(r"[0-9a-f]{8,64}")


def lock_for(source: Source | None = None, *, lock_path: Path | None = None) -> Lock:
    """Return the lock that holds for a checkpoint; one that came with the checkpoint never does.

    What came with it lies in its folder, or for a hub id in the hub's cache.
    """
    folder = None if source is None else source.folder if isinstance(source, LocalSource) else settings.hub_cache()
    return load_lock(checkpoint=folder, path=lock_path)


def verify(code: Code, *, source: Source | None = None, lock_path: Path | None = None) -> Approval:
    """Return whether `code` may run. Offline, and nothing is written."""
    return lock_for(source, lock_path=lock_path).status(code)


def approve(
    code: Code,
    *,
    sha: str,
    source: Source | None = None,
    commit: str | None = None,
    who: str | None = None,
    note: str = "",
    lock_path: Path | None = None,
    store: Store | None = None,
) -> Approval:
    """Approve the closure of `code` and return its new status. `sha` is how its hash starts, eight digits at least.

    The digits prove that the reviewer saw this state and no other. Writes the lock, and the bytes into the store (what
    could not be stored is a note: they were read, and run, from memory). Raises UsageError for a `sha` that is none,
    NotApproved when it is another state's or the closure is revoked, CodeError when there is nothing that could run.
    """
    wanted = checked_prefix(sha)
    if not code.files or not any(entry.problem is None for entry in code.entry_points):
        raise CodeError(
            "there is no code that could run",
            why="; ".join(code.problems[:3]) or "no JSON file of the checkpoint names any",
            next="nothing has to be approved",
        )
    if not code.closure.startswith(wanted):
        raise NotApproved(
            f"the code's hash is {code.closure[:8]}, not {wanted[:16]}",
            why="the code changed since it was reviewed, or the digits belong to another checkpoint",
            next="read what is there now with: uncrate inspect",
        )
    lock = lock_for(source, lock_path=lock_path)
    status = lock.status(code)
    if status.revoked:
        raise NotApproved(
            "the code was revoked and cannot be approved",
            where=status.lock,
            why=status.why,
            next="if that was a mistake, delete its [[revocation]] from the lock by hand",
        )
    if status.approved:
        return status
    unstored = (store or Store()).put_all(code.sources[file.path] for file in code.files)
    entry = _entry(code, str(source or ""), commit, who, note)
    with writing(lock.path):
        now = read_lock(lock.path) if lock.path.exists() else Lock(lock.path)
        if all(approval.closure != entry.closure for approval in now.approvals):
            write_atomically(lock.path, format_lock((*now.approvals, entry), now.revocations, now.bases))
    status = lock_for(source, lock_path=lock_path).status(code)
    return (
        replace(status, notes=(*status.notes, f"the approved bytes are not kept: {unstored}")) if unstored else status
    )


def write_base(
    target: str,
    *,
    repo: str,
    commit: str,
    source: Source | None = None,
    who: str | None = None,
    note: str = "",
    lock_path: Path | None = None,
) -> tuple[LockedBase, Lock]:
    """Pin what adapters call `target` to one commit of a hub id, in place of an older pin; return it and the lock.

    `source` is the adapter. No code is approved by it. A pin that says the same already stays as it is.
    """
    entry = LockedBase(target, repo, commit, who or settings.user_name(), utc_now(), note)
    path = lock_for(source, lock_path=lock_path).path
    with writing(path):
        now = read_lock(path) if path.exists() else Lock(path)
        standing = next((base for base in now.bases if base.target == target), None)
        if standing is not None and standing.shown == entry.shown:
            entry = standing
        else:
            bases = (*(base for base in now.bases if base is not standing), entry)
            write_atomically(path, format_lock(now.approvals, now.revocations, bases))
    return entry, lock_for(source, lock_path=lock_path)


def revoke(
    sha: str, *, who: str | None = None, note: str = "", lock_path: Path | None = None, code: Code | None = None
) -> tuple[str, ...]:
    """Revoke every approved closure and every approved file whose hash starts with `sha`; return their full hashes.

    A full hash of 64 digits is revoked whether anything approved it or not; a prefix may also be one of `code`.
    Raises UsageError when the prefix fits nothing, or fits several hashes.
    """
    wanted = checked_prefix(sha)
    lock = load_lock(path=lock_path)
    known = {approval.closure for approval in lock.approvals}
    known |= {file.sha256 for approval in lock.approvals for file in approval.files}
    if code is not None:
        known |= {code.closure, *(file.sha256 for file in code.files)} - {""}
    found = sorted(full for full in known if full.startswith(wanted)) or ([wanted] if len(wanted) == 64 else [])
    if len(found) != 1:
        raise UsageError(
            f"{wanted[:16]} fits {len(found)} hashes" if found else f"{wanted[:16]} fits nothing that is approved",
            where=escape(str(lock.path), 400),
            next="give more digits; all 64 revoke a hash that nothing approved" if not found else "give more digits",
        )
    with writing(lock.path):
        now = read_lock(lock.path) if lock.path.exists() else Lock(lock.path)
        standing = {revocation.sha256 for revocation in now.revocations}
        new = [Revocation(full, who or settings.user_name(), utc_now(), note) for full in found if full not in standing]
        if new:
            write_atomically(lock.path, format_lock(now.approvals, (*now.revocations, *new), now.bases))
    return tuple(found)


def approved_sources(
    closure: str, *, lock_path: Path | None = None, store: Store | None = None
) -> tuple[Approved, dict[str, bytes]]:
    """Return the approval of a closure and the bytes of its files, by path: for a process that has only the hash.

    Every byte is hashed again. Raises NotApproved when the lock does not approve the closure or revokes any of
    it, TrustError when the bytes are not kept here or were altered.
    """
    lock = load_lock(path=lock_path)
    entry = next((approval for approval in reversed(lock.approvals) if approval.closure == closure), None)
    hashes = {closure, *(file.sha256 for file in entry.files)} if entry else {closure}
    revocation = next((revocation for revocation in lock.revocations if revocation.sha256 in hashes), None)
    if entry is None or revocation is not None:
        raise NotApproved(
            f"the code {escape(closure[:8])} is not approved",
            where=escape(str(lock.path), 400),
            why=f"revoked: {revocation.shown}" if revocation else "no entry of the lock is about it",
        )
    kept = store or Store()
    sources = {file.path: kept.get(file.sha256) for file in entry.files}
    lost = sorted(path for path, data in sources.items() if data is None)
    if lost:
        raise TrustError(
            f"the approved bytes of {escape(lost[0])} are not kept on this machine",
            where=escape(str(kept.root), 400),
            next="open the checkpoint in this process, or approve it here with: uncrate trust",
        )
    return entry, {path: data for path, data in sources.items() if data is not None}


def list_approvals(*, lock_path: Path | None = None) -> Lock:
    """Return the lock that holds in the working directory, with its approvals and all revocations."""
    return load_lock(path=lock_path)


def checked_prefix(sha: str) -> str:
    """Return `sha` in lower case; UsageError unless it is 8 to 64 hexadecimal digits."""
    wanted = sha.strip().lower()
    if not _PREFIX.fullmatch(wanted):
        raise UsageError(
            f"{escape(sha)!r} is not the start of a hash",
            why="at least eight hexadecimal digits show that the reviewer saw this state",
            next="copy them from: uncrate inspect",
        )
    return wanted


def utc_now() -> str:
    """Return the time as the lock writes it: 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _entry(code: Code, source: str, commit: str | None, who: str | None, note: str) -> Approved:
    if commit and "@" not in source:
        source = f"{source}@{commit}"
    return Approved(
        closure=code.closure,
        source=source,
        who=who or settings.user_name(),
        when=utc_now(),
        note=note,
        files=tuple(
            LockedFile(file.path, file.sha256, file.origin.repo, file.origin.commit)
            if file.origin
            else LockedFile(file.path, file.sha256)
            for file in code.files
        ),
        entry_points=tuple(
            LockedEntry(e.json_file, e.pointer, e.auto_class, e.path, e.class_name) for e in code.entry_points
        ),
        redirects=tuple(
            LockedRedirect(redirect.kind, redirect.target, redirect.named_by, redirect.commit or "")
            for redirect in code.redirects
        ),
    )
