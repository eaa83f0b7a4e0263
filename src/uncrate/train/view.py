"""A row as a person reads it: the ids decoded, with what is trained marked; and plain conversations back to jsonl."""

from __future__ import annotations

from collections.abc import Sequence

from uncrate import show
from uncrate.errors import escape
from uncrate.models.chatglm.tokens import Tokenizer
from uncrate.train.rows import IGNORED, Row

OPEN, CLOSE = "⟦", "⟧"


def marked(tokenizer: Tokenizer, ids: Sequence[int], labels: Sequence[int], *, colour: bool = False) -> str:
    """Return the text of `ids` with every trained stretch in ⟦ ⟧ (green where colours are on)."""
    out = []
    start = 0
    for place in range(1, len(ids) + 1):
        counts = labels[start] != IGNORED
        if place < len(ids) and (labels[place] != IGNORED) == counts:
            continue
        text = _harmless(tokenizer.describe(ids[start:place]))
        out.append(show.paint(f"{OPEN}{text}{CLOSE}", show.GREEN, colour) if counts else text)
        start = place
    return "".join(out)


def row_sheet(tokenizer: Tokenizer, row: Row, *, colour: bool) -> list[tuple[str, str]]:
    """Return one training row as label and value rows."""
    picture = "none" if row.image is None else escape(row.image if isinstance(row.image, str) else "in the record", 400)
    return [
        ("tokens", f"{len(row.ids)}, {row.trained} trained" + (f", {row.cut} cut" if row.cut else "")),
        ("picture", picture),
        ("text", marked(tokenizer, row.ids, row.labels, colour=colour)),
    ]


def _harmless(text: str) -> str:
    return show.harmless(text)
