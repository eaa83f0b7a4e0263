"""What old processor classes expect of `ProcessorMixin`."""

from __future__ import annotations

from uncrate.runtime.compat.hooks import Hooks


def attributes(hooks: Hooks) -> None:
    """Placeholder."""
