"""The hash that an approval is about: every file that can run, and how each is entered.

Encoding, version 1. A number is 8 bytes, big-endian, unsigned. A text is its length in UTF-8 bytes (a number), then
those bytes. A list is its length (a number), then its items. The hashed bytes are

    text  "uncrate closure 1"
    list  of files, sorted by path:           text path, text sha256 (64 lower-case hex digits)
    list  of entry points, sorted:            text JSON file, text JSON pointer, text Auto class, text path, text class

A file of another repository has the path `owner/name--path`; the commit it was read at is no part of the hash, since
approval is of content. Lengths stand before everything, so two different closures cannot encode to the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

VERSION = "uncrate closure 1"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def closure_hash(files: Iterable[tuple[str, str]], entry_points: Iterable[tuple[str, str, str, str, str]]) -> str:
    """Return the closure's hash, 64 lower-case hex digits; the order of the arguments' items makes no difference.

    `files` are (path, sha256), `entry_points` (JSON file, pointer, Auto class, path, class). Raises ValueError for a
    path that stands twice or a sha256 that is none.
    """
    listed = sorted(files)
    if len({path for path, _ in listed}) != len(listed):
        raise ValueError("a path stands twice in the closure")
    if not all(_SHA256.fullmatch(sha) for _, sha in listed):
        raise ValueError("not a sha256 in lower-case hexadecimal")
    return hashlib.sha256(encode_closure(listed, sorted(entry_points))).hexdigest()


def encode_closure(files: list[tuple[str, str]], entry_points: list[tuple[str, str, str, str, str]]) -> bytes:
    """Return the bytes that are hashed, for lists that are sorted already."""
    parts = [_text(VERSION), _number(len(files))]
    parts += [_text(part) for file in files for part in file]
    parts.append(_number(len(entry_points)))
    parts += [_text(part) for entry in entry_points for part in entry]
    return b"".join(parts)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return _number(len(data)) + data
