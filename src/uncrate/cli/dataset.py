"""The work of `uncrate data`: check, show and convert training data."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncrate import show
from uncrate.cli.output import print_document
from uncrate.errors import SourceError, UncrateError, UsageError, escape
from uncrate.train.recipe import FinetuningConfig
from uncrate.train.records import Records, open_records
from uncrate.train.rows import LABELS, Limits
from uncrate.train.survey import Reading, Survey, messages_of, survey
from uncrate.train.tokenizers import Words, open_words
from uncrate.train.view import row_sheet

FAILED = 1
# The limits of GLM-4's own example configurations.
DEFAULT_LIMIT = 512


@dataclass(frozen=True)
class Counting:
    """How rows are made and counted, and with whose tokenizer."""

    reading: Reading
    words: Words
    whose: str


def choose_reading(
    model: str | None, config: str | None, max_input: int | None, max_output: int | None, labels: str
) -> Counting | None:
    """Return how to read rows; None where no tokenizer is named and the bundled one is not there."""
    if labels not in LABELS:
        raise UsageError(f"--labels is {' or '.join(LABELS)}, not {escape(repr(labels))}")
    words, whose = None, ""
    if model is not None:
        words, whose = open_words(model), model
    else:
        with suppress(SourceError):  # an installation may leave the bundled checkpoint out
            words, whose = open_words("nano"), "the bundled nano; --model WHERE counts for another"
    if words is None:
        return None
    recipe = FinetuningConfig.from_file(config) if config else None
    limits = Limits(
        max_input=max_input or (recipe.max_input_length if recipe else DEFAULT_LIMIT),
        max_output=max_output or (recipe.max_output_length if recipe else DEFAULT_LIMIT),
    )
    combine = recipe.combine if recipe else False
    reading = Reading(tokenizer=words.tokenizer, limits=limits, combine=combine, labels=labels, pictures=words.pictures)
    return Counting(reading, words, whose)


def check(file: str, counting: Counting | None, count: int, as_json: bool) -> int:
    """Show every fault of a data file with its line, and what its rows cost; exit code 1 when there is a fault."""
    records = open_records(file)
    reading = counting.reading if counting else None
    found = survey(records, reading)
    if as_json:
        print_document(_document(found, records, counting))
        return FAILED if found.faults else 0
    rows = [
        ("file", escape(str(found.path), 400)),
        ("conversations", f"{found.records}, {len(found.good)} good, {found.pictures} with a picture"),
    ]
    if counting is None:
        rows.append(("tokens", "not counted; --model WHERE counts"))
    elif found.good:
        words, reading = counting.words, counting.reading
        rows += [
            ("tokens", f"{found.tokens:,} (pictures as 3), {sum(found.trained):,} of them trained"),
            ("tokenizer", counting.whose),
            ("truncated", f"{found.truncated} longer than {reading.limits.row}, {sum(found.cut):,} tokens lost"),
        ]
        if found.pictures:
            extra = found.pictures * words.picture_positions
            rows.append(("picture positions", f"{extra:,} more ({words.picture_positions} a picture)"))
        rows += [("longest", f"{place}: {size} tokens") for place, size in found.longest(records)]
    rows += [("note", str(note)) for note in found.notes[:20]]
    rows += [("problem", str(fault)) for fault in found.faults]
    print(show.sheet(rows, stream=sys.stdout))
    if reading is not None:
        for index in found.good[:count]:
            _print_row(records, reading, index)
    return FAILED if found.faults else 0


def _document(found: Survey, records: Records, counting: Counting | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schema": 1,
        "file": str(found.path),
        "conversations": found.records,
        "good": len(found.good),
        "pictures": found.pictures,
        "faults": [fault.to_dict() for fault in found.faults],
        "notes": [note.to_dict() for note in found.notes],
    }
    if counting is not None:
        document["tokens"] = {
            "tokenizer": counting.whose,
            "total": found.tokens,
            "trained": sum(found.trained),
            "limit": counting.reading.limits.row,
            "truncated": found.truncated,
            "lost": sum(found.cut),
            "longest": [
                {"file": str(place.file), "line": place.line, "tokens": size} for place, size in found.longest(records)
            ],
        }
    return document


def show_rows(file: str, counting: Counting | None, line: int | None, count: int) -> int:
    """Print conversations as the model sees them, with what is trained marked."""
    records = open_records(file)
    if counting is None:
        raise UsageError("no tokenizer to show ids with", next="add --model WHERE")
    wanted = [index for index in range(len(records)) if line is None or records.place(index).line == line]
    if not wanted:
        raise UsageError(f"no conversation stands on line {line}", where=escape(str(records.path), 400))
    for index in wanted[:count]:
        _print_row(records, counting.reading, index)
    return 0


def _print_row(records: Records, reading: Reading, index: int) -> None:
    row = reading.row(messages_of(records, index))
    rows = row_sheet(reading.tokenizer, row, colour=show.colours(sys.stdout))
    print(f"\n{records.place(index)}\n{show.sheet(rows, stream=sys.stdout)}")


def convert(file: str, out: str | None) -> int:
    """Write messages in GLM-4's form, pictures by absolute path; nothing is written when a record has a fault."""
    if out is None:
        raise UsageError("convert needs a file to write", next="--out data.jsonl")
    records = open_records(file)
    lines, faults = [], []
    for index in range(len(records)):
        try:
            messages = messages_of(records, index)
        except UncrateError as error:
            faults.append(str(error))
            continue
        for message in messages:
            if isinstance(message.get("image"), str) and not message["image"].startswith("data:"):
                message["image"] = str(Path(message["image"]).absolute())
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    if faults:
        print("\n".join(faults), file=sys.stderr)
        print(f"{len(faults)} of {len(records)} conversations cannot be read; nothing was written", file=sys.stderr)
        return FAILED
    Path(out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} conversations written to {escape(out, 400)}")
    return 0
