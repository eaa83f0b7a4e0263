"""`uncrate plan`: what would be done, decided without torch; all problems at once."""

from __future__ import annotations

import sys

from uncrate import show
from uncrate.cli.options import (
    Adapters,
    AllowMissing,
    AllowPickle,
    AllowUnexpected,
    AsJson,
    Base,
    Device,
    Dtype,
    Route,
    Subfolder,
    Task,
    Where,
)
from uncrate.cli.output import print_document
from uncrate.open import plan
from uncrate.plan import Options


def command(
    where: Where,
    dtype: Dtype = "auto",
    device: Device = "auto",
    task: Task = "auto",
    route: Route = "auto",
    allow_missing: AllowMissing = None,
    allow_unexpected: AllowUnexpected = None,
    allow_pickle: AllowPickle = False,
    subfolder: Subfolder = None,
    base: Base = None,
    adapter: Adapters = None,
    as_json: AsJson = False,
) -> int:
    """Show how a checkpoint would be opened.

    Exit code 1 when it could not be, with every problem; 3 when its own code would run and is not approved.
    """
    options = Options(
        dtype=dtype,
        device=device,
        task=task,
        route=route,
        allow_missing=tuple(allow_missing or ()),
        allow_unexpected=tuple(allow_unexpected or ()),
        allow_pickle=allow_pickle,
        subfolder=subfolder,
        base=base,
        adapters=tuple(adapter or ()),
    )
    decided = plan(where, options)
    if as_json:
        print_document(decided.to_dict())
    else:
        print(show.sheet(decided.sheet(), stream=sys.stdout))
    if decided.problems:
        return 1
    return 0 if decided.approved else 3
