"""Which names can be files inside a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable

from uncrate.errors import CheckpointError, UsageError, escape

Progress = Callable[[str], None]
"""Told one line of text whenever a download starts."""
MAX_FILES = 20_000
"""Files that one checkpoint may have."""


def path_fault(path: str) -> str | None:
    """Say why `path` cannot be a file inside a checkpoint; None when it can."""
    if not path or len(path) > 1024:
        return "it is empty" if not path else "it is longer than 1024 characters"
    if "\0" in path or not path.isprintable():
        return "it holds control characters"
    if "\\" in path:
        return "it holds a backslash"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "it is absolute"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "it leads out of the checkpoint" if ".." in path.split("/") else "it has an empty part"
    return None


def check_path(path: str, *, what: str = "file name") -> str:
    """Return `path` when it stays inside the checkpoint; CheckpointError (UsageError for a subfolder) when not."""
    fault = path_fault(path)
    if fault is None:
        return path
    kind = UsageError if what == "subfolder" else CheckpointError
    raise kind(
        f"the {what} {escape(path)} cannot be used: {fault}",
        next="give a plain path inside the checkpoint, like sub/config.json",
    )
