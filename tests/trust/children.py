"""Child processes of tests: they import this very uncrate, whatever folder they start in."""

from __future__ import annotations

import os
from pathlib import Path

import uncrate


def child_env() -> dict[str, str]:
    """Return the environment with an absolute path to the package."""
    return {**os.environ, "PYTHONPATH": str(Path(uncrate.__file__).resolve().parent.parent)}
