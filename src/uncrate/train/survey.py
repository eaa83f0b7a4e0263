"""Everything about a data file before it is trained on: every fault with its line, lengths, what is cut. No torch."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uncrate.errors import DataError, PictureError, UncrateError, escape
from uncrate.models.chatglm.image import Picture, open_picture
from uncrate.models.chatglm.messages import Message
from uncrate.models.chatglm.tokens import Tokenizer
from uncrate.train.conversation import Messages, read_conversation
from uncrate.train.records import Place, Records
from uncrate.train.rows import Limits, Pair, Row, evaluation_pairs, training_row

LONGEST_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How conversations become rows: the tokenizer, the limits, and the recipe's choices.

    `pictures` says whether the model takes any; None leaves it to the tokenizer.
    """

    tokenizer: Tokenizer
    limits: Limits
    combine: bool = False
    labels: str = "answer"
    pairs: str = "answer"
    pictures: bool | None = None

    def row(self, messages: Sequence[Mapping[str, Any]]) -> Row:
        """Return the training row of one conversation; see `training_row`."""
        return training_row(
            self.tokenizer,
            messages,
            self.limits,
            combine=self.combine,
            labels=self.labels,
            pictures=self.pictures,
        )

    def questions(self, messages: Sequence[Mapping[str, Any]]) -> list[Pair]:
        """Return the evaluation pairs of one conversation; see `evaluation_pairs`."""
        return evaluation_pairs(self.tokenizer, messages, self.limits, style=self.pairs, pictures=self.pictures)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a record, or (a note) worth knowing."""

    place: Place
    what: str
    why: str | None = None
    next: str | None = None

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.place}: {self.what}{why}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.place.file),
            "line": self.place.line,
            "message": self.what,
            "why": self.why,
            "next": self.next,
        }


@dataclass
class Survey:
    """What a file holds. `good` are the records without fault, `lengths` and `cut` theirs in tokens (picture as three).

    `faults` name every record that cannot be used; `notes` name records that can, and what to know about them.
    """

    path: Path
    records: int
    good: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    trained: array[int] = field(default_factory=lambda: array("Q"))
    cut: array[int] = field(default_factory=lambda: array("Q"))
    pictures: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def truncated(self) -> int:
        """How many rows lose tokens."""
        return sum(cut > 0 for cut in self.cut)

    def longest(self, records: Records) -> list[tuple[Place, int]]:
        """Return the longest conversations, before anything is cut, with their place."""
        sizes = sorted(
            ((length + cut, index) for index, length, cut in zip(self.good, self.lengths, self.cut, strict=True)),
            key=lambda item: (-item[0], item[1]),
        )
        return [(records.place(index), size) for size, index in sizes[:LONGEST_SHOWN]]

    def refuse(self) -> None:
        """Raise DataError with the first faults when there is any."""
        if not self.faults:
            return
        shown = "".join(f"\n  - {fault}" for fault in self.faults[:10])
        more = f"\n  - and {len(self.faults) - 10} more" if len(self.faults) > 10 else ""
        raise DataError(
            f"{len(self.faults)} of {self.records} conversations cannot be used:{shown}{more}",
            where=escape(str(self.path), 400),
            next=f"see all: uncrate data check {escape(str(self.path), 400)}; or leave them out: --skip-bad",
        )


def survey(
    records: Records,
    reading: Reading | None,
    *,
    decode_pictures: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read every record and return what was found. Without `reading` nothing is counted.

    `decode_pictures` opens every picture; otherwise it is only looked for. `progress` is told how far it is.
    """
    out = Survey(records.path, len(records))
    pictures: list[tuple[Place, Picture]] = []
    rows: dict[int, Row | None] = {}
    for index in range(len(records)):
        place = records.place(index)
        try:
            messages, checked = read_conversation(records.read(index), place.file.parent, str(place))
            rows[index] = reading.row(messages) if reading else None
        except UncrateError as error:
            out.faults.append(_fault(error, place))
            continue
        out.notes += [Fault(place, note) for note in _notes(checked)]
        pictures += [(place, message.image) for message in checked if message.image is not None]
        progress(index + 1, len(records))
    broken = _check_pictures(pictures, decode_pictures)
    out.faults += broken
    bad = {(fault.place.file, fault.place.line) for fault in broken}
    out.pictures = len(pictures) - len(broken)
    for index, row in rows.items():
        place = records.place(index)
        if (place.file, place.line) in bad:
            continue
        out.good.append(index)
        if row is not None:
            out.lengths.append(len(row.ids))
            out.trained.append(row.trained)
            out.cut.append(row.cut)
    out.faults.sort(key=lambda fault: (str(fault.place.file), fault.place.line or 0))
    return out


def _fault(error: UncrateError, place: Place) -> Fault:
    """Name the record once, and the message inside of it where the error knows which."""
    inside = (error.where or "").removeprefix(str(place)).removeprefix(": ")
    return Fault(place, f"{inside}: {error.what}" if inside else error.what, error.why, error.next)


def _notes(messages: tuple[Message, ...]) -> list[str]:
    out = []
    if messages[-1].role in ("user", "observation"):
        out.append(f"the conversation ends with a message of '{messages[-1].role}', which trains nothing")
    if any(message.role == "assistant" and not message.content for message in messages):
        out.append("an empty answer trains nothing")
    users = [message for message in messages if message.role == "user"]
    if any(message.image is not None for message in users[1:]):
        out.append("the picture is not in the first question, where GLM-4V learned to see one")
    return out


def _check_pictures(pictures: list[tuple[Place, Picture]], decode: bool) -> list[Fault]:
    """Open each picture; Pillow decodes outside of Python's lock, so threads help."""

    def check(item: tuple[Place, Picture]) -> Fault | None:
        place, picture = item
        try:
            if decode or not isinstance(picture, str):
                open_picture(picture)
            elif not Path(picture).is_file():
                raise PictureError("there is no such picture", where=escape(picture, 400))
        except PictureError as error:
            what = f"{error.what}: {error.where}" if error.where else error.what
            return Fault(place, what, error.why, error.next)
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return [fault for fault in pool.map(check, pictures) if fault is not None]


def messages_of(records: Records, index: int) -> Messages:
    """Return the messages of one record. Raises DataError."""
    place = records.place(index)
    return read_conversation(records.read(index), place.file.parent, str(place))[0]
