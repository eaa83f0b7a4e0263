"""How a gathered file is laid out: heads of sections, blank lines, import blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from uncrate.export.inline import PACKAGE, External, Source


def section_head(source: Source, said: str | None) -> str:
    """A line that says where a section comes from, and the module's own words about it."""
    short = source.module.removeprefix(PACKAGE + ".")
    words = "\n".join(f"# {line}".rstrip() for line in (said or source.doc).splitlines())
    return f"# {'-' * 20} {short} {'-' * max(96 - len(short), 3)}\n{words}"


def spaced(parts: Sequence[str]) -> str:
    """Join definitions: two blank lines around classes and functions, none between constants that stood together."""
    text = parts[0]
    for before, part in pairwise(parts):
        text += ("\n\n\n" if _is_block(before) or _is_block(part) else "\n") + part
    return text


def _is_block(text: str) -> bool:
    return re.search(r"^(?:class|def|async def|@)", text, re.MULTILINE) is not None


def import_lines(group: Sequence[External]) -> str:
    plain = sorted(item.text() for item in group if item.name is None)
    by_module: dict[str, list[str]] = {}
    for item in group:
        if item.name is not None:
            renamed = item.name if item.binding == item.name else f"{item.name} as {item.binding}"
            by_module.setdefault(item.module, []).append(renamed)
    return "\n".join([*plain, *(from_line(module, sorted(by_module[module])) for module in sorted(by_module))])


def from_line(module: str, names: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 120:
        return line
    inner = "".join(f"    {name},\n" for name in names)
    return f"from {module} import (\n{inner})"
