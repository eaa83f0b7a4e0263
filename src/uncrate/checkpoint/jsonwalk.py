"""A slow, plain JSON reader without recursion, which finds the first fault of a text and its place.

It is only run on texts that the fast reader refused, and by the tests, as the fast reader's oracle.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from uncrate.errors import escape

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"-?[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')


@dataclass(frozen=True)
class Fault:
    """What is wrong, at which character, and the keys and indices that lead there."""

    message: str
    place: int
    path: tuple[str | int, ...]


class _Found(Exception):
    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.message = message
        self.place = place


@dataclass
class _Level:
    """One open object or list: the keys met so far, and the key or index being read."""

    keys: set[str] | None
    at: str | int


def find_fault(text: str, *, max_depth: int, max_digits: int) -> Fault | None:
    """Return the first fault of `text` as strict JSON, or None when it has none."""
    levels: list[_Level] = []
    try:
        _walk(text, levels, max_depth, max_digits)
    except _Found as found:
        # The innermost step is left out while no key or index of that level has been read yet.
        return Fault(found.message, found.place, tuple(level.at for level in levels if level.at != ""))
    return None


def _walk(text: str, levels: list[_Level], max_depth: int, max_digits: int) -> None:
    place = _skip(text, 0)
    while True:
        place = _value(text, place, levels, max_depth, max_digits)
        # A value has ended: close what closes with it, then step on to the next item.
        while levels:
            place = _skip(text, place)
            level = levels[-1]
            closer = "]" if level.keys is None else "}"
            sign = text[place : place + 1]
            if sign == ",":
                place = _next_item(text, _skip(text, place + 1), level)
                break
            if not sign:
                raise _Found("the text ends in the middle", place)
            if sign != closer:
                raise _Found(f"a comma or {closer} is missing before {_shown(text, place)}", place)
            levels.pop()
            place += 1
        if not levels:
            break
    place = _skip(text, place)
    if place < len(text):
        raise _Found(f"something follows the end: {_shown(text, place)}", place)


def _value(text: str, place: int, levels: list[_Level], max_depth: int, max_digits: int) -> int:
    """Read a whole plain value or empty container, or go down into a container to its first plain value."""
    while True:
        sign = text[place : place + 1]
        if sign not in ("{", "["):
            return _plain_value(text, place, sign, max_digits)
        if len(levels) >= max_depth:
            raise _Found(f"nested deeper than {max_depth} levels", place)
        inner = _skip(text, place + 1)
        if text[inner : inner + 1] == ("}" if sign == "{" else "]"):
            return inner + 1
        level = _Level(set(), "") if sign == "{" else _Level(None, -1)
        levels.append(level)
        place = _next_item(text, inner, level)


def _next_item(text: str, place: int, level: _Level) -> int:
    """Step to the next item of a level and return the place of its value."""
    if level.keys is None:
        level.at = int(level.at) + 1
        return place
    if text[place : place + 1] != '"':
        raise _Found(f"a key in double quotes is missing before {_shown(text, place)}", place)
    end, key = _string(text, place)
    level.at = key
    if key in level.keys:
        raise _Found(f"the key {escape(key)} stands twice in one object", place)
    level.keys.add(key)
    end = _skip(text, end)
    if text[end : end + 1] != ":":
        raise _Found(f"a colon is missing after the key {escape(key)}", end)
    return _skip(text, end + 1)


def _plain_value(text: str, place: int, sign: str, max_digits: int) -> int:
    if not sign:
        raise _Found("the text ends in the middle", place)
    if sign == '"':
        return _string(text, place)[0]
    for word in ("true", "false", "null"):
        if text.startswith(word, place):
            return place + len(word)
    found = _NUMBER.match(text, place)
    if not found:
        word_found = _WORD.match(text, place)
        raise _Found(f"{escape(word_found[0]) if word_found else _shown(text, place)} is not JSON", place)
    number = found[0]
    if len(number) > max_digits:
        raise _Found(f"the number {escape(number, 40)} has more than {max_digits} characters", place)
    if not number.lstrip("-").isdigit() and math.isinf(float(number)):
        raise _Found(f"the number {escape(number)} is too large", place)
    return found.end()


def _string(text: str, place: int) -> tuple[int, str]:
    start, place = place, place + 1
    parts: list[str] = []
    while True:
        plain = _PLAIN.match(text, place)
        assert plain is not None  # the pattern matches the empty text
        parts.append(plain[0])
        place = plain.end()
        sign = text[place : place + 1]
        if sign == '"':
            break
        if not sign:
            raise _Found(f"the text ends inside the string {_shown(text, start)}", start)
        if sign != "\\":
            raise _Found(f"a control character (U+{ord(sign):04X}) stands in a string", place)
        found = _ESCAPE.match(text, place)
        if not found:
            raise _Found(f"not an escape: {_shown(text, place)}", place)
        parts.append(_unescape(found[0]))
        place = found.end()
    # Two escapes may form one character; what is left single afterwards is half of one.
    value = "".join(parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise _Found(f"half of a surrogate pair: {escape(value)}", start)
    return place + 1, value


_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _unescape(escaped: str) -> str:
    return chr(int(escaped[2:], 16)) if escaped[1] == "u" else _SHORT.get(escaped[1], escaped[1])


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None  # the pattern matches the empty text
    return found.end()


def _shown(text: str, place: int) -> str:
    return escape(text[place : place + 30]) if place < len(text) else "the end"
