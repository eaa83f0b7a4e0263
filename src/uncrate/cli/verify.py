"""`uncrate verify`: may this checkpoint's code run here? For CI: no network, no writes, exit 3 when it may not."""

from __future__ import annotations

from uncrate.cli.options import AsJson, LockFile, Subfolder, Where
from uncrate.cli.output import print_document
from uncrate.errors import escape
from uncrate.trust.surface import verify


def command(where: Where, lock: LockFile = None, subfolder: Subfolder = None, as_json: AsJson = False) -> int:
    """Check that a checkpoint's own code is approved.

    Exit code 3 when it is not. Offline, and nothing is written.
    """
    approval = verify(where, lock=lock, subfolder=subfolder)
    if as_json:
        print_document({"schema": 1, **approval.to_dict()})
        return 0 if approval.approved or not approval.closure else 3
    if not approval.closure:
        print(f"{escape(where)} has no code of its own: nothing to approve")
        return 0
    approval.require(where)
    print(f"{approval.why}: closure {approval.closure}")
    return 0
