"""Progress on stderr, and only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from uncrate import show


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show `text` with a moving mark on stderr while the block runs; nothing where stderr is no terminal."""
    if not show.is_terminal(sys.stderr):
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(show.harmless(text))):
        yield
