"""Permission for a checkpoint's own code: `uncrate.trust("owner/name", sha="91c0a7e2")` approves what was reviewed.

The package itself can be called, since `uncrate.trust` names both it and the command.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uncrate.trust.lock import Approval
    from uncrate.trust.surface import Where


class _Trust(ModuleType):
    def __call__(
        self,
        where: Where,
        *,
        sha: str,
        who: str | None = None,
        note: str = "",
        lock: Where | None = None,
        subfolder: str | None = None,
        latest: bool = False,
    ) -> Approval:
        """Approve the code of `where` that was reviewed; see `uncrate.trust.surface.trust`."""
        from uncrate.trust.surface import trust

        return trust(where, sha=sha, who=who, note=note, lock=lock, subfolder=subfolder, latest=latest)


sys.modules[__name__].__class__ = _Trust
