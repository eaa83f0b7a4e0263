"""Progress on stderr, and only where a person watches."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from uncrate import show


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on stderr that the block runs: a moving mark on a terminal, off it a line for each file that is fetched."""
    if not show.is_terminal(sys.stderr):
        log, handler = logging.getLogger("uncrate"), logging.StreamHandler(sys.stderr)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(show.harmless(text))):
        yield


@contextmanager
def counting(text: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function to tell bytes done, bytes in all and a name; it draws a bar on stderr where a person watches."""
    if not show.is_terminal(sys.stderr):
        yield lambda done, total, name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(show.harmless(text), total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total)
