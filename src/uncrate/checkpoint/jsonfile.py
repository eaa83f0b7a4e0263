"""JSON as a checkpoint may hold it: strict, bounded, read-only, and refused with the place named.

Python's own reader accepts more than JSON (NaN, Infinity, the last of several equal keys, lone surrogates) and recurses
with its input. What it would accept too much of is looked for before or while it runs; `jsonwalk` finds the place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any

from uncrate.checkpoint.jsonwalk import Fault, find_fault
from uncrate.errors import MalformedJSON, escape

CONFIG_LIMIT = 16 << 20
"""Bytes that a configuration file may have."""
INDEX_LIMIT = 64 << 20
"""Bytes that a weight index may have."""
MAX_DEPTH = 64
MAX_ITEMS = 1_000_000
MAX_DIGITS = 128
# Above this size a fault is told without its line and pointer: finding them takes a slow reader.
_WALK_LIMIT = 4 << 20

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# A string, or what is left of one that never ends: always a match, so that the search never starts over (linear time).
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_CHUNK = 1 << 18
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


class _Refused(Exception):
    """A fault met inside the standard scanner; the place is not known there."""


def parse_json(data: bytes, name: str, *, limit: int = CONFIG_LIMIT, max_items: int = MAX_ITEMS) -> Any:
    """Return the value in `data`, deeply read-only: mappings, tuples, str, int, float, bool, None.

    Raises MalformedJSON naming `name`, line, column and JSON pointer for: more than `limit` bytes, 64 levels or
    `max_items` values; invalid UTF-8, a byte order mark, a lone surrogate; an equal key twice; NaN, an infinity or a
    number that overflows; a number of more than 128 characters; anything after the value.
    """
    if len(data) > limit:
        raise MalformedJSON(f"the file has {len(data):,} bytes and at most {limit:,} are read", where=escape(name))
    text = _decode(data, name)
    _check_bounds(text, name, max_items)
    try:
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            _check_surrogates(value)
    except (ValueError, RecursionError, _Refused) as error:
        raise _explain(text, name, str(error)) from None
    return freeze(value)


def parse_object(data: bytes, name: str, *, limit: int = CONFIG_LIMIT, max_items: int = MAX_ITEMS) -> Mapping[str, Any]:
    """Return `parse_json` of a file whose top must be an object; MalformedJSON when it is something else."""
    value = parse_json(data, name, limit=limit, max_items=max_items)
    if not isinstance(value, Mapping):
        raise MalformedJSON(
            f"the top must be an object {{...}}, and is {kind(value)}: {escape(thaw(value))}", where=escape(name)
        )
    return value


def freeze(value: Any) -> Any:
    """Return `value` with every dict as a read-only mapping and every list as a tuple."""
    if isinstance(value, dict):
        return MappingProxyType({k: v if v.__class__ in _LEAVES else freeze(v) for k, v in value.items()})
    if isinstance(value, list):
        return tuple([v if v.__class__ in _LEAVES else freeze(v) for v in value])
    return value


def thaw(value: Any) -> Any:
    """Return `value` with every mapping as a new dict and every tuple as a new list: what `json.dumps` takes."""
    if isinstance(value, Mapping):
        return {k: thaw(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [thaw(v) for v in value]
    return value


def kind(value: object) -> str:
    """Return what JSON calls the value: an object, a list, text, a number, true, false, null."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else "text" if isinstance(value, str) else "a number"


def pointer(*parts: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of a path of keys and indices, escaped for printing."""
    return "".join("/" + escape(str(part).replace("~", "~0").replace("/", "~1"), 80) for part in parts)


_LEAVES = frozenset((str, int, float, bool, type(None)))


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"the key {escape(key)} stands twice in one object")
            seen.add(key)
    return found


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Refused(f"the number {escape(text, 40)} has more than {MAX_DIGITS} characters")
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise _Refused(f"the number {escape(text, 40)} has more than {MAX_DIGITS} characters")
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"the number {escape(text)} is too large")
    return value


def _constant(text: str) -> None:
    raise _Refused(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_int, parse_float=_float, parse_constant=_constant, strict=True
)


def _decode(data: bytes, name: str) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        raise MalformedJSON(
            "the file starts with a byte order mark", where=f"{escape(name)}:1:1", next="save it as UTF-8 without BOM"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise MalformedJSON(
            f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start:,}",
            where=f"{escape(name)}:{line}:{column}",
            next="save the file as UTF-8",
        ) from None


def _check_bounds(text: str, name: str, max_items: int) -> None:
    """Refuse, in linear time and without recursion, what would cost too much to parse."""
    if not text.strip(" \t\r\n"):
        raise MalformedJSON("the file is empty", where=escape(name), next="copy or download the file again")
    opened = text.count("[") + text.count("{")
    # What stands in strings counts for nothing; taking them out is only paid for where the plain count is too high.
    if opened <= MAX_DEPTH and text.count(",") + opened <= max_items:
        return
    bare = _STRING.sub('""', text)
    if bare.count(",") + bare.count("[") + bare.count("{") > max_items:
        raise MalformedJSON(f"more than {max_items:,} values", where=escape(name))
    depth = 0
    for start in range(0, len(bare), _CHUNK):
        depths = list(accumulate(map(_STEP.__getitem__, _BRACKET.findall(bare, start, start + _CHUNK)), initial=depth))
        if max(depths) > MAX_DEPTH:
            raise _explain(text, name, f"nested deeper than {MAX_DEPTH} levels")
        depth = depths[-1]


def _check_surrogates(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
                raise _Refused(f"half of a surrogate pair: {escape(item)}")
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _explain(text: str, name: str, message: str) -> MalformedJSON:
    fault: Fault | None = None
    if len(text) <= _WALK_LIMIT:
        fault = find_fault(text, max_depth=MAX_DEPTH, max_digits=MAX_DIGITS)
    if fault is None:
        return MalformedJSON(escape(message, 300), where=escape(name))
    line = text.count("\n", 0, fault.place) + 1
    column = fault.place - (text.rfind("\n", 0, fault.place) + 1) + 1
    at = pointer(*fault.path)
    return MalformedJSON(f"{fault.message} (at {at})" if at else fault.message, where=f"{escape(name)}:{line}:{column}")
