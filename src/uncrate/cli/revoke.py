"""`uncrate revoke`: take permission back; a revocation beats every approval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uncrate.cli.options import AsJson, LockFile
from uncrate.cli.output import print_document
from uncrate.trust.approve import revoke

Sha = Annotated[
    str, typer.Argument(metavar="SHA", help="How the hash of a closure or of one file starts, 8 digits or more.")
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; kept in the lock.")]
Who = Annotated[str | None, typer.Option("--who", metavar="NAME", help="Who revokes; your login name if left out.")]


def command(sha: Sha, note: Note = "", who: Who = None, lock: LockFile = None, as_json: AsJson = False) -> int:
    """Revoke a closure, or one file in every closure."""
    full = revoke(sha, who=who, note=note, lock_path=Path(lock) if lock else None)
    if as_json:
        print_document({"schema": 1, "revoked": list(full)})
    else:
        for found in full:
            print(f"revoked: {found}")
    return 0
