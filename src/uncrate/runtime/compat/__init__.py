"""Old checkpoint code on new libraries: small named shims, seen by the checkpoint's own modules and classes alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from uncrate.runtime.compat.table import SHIMS, Shim

if TYPE_CHECKING:
    from uncrate.runtime.compat.hooks import Hooks

__all__ = ["SHIMS", "Shim", "make_hooks"]


def make_hooks(closure_hash: str, sources: Iterable[str] = (), *, shims: Iterable[Shim] = SHIMS) -> Hooks:
    """Return the hooks of one closure, whose source texts are given, with `shims` applied."""
    from uncrate.runtime.compat.hooks import Hooks

    hooks = Hooks(closure_hash, "\n".join(sources))
    for shim in shims:
        shim.apply(hooks)
    return hooks
