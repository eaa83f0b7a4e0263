"""Module patterns as PEFT writes them, run only where their time is bounded.

Which modules an adapter changes is told by its own tensors, so `target_modules` never has to be run as a regular
expression to apply one. A pattern is run only to hold the two against each other, and for `alpha_pattern`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_REPEATS = 2
MAX_CHOICES = 8
MAX_PATTERN = 500

# One piece of a pattern that can match in one way only; a repeat behind it is counted apart.
_PIECE = re.compile(r"(?P<atom>\\[.\-]|\\d|[\w.\-^$]|\[[\w\-.^]{1,40}\])(?P<repeat>[*+]\??|\{\d{1,2}\})?")
_GROUP = re.compile(r"\((?:\?:)?|\)|\|")


def is_bounded(pattern: str) -> bool:
    """Whether matching `pattern` against a module name takes a bounded number of steps, judged by its spelling.

    Names, dots, digits, classes and groups of choices are; so are two repeats of one piece. A repeated group, a
    backreference or a look-around is not.
    """
    if len(pattern) > MAX_PATTERN:
        return False
    place = repeats = 0
    while place < len(pattern):
        piece = _PIECE.match(pattern, place)
        if piece is None:
            piece = _GROUP.match(pattern, place)
            if piece is None or (piece[0] == ")" and pattern[piece.end() : piece.end() + 1] in ("*", "+", "?", "{")):
                return False
        elif piece["repeat"]:
            repeats += not piece["repeat"].startswith("{")
        place = piece.end()
    return repeats <= MAX_REPEATS and pattern.count("|") <= MAX_CHOICES


def compiled(pattern: str) -> re.Pattern[str] | None:
    """Return a bounded pattern compiled, None where it is not bounded or not a regular expression."""
    if not is_bounded(pattern):
        return None
    try:
        return re.compile(pattern)
    except re.error:
        return None


def first_match(patterns: Iterable[str], module: str) -> str | None:
    """Return the first of PEFT's `rank_pattern` or `alpha_pattern` keys that means `module`: the whole name, or its end
    from a dot on. Each must be bounded.
    """
    for pattern in patterns:
        found = compiled(pattern)
        if found is None:
            continue
        # "^" stands for the start of the whole name: PEFT looks for no end of it then.
        ends = () if pattern.startswith("^") else (dot.end() for dot in re.finditer(r"\.", module))
        if any(found.fullmatch(module[start:]) for start in (0, *ends)):
            return pattern
    return None


def is_target(targets: tuple[str, ...] | str, module: str) -> bool | None:
    """Whether PEFT would put an adapter on `module`: a list names ends, a text is a pattern of the whole name.

    None where the pattern is not run.
    """
    if isinstance(targets, tuple):
        return any(module == name or module.endswith("." + name) for name in targets)
    found = compiled(targets)
    return None if found is None else found.fullmatch(module) is not None
