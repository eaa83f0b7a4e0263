"""`uncrate trust`: read a checkpoint's own code, then approve exactly what was read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uncrate import settings, show
from uncrate.cli.options import AsJson, LockFile, Subfolder
from uncrate.cli.output import print_document
from uncrate.errors import NotApproved, UsageError, escape
from uncrate.trust.approve import list_approvals
from uncrate.trust.surface import pin_base, review, trust

MaybeWhere = Annotated[
    str | None, typer.Argument(metavar="WHERE", help="A folder (./x, /x) or a hub id (owner/name[@revision]).")
]
Sha = Annotated[
    str | None, typer.Option("--sha", metavar="HEX", help="How the reviewed closure's hash starts, 8 digits or more.")
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; kept in the lock.")]
Who = Annotated[str | None, typer.Option("--who", metavar="NAME", help="Who approves; your login name if left out.")]
Listed = Annotated[bool, typer.Option("--list", help="List what is approved and what is revoked.")]
Latest = Annotated[
    bool, typer.Option("--latest", help="Read code in other repositories where it is now, not where the lock pins it.")
]

Pinned = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="OWNER/NAME[@REV]", help="Pin the base of the adapter WHERE to this model's commit; no code."
    ),
]


def command(
    where: MaybeWhere = None,
    sha: Sha = None,
    note: Note = "",
    who: Who = None,
    lock: LockFile = None,
    subfolder: Subfolder = None,
    latest: Latest = False,
    base: Pinned = None,
    listed: Listed = False,
    as_json: AsJson = False,
) -> int:
    """Approve a checkpoint's own code.

    Without --sha on a terminal: shows the review and asks for the first eight digits of its hash. With --base, pins the
    model under an adapter instead.
    """
    if listed:
        return _list(lock, as_json)
    if where is None:
        raise UsageError("WHERE is missing", next="uncrate trust WHERE, or uncrate trust --list")
    if base is not None:
        if sha is not None or latest:
            raise UsageError("--base approves no code", next="leave --sha and --latest away, or approve separately")
        return _pin(where, base, who, note, lock, subfolder, as_json)
    if sha is None:
        sha = _ask(where, lock, subfolder, latest)
    approval = trust(where, sha=sha, who=who, note=note, lock=lock, subfolder=subfolder, latest=latest)
    if as_json:
        print_document({"schema": 1, **approval.to_dict()})
    else:
        print(f"approved: closure {approval.closure}")
        print(f"written to {approval.lock}; the code may now run as you")
        for line in approval.notes:
            print(f"note: {show.harmless(line)}", file=sys.stderr)
    return 0


def _ask(where: str, lock: str | None, subfolder: str | None, latest: bool) -> str:
    found = review(where, lock=lock, subfolder=subfolder, latest=latest)
    sys.stdout.write(found.to_text())
    sys.stdout.flush()
    closure = found.code.closure
    if not closure:
        raise UsageError("there is no code to approve", where=escape(where))
    if not settings.interactive():
        raise NotApproved(
            "nothing was approved",
            where=escape(where),
            why="off a terminal the reviewed hash has to be given",
            next=f"read the review above, then: uncrate trust {escape(where)} --sha {closure[:8]}",
        )
    return input("\nType the first eight digits of the closure to approve it (nothing to leave): ").strip() or _leave(
        where
    )


def _leave(where: str) -> str:
    raise NotApproved("nothing was approved", where=escape(where))


def _pin(
    where: str, base: str, who: str | None, note: str, lock: str | None, subfolder: str | None, as_json: bool
) -> int:
    pinned = pin_base(where, base, who=who, note=note, lock=lock, subfolder=subfolder)
    if as_json:
        print_document({"schema": 1, **pinned.to_dict()})
        return 0
    print(f"base: {escape(pinned.base.target)} -> {pinned.base.shown}")
    print(f"written to {pinned.lock}; no code was approved")
    for line in pinned.notes:
        print(f"note: {show.harmless(line)}", file=sys.stderr)
    return 0


def _list(lock: str | None, as_json: bool) -> int:
    held = list_approvals(lock_path=Path(lock) if lock else None)
    if as_json:
        print_document(
            {
                "schema": 1,
                "lock": str(held.path),
                "approvals": [
                    {
                        "closure": each.closure,
                        "source": each.source,
                        "who": each.who,
                        "when": each.when,
                        "note": each.note,
                        "files": [{"path": file.path, "sha256": file.sha256} for file in each.files],
                    }
                    for each in held.approvals
                ],
                "revocations": [
                    {"sha256": each.sha256, "who": each.who, "when": each.when, "note": each.note}
                    for each in held.revocations
                ],
                "bases": [dict(vars(each)) for each in held.bases],
            }
        )
        return 0
    print(f"lock  {escape(str(held.path), 400)}")
    rows = [
        ("approved", e.closure[:16], escape(e.source), escape(e.who), e.when, escape(e.note)) for e in held.approvals
    ]
    rows += [("revoked", e.sha256[:16], "", escape(e.who), e.when, escape(e.note)) for e in held.revocations]
    rows += [
        (
            "base",
            each.commit[:16],
            f"{escape(each.target)} -> {each.repo}",
            escape(each.who),
            each.when,
            escape(each.note),
        )
        for each in held.bases
    ]
    if rows:
        print(show.table(("state", "hash", "source", "who", "when", "note"), rows, stream=sys.stdout))
    else:
        print("nothing is approved")
    return 0
