"""Where training conversations lie: jsonl, a JSON array, a folder of labels. Records are read when they are asked for.

A jsonl file is indexed once (16 bytes a line) and read by position, so a data set may be larger than memory and
nothing is copied to disk.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from uncrate.errors import DataError, escape

MAX_LINE = 64 << 20
MAX_ARRAY = 4 << 30
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Place:
    """Where one record stands: its file and its line from 1 (None: the file is the record)."""

    file: Path
    line: int | None

    def __str__(self) -> str:
        name = escape(str(self.file), 400)
        return name if self.line is None else f"{name}:{self.line}"


class Records(Protocol):
    """Conversations as they stand in a file, by number from 0."""

    path: Path

    def __len__(self) -> int: ...

    def place(self, index: int) -> Place: ...

    def read(self, index: int) -> Any:
        """Return the record's JSON value. Raises DataError with its place where it is not JSON."""
        ...


def open_records(path: str | Path) -> Records:
    """Return the records of a jsonl file, a JSON array, or a folder with `labels_*`. Raises DataError."""
    file = Path(path)
    where = escape(str(path), 400)
    if file.is_dir():
        return LabelFolder(file)
    if not file.exists():
        raise DataError("there is no such file", where=where, next="check data_config and DATA_DIR")
    if not file.is_file():
        raise DataError("this is not a regular file", where=where)
    try:
        with file.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=where) from error
    start = head.removeprefix(_BOM).lstrip()
    if start.startswith(b"["):
        return JsonArray(file)
    lines = JsonLines(file)
    if not len(lines):
        raise DataError("the file holds no conversation", where=where)
    return JsonArray(file) if _is_one_object(lines, file) else lines


class JsonLines:
    """One JSON value a line; empty lines count for nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = array("Q")
        self._lines = array("Q")
        offset = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip() and not (number == 1 and not line.removeprefix(_BOM).strip()):
                    self._starts.append(offset)
                    self._lines.append(number)
                offset += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def place(self, index: int) -> Place:
        return Place(self.path, self._lines[index])

    def read(self, index: int) -> Any:
        with self.path.open("rb") as stream:
            stream.seek(self._starts[index])
            line = stream.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            raise DataError(f"the line is longer than {MAX_LINE >> 20} MiB", where=str(self.place(index)))
        return parse_record(line, str(self.place(index)))


class JsonArray:
    """One JSON array in a file, each item a record; or one object, which is the only record. It is read whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.stat().st_size > MAX_ARRAY:
            raise DataError(
                f"the array is larger than {MAX_ARRAY >> 30} GiB, and an array is read whole",
                where=escape(str(path), 400),
                next=f"uncrate data convert {escape(str(path), 400)} --out data.jsonl",
            )
        text = _decode(path.read_bytes().removeprefix(_BOM), str(path))
        self._items: list[Any] = []
        self._lines: list[int] = []
        for start, value in _items(text, escape(str(path), 400)):
            self._items.append(value)
            self._lines.append(start)
        if not self._items:
            raise DataError("the file holds no conversation", where=escape(str(path), 400))

    def __len__(self) -> int:
        return len(self._items)

    def place(self, index: int) -> Place:
        return Place(self.path, self._lines[index])

    def read(self, index: int) -> Any:
        return self._items[index]


class LabelFolder:
    """CogVLM-SFT-311K's layout: `labels_zh/0001.json` (and `labels_en`), with `images/0001.jpg` beside the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        folders = [path] if path.name.startswith("labels_") else sorted(path.glob("**/labels_*"))
        self._files = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.json"))]
        if not self._files:
            raise DataError(
                "the folder holds no labels_*/*.json",
                where=escape(str(path), 400),
                next="name a .jsonl or .json file, or a folder with images/ and labels_zh/ or labels_en/",
            )

    def __len__(self) -> int:
        return len(self._files)

    def place(self, index: int) -> Place:
        return Place(self._files[index], None)

    def read(self, index: int) -> Any:
        file = self._files[index]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"the file cannot be read: {error.strerror}", where=str(self.place(index))) from error
        value = parse_record(data, str(self.place(index)))
        if isinstance(value, dict) and not value.get("image"):
            value["image"] = str(self._picture(file))
        return value

    def _picture(self, label: Path) -> Path:
        folder = label.parent.parent / "images"
        for suffix in (".jpg", ".png", ".jpeg", ".webp"):
            if (folder / f"{label.stem}{suffix}").is_file():
                return folder / f"{label.stem}{suffix}"
        return folder / f"{label.stem}.jpg"


def parse_record(data: bytes, where: str) -> Any:
    """Return the JSON value in `data`. Raises DataError that names the column."""
    text = _decode(data.removeprefix(_BOM), where)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = "double quotes are needed: this looks like Python" if "'" in text[:3] else None
        raise DataError(f"not JSON: {escape(error.msg)}, at column {error.colno}", where=where, next=hint) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {escape(str(error))}", where=where) from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
            where=where,
            next="save the file as UTF-8",
        ) from error


def _items(text: str, where: str) -> Iterator[tuple[int, Any]]:
    """Yield the line and value of each item of the array in `text`."""
    decoder = json.JSONDecoder()
    at, line, counted = _blanks(text, 0), 1, 0
    if text[at : at + 1] == "{":
        yield 1, parse_record(text.encode("utf-8"), where)
        return
    at = _blanks(text, at + 1)
    while text[at : at + 1] not in ("]", ""):
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            place = text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else line
            raise DataError(f"not JSON: {escape(str(error))}", where=f"{where}:{place}") from error
        yield line, value
        at = _blanks(text, at)
        if text[at : at + 1] == ",":
            at = _blanks(text, at + 1)
    if text[at : at + 1] != "]":
        raise DataError("not JSON: the array never ends", where=where, next="the file may have been cut; copy it again")


def _blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _is_one_object(lines: JsonLines, file: Path) -> bool:
    """Whether a file that is no jsonl is one object written over several lines."""
    if len(lines) < 2 or file.stat().st_size > MAX_LINE:
        return False
    try:
        lines.read(0)
    except DataError:
        try:
            return isinstance(json.loads(file.read_bytes().removeprefix(_BOM)), dict)
        except (ValueError, RecursionError):
            return False
    return False
