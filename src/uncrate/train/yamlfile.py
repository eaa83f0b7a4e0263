"""YAML 1.2 as people write configurations in it: plain values, and the line that each key stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncrate.errors import MissingPackage, RecipeError, escape

SIZE_LIMIT = 1 << 20
# Aliases may repeat a node without end ("billion laughs"); no configuration has so many values.
MAX_VALUES = 20_000

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """The top mapping of a YAML file as plain Python values, with the line (from 1) of each key or item."""

    values: dict[str, Any]
    lines: Mapping[Path_, int]
    where: str

    def at(self, *path: str | int) -> str:
        """Where a value stands, for an error: "lora.yaml:12"; of what is missing, where it belongs."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.where}:{self.lines[path[:end]]}"
        return self.where


def read_yaml(path: str | Path) -> Document:
    """Return a YAML file whose top is a mapping. Raises RecipeError with file and line for anything else."""
    file = Path(path)
    where = escape(str(path), 400)
    try:
        data = file.read_bytes() if file.stat().st_size <= SIZE_LIMIT else None
    except OSError as error:
        raise RecipeError(f"the configuration cannot be read: {error.strerror}", where=where) from error
    if data is None:
        raise RecipeError(f"the file is larger than {SIZE_LIMIT >> 20} MiB", where=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError("not UTF-8", where=f"{where}:{line}", next="save the file as UTF-8") from error
    return parse_yaml(text, where)


def parse_yaml(text: str, where: str) -> Document:
    """Return the document in `text`; `where` names it in errors."""
    top = _load(text, where)
    if not isinstance(top, Mapping):
        raise RecipeError(
            f"a configuration is a list of `key: value` lines, and this is {type(top).__name__}",
            where=f"{where}:1",
            next="begin with a line like `data_config:`",
        )
    reader = _Plain(where)
    values = reader.mapping(top, ())
    return Document(values, reader.lines, where)


def parse_value(text: str, where: str) -> Any:
    """Return the value that `text` is in YAML: 3, 5e-4, true, text, [a, b]."""
    return _Plain(where).value(_load(text, where), ())


def _load(text: str, where: str) -> Any:
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
    except ImportError as error:
        raise MissingPackage(
            "reading YAML needs the package ruamel.yaml", next="pip install 'uncrate[train]'"
        ) from error
    loader = YAML(typ="rt", pure=True)
    try:
        return loader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        hint = "indent with spaces, not tabs" if "\\t" in str(error.problem) else None
        raise RecipeError(f"not YAML: {escape(str(error.problem))}", where=place, next=hint) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"not YAML: {escape(str(error))}", where=where) from error


class _Plain:
    """Turns ruamel's nodes, which carry lines and comments, into dict, list, str, int, float, bool and None."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[Path_, int] = {}
        self._count = 0

    def mapping(self, node: Mapping[Any, Any], path: Path_) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in node.items():
            place = getattr(node, "lc", None)
            found = place.data.get(key) if place is not None and place.data else None
            here = (*path, str(key))
            if found is not None:
                self.lines[here] = found[0] + 1
            if not isinstance(key, str):
                line = f":{found[0] + 1}" if found is not None else ""
                raise RecipeError(f"a key is text, and this is {escape(key)}", where=self.where + line)
            out[str(key)] = self.value(value, here)
        return out

    def value(self, node: Any, path: Path_) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or len(path) > 20:
            raise RecipeError("too many or too deeply nested values for a configuration", where=self.where)
        if isinstance(node, Mapping):
            return self.mapping(node, path)
        if isinstance(node, list | tuple):
            return [self.value(item, (*path, index)) for index, item in enumerate(node)]
        # The subclasses that keep how a number was written would be pickled into checkpoints.
        for kind in (bool, int, float, str):
            if isinstance(node, kind):
                return kind(node)
        if node is None:
            return None
        if type(node).__name__ == "ScalarBoolean":
            return bool(node)
        raise RecipeError(f"{escape(str(node))} is no value that a configuration can have", where=self.where)
