"""uncrate.lock: what a person approved and what was revoked. TOML, made to be committed with the user's project.

It is looked for from the working directory upward, else in the user's config folder. A lock that lies inside the
checkpoint that is being opened, or beside the files of any other, is passed over: trust never comes from data.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from uncrate import settings
from uncrate.errors import NotApproved, TrustError, UsageError, escape
from uncrate.trust.lockfile import LIMIT, Approved, LockedBase, Revocation, parse_lock

if TYPE_CHECKING:
    from uncrate.checkpoint.code import Code

NAME = "uncrate.lock"


@dataclass(frozen=True)
class Approval:
    """What the lock says about one closure: `approved`, or `why` not; which files are new, which were reviewed.

    `needed` is False where there is no code at all, so that nothing has to be approved.

    `revoked` when a revocation names the closure or a file of it. `by` is the entry of the lock that approves. `notes`
    tell what else a user should know: a lock that was passed over, bytes that could not be stored.
    """

    approved: bool
    why: str
    closure: str
    revoked: bool = False
    new_files: tuple[str, ...] = ()
    known_files: tuple[str, ...] = ()
    lock: str | None = None
    by: Approved | None = None
    notes: tuple[str, ...] = ()
    needed: bool = True

    def require(self, where: str = "WHERE", code: Code | None = None) -> None:
        """Raise NotApproved unless approved or nothing needs it, with the command that shows the review.

        With `code`, also unless this approval is about exactly the bytes that `code` holds: they are hashed again.
        """
        if code is not None and (self.closure != code.closure or not code.intact()):
            raise NotApproved(
                "the code is not what was approved",
                where=escape(where),
                why=f"the approval is about {self.closure[:8]}, and the bytes at hand are not those of that closure",
                next=f"look again: uncrate inspect {escape(where)}",
            )
        if self.needed and not self.approved:
            shown = escape(where)
            raise NotApproved(
                "the checkpoint's own code is not approved",
                where=shown,
                why=self.why,
                next=f"read it (uncrate inspect {shown}), then: uncrate trust {shown} --sha {self.closure[:8]}"
                if not self.revoked
                else "do not run it; who revoked it and why: uncrate trust --list",
            )

    def to_dict(self) -> dict[str, object]:
        """Return the fields as `--json` prints them."""
        return {
            "approved": self.approved,
            "needed": self.needed,
            "why": self.why,
            "closure": self.closure,
            "revoked": self.revoked,
            "new_files": list(self.new_files),
            "known_files": list(self.known_files),
            "lock": self.lock,
            "who": self.by.who if self.by else None,
            "when": self.by.when if self.by else None,
            "note": self.by.note if self.by else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Lock:
    """The approvals of one lock file and the revocations that hold; `path` is where a new approval would be written.

    `bases` say which model adapters are opened on; they approve no code.
    """

    path: Path
    approvals: tuple[Approved, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    notes: tuple[str, ...] = ()
    bases: tuple[LockedBase, ...] = ()

    def status(self, code: Code) -> Approval:
        """Return whether `code` may run. A revocation of the closure, or of a file in it, beats every approval."""
        reviewed = {file.sha256 for approval in self.approvals for file in approval.files}
        reviewed -= {revocation.sha256 for revocation in self.revocations}
        known = tuple(file.path for file in code.files if file.sha256 in reviewed)
        new = tuple(file.path for file in code.files if file.sha256 not in reviewed)
        by = next((approval for approval in reversed(self.approvals) if approval.closure == code.closure), None)
        revocation = self._revocation(code)
        out_of_reach = [r.problem for r in code.redirects if r.kind == "code" and r.problem]
        if revocation is not None:
            approved, by = False, None
            why = f"revoked by {escape(revocation.who)} on {revocation.when}: {revocation.shown}"
        elif not code.files:
            approved, why = False, out_of_reach[0] if out_of_reach else "there is no code to approve"
        elif out_of_reach and by is None:
            approved, why = False, out_of_reach[0]
        elif by is not None:
            approved, why = True, f"approved by {escape(by.who)} on {by.when}"
        else:
            approved = False
            why = f"closure {code.closure[:8]} is not in {escape(str(self.path), 400)}"
            if known:
                why += (
                    f"; {len(new)} of {len(code.files)} files are new"
                    if new
                    else "; all its files were reviewed, their use is new"
                )
        return Approval(
            approved=approved,
            why=why,
            closure=code.closure,
            revoked=revocation is not None,
            new_files=new,
            known_files=known,
            lock=escape(str(self.path), 400),
            by=by,
            notes=self.notes,
            needed=bool(code.files or out_of_reach),
        )

    def _revocation(self, code: Code) -> Revocation | None:
        hashes = {code.closure, *(file.sha256 for file in code.files)} - {""}
        return next((revocation for revocation in self.revocations if revocation.sha256 in hashes), None)

    def pins(self, source: str | None = None) -> Mapping[str, str]:
        """Return repository to commit for code that approved checkpoints take from elsewhere; the last approval wins.

        Approvals of `source` itself come before others.
        """
        ordered = sorted(self.approvals, key=lambda approval: approval.source == source)
        return {
            redirect.target: redirect.commit
            for approval in ordered
            for redirect in approval.redirects
            if redirect.kind == "code" and redirect.commit
        }


def find_lock(*, checkpoint: Path | None = None, start: Path | None = None) -> tuple[Path | None, tuple[str, ...]]:
    """Return the lock that holds for the working directory (`start`), None without one, and notes on passed-over ones.

    `checkpoint` is the folder that is being opened. Raises TrustError for a lock that others could have written.
    """
    notes: list[str] = []
    folder = (start or Path.cwd()).resolve()
    for candidate in (*(parent / NAME for parent in (folder, *folder.parents)), settings.config_home() / NAME):
        try:
            info = candidate.stat()
        except OSError:
            continue  # not there, or not ours to look at
        if (checkpoint is not None and is_inside(candidate, checkpoint)) or _in_a_checkpoint(candidate):
            notes.append(
                f"{escape(str(candidate), 400)} is passed over: it lies inside a checkpoint, and data grants no trust"
            )
            continue
        check_owner(candidate, info)
        return candidate, tuple(notes)
    return None, tuple(notes)


def load_lock(*, checkpoint: Path | None = None, path: Path | None = None, start: Path | None = None) -> Lock:
    """Return the lock that holds, empty when there is none yet. No writes.

    `path` names a lock explicitly; it may not lie inside `checkpoint`. Revocations of the user's own lock hold in every
    project. Raises TrustError for a lock that is malformed, too large or not the user's; UsageError for a bad `path`.
    """
    notes: tuple[str, ...] = ()
    home = settings.config_home() / NAME
    found = path
    if path is None:
        found, notes = find_lock(checkpoint=checkpoint, start=start)
    elif checkpoint is not None and is_inside(path, checkpoint):
        raise UsageError(
            "the lock lies inside the checkpoint",
            where=escape(str(path), 400),
            why="trust never comes from data: who publishes the checkpoint could have written it",
            next="name a lock in your own project",
        )
    lock = read_lock(found, notes) if found is not None and found.exists() else Lock(found or home, notes=notes)
    if found is not None and home.exists() and not (found.exists() and found.samefile(home)):
        own = read_lock(home)
        lock = replace(lock, revocations=(*lock.revocations, *own.revocations))
    return lock


def read_lock(path: Path, notes: tuple[str, ...] = ()) -> Lock:
    """Return the lock at `path`, strictly read."""
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise TrustError("the lock is not a regular file", where=escape(str(path), 400))
            check_owner(path, info)
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise TrustError("the lock cannot be read", where=escape(str(path), 400), why=error.strerror) from error
    approvals, revocations, bases = parse_lock(data, escape(str(path), 400))
    return Lock(path, approvals, revocations, notes, bases)


def is_inside(path: Path, checkpoint: Path) -> bool:
    """Whether `path`, as it is spelled or where its links lead, lies in the folder `checkpoint`."""
    top = checkpoint.resolve()
    spelled = path.parent.resolve() / path.name
    return spelled.is_relative_to(top) or path.resolve().is_relative_to(top)


def _in_a_checkpoint(path: Path) -> bool:
    """Whether a lock lies beside a checkpoint's files: in a downloaded folder it came with the download.

    Else a checkpoint could approve, for whoever works in its folder, the code of another one.
    """
    folder = path.parent
    if any(folder.glob("*.safetensors")) or (folder / "adapter_config.json").exists():
        return True
    try:
        with (folder / "config.json").open("rb") as file:
            head = file.read(1 << 20)
    except OSError:
        return False
    return b'"auto_map"' in head or b'"architectures"' in head


def check_owner(path: Path, info: os.stat_result) -> None:
    """Raise TrustError for a lock that another user owns or may write: one lying in /tmp must not steer everybody."""
    if os.name != "posix":
        return
    user = os.geteuid()
    if (user != 0 and info.st_uid not in (user, 0)) or info.st_mode & stat.S_IWOTH:
        raise TrustError(
            "the lock is refused: other users can write it",
            where=escape(str(path), 400),
            why="whoever writes the lock decides which code runs as you",
            next=f"chown it to yourself, and: chmod o-w {escape(str(path), 400)}",
        )
