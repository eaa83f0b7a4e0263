"""Text for people: sheets of labels and values, sizes, seconds, colours, and what a terminal must not be sent."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence
from io import StringIO
from typing import TextIO

from uncrate import settings
from uncrate.errors import escape

BOLD, DIM, RED, GREEN, CYAN = "1", "2", "31", "32", "36"
_NARROWEST = 40
_LONGEST_LINE = 1_000_000


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` is a terminal; a closed or replaced stream is none."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def colours(stream: TextIO) -> bool:
    """Whether ANSI colours may be written to `stream`: a terminal that takes them, and no `NO_COLOR`."""
    return is_terminal(stream) and settings.colour_wanted()


def paint(text: str, style: str, on: bool) -> str:
    """Return `text` in an ANSI `style` (BOLD, RED, ...), or as it is where colours are off."""
    return f"\033[{style}m{text}\033[0m" if on and text else text


def columns(stream: TextIO) -> int | None:
    """The width to wrap at: the terminal's, None where `stream` is none, so that every row stays one line for grep."""
    return max(shutil.get_terminal_size().columns, _NARROWEST) if is_terminal(stream) else None


def width(text: str) -> int:
    """The columns that `text` takes on a terminal: Chinese characters take two, combining marks none."""
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def sheet(rows: Sequence[tuple[str, str]], *, stream: TextIO) -> str:
    """Return label and value rows as aligned lines for `stream`, wrapped and coloured only where it is a terminal.

    A label that repeats the one above is left blank there; the label "problem" is red.
    """
    on, limit = colours(stream), columns(stream)
    indent = max((width(label) for label, _ in rows), default=0) + 2
    lines = []
    above = None
    for label, value in rows:
        shown = "" if limit is not None and label == above else label
        above = label
        head = paint(shown, RED if label == "problem" else CYAN, on) + " " * (indent - width(shown))
        parts = wrap(value, None if limit is None else max(limit - indent, _NARROWEST // 2))
        lines.append(head + parts[0])
        lines += [" " * indent + part for part in parts[1:]]
    return "\n".join(line.rstrip() for line in lines)


def plain_sheet(rows: Sequence[tuple[str, str]]) -> str:
    """Return label and value rows as aligned lines without colours, a line a row."""
    return sheet(rows, stream=StringIO())


def wrap(text: str, limit: int | None) -> list[str]:
    """Return `text` in lines of at most `limit` columns, broken at spaces where there are any; None never breaks."""
    lines = []
    for paragraph in text.split("\n"):
        rest = paragraph
        while limit is not None and width(rest) > limit:
            cut = _cut_at(rest, limit)
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        lines.append(rest)
    return lines


def _cut_at(text: str, limit: int) -> int:
    """Where to break a text that is too wide: after the last space that fits, else between two characters."""
    used = 0
    space = 0
    for index, char in enumerate(text):
        used += _char_width(char)
        if used > limit:
            return space or max(index, 1)
        if char == " ":
            space = index + 1
    return len(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, stream: TextIO) -> str:
    """Return rows under a head, columns aligned; every row has as many cells as the head."""
    widths = [max(width(row[index]) for row in (head, *rows)) for index in range(len(head))]
    on = colours(stream)
    lines = []
    for row in (head, *rows):
        line = "  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)).rstrip()
        lines.append(paint(line, BOLD, on) if row is head else line)
    return "\n".join(lines)


def size_text(size: int) -> str:
    """Return a number of bytes as people read it: 1,234 bytes, 12.3 MB, 18.8 GB (powers of 1000)."""
    if size < 10_000:
        return f"{size:,} bytes"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:,.1f} TB"


def seconds_text(seconds: float) -> str:
    """Return a duration as people read it: 0.42 s, 12.3 s, 3 min 20 s."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def harmless(text: str) -> str:
    """Return a message of several lines with everything escaped that could steer a terminal; line ends stay."""
    return "\n".join(escape(line, _LONGEST_LINE) for line in text.split("\n"))


def answer_text(text: str, stream: TextIO) -> str:
    """Return what a model said as `stream` may be sent it: a terminal gets no control characters, a file gets all."""
    if not is_terminal(stream):
        return text
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs"))
