"""From a conversation to ids and labels: what is trained, what is cut, and what an evaluation asks. No torch.

    ids      [gMASK] <sop> <|user|> \\n 几 个 数 字 <|assistant|> \\n 两 个 <|user|>
    labels      -      -      -     -  -  -  -  -        -        \\n 两 个 <|user|>

The answer is trained with the line end before it, which the model has to write as well, and with the token that ends
it: without that one a model never learns to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from uncrate.errors import DataError
from uncrate.models.chatglm.image import Picture
from uncrate.models.chatglm.prompt import IMAGE_TOKENS, Encoded, encode_chat
from uncrate.models.chatglm.tokens import Tokenizer

IGNORED = -100
LABELS = ("answer", "glm4-2024")
EVAL_PAIRS = ("answer", "glm4-2024")


@dataclass(frozen=True)
class Row:
    """One training conversation: `labels` are ids where they are trained and -100 elsewhere; `cut` tokens are lost."""

    ids: list[int]
    labels: list[int]
    image: Picture | None
    cut: int = 0

    @property
    def trained(self) -> int:
        """How many positions have a label."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Pair:
    """One evaluation question: the ids up to <|assistant|>, and the answer's, its end included."""

    prompt: list[int]
    answer: list[int]
    image: Picture | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a row may be in tokens, its picture counted as three: the old script's two numbers."""

    max_input: int
    max_output: int

    @property
    def row(self) -> int:
        return self.max_input + self.max_output


def training_row(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    limits: Limits,
    *,
    combine: bool = False,
    labels: str = "answer",
    pictures: bool | None = None,
) -> Row:
    """Return the row of one conversation. `combine` trains the last answer only, as the key of that name did.

    `labels="glm4-2024"` repeats the old vision script's fault: the role token is trained, the end of an answer is not.
    Raises DataError where nothing of an answer fits, MessageError for what the prompt cannot hold.
    """
    encoded = encode_chat(tokenizer, messages, generation_prompt=False, pictures=pictures)
    if not encoded.spans:
        return _row_of_rounds(tokenizer, messages, limits)
    ids = [*encoded.ids, tokenizer.special("<|user|>")]
    answers = [span for span in encoded.spans if span.role == "assistant"]
    trained = [False] * len(ids)
    for span in answers[-1:] if combine else answers:
        first, last = (span.start, span.end) if labels == "glm4-2024" else (span.start + 1, span.end + 1)
        trained[first:last] = [True] * (last - first)
    return _fit(ids, trained, encoded, limits)


def evaluation_pairs(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    limits: Limits,
    *,
    style: str = "answer",
    pictures: bool | None = None,
) -> list[Pair]:
    """Return a question for each answer of a conversation; what is too long loses its oldest text, never its picture.

    `style="glm4-2024"` repeats the old vision script's pairs: one with the prompt as the label, one with the answer
    in the prompt, cut on the right.
    """
    encoded = encode_chat(tokenizer, messages, generation_prompt=False, pictures=pictures)
    if not encoded.spans:
        row = _row_of_rounds(tokenizer, messages, limits)
        start = next(place for place, label in enumerate(row.labels) if label != IGNORED)
        return [Pair(row.ids[:start], row.ids[start:], None)]
    end = tokenizer.special("<|user|>")
    if style == "glm4-2024":
        return _old_pairs(encoded, end, tokenizer.special("<|assistant|>"), limits)
    pairs = []
    ids = [*encoded.ids, end]
    for span in encoded.spans:
        if span.role != "assistant":
            continue
        prompt = _squeeze(ids[: span.start + 1], encoded, limits.max_input)
        answer = ids[span.start + 1 : span.end + 1]
        pairs.append(Pair(prompt, answer[: limits.max_output], _picture_before(encoded, span.start)))
    return pairs


def _picture_before(encoded: Encoded, end: int) -> Picture | None:
    return encoded.image if encoded.image_position is not None and _picture_end(encoded) <= end else None


def _old_pairs(encoded: Encoded, end: int, assistant: int, limits: Limits) -> list[Pair]:
    ids = encoded.ids
    edges = [0, *(place + 1 for place, token in enumerate(ids) if token == assistant)]
    if edges[-1] != len(ids):
        edges.append(len(ids))
    pairs = []
    for before, after in pairwise(edges):
        prompt = ids[:after][: limits.max_input]
        answer = [*ids[before:after], end]
        pairs.append(Pair(prompt, answer[: limits.max_output], _picture_before(encoded, len(prompt))))
    return pairs


def _fit(ids: list[int], trained: list[bool], encoded: Encoded, limits: Limits) -> Row:
    """Cut on the right, as the old script does; where that would cut the picture or all labels, oldest text first."""
    limit = limits.row
    position = encoded.image_position
    labels = [token if counts else IGNORED for token, counts in zip(ids, trained, strict=True)]
    if len(ids) <= limit:
        return Row(ids, labels, encoded.image)
    if position is not None and position < limit < _picture_end(encoded):
        limit = position
    if any(trained[:limit]):
        image = encoded.image if position is not None and position < limit else None
        return Row(ids[:limit], labels[:limit], image, len(ids) - limit)
    first = trained.index(True)
    # The first answer, or as much of it as max_output_length grants, and the newest of what leads to it.
    last = min(_run_end(trained, first), first + limits.max_output)
    head = _squeeze(ids[:first], encoded, limits.row - (last - first))
    labels = [IGNORED] * len(head) + labels[first:last]
    image = encoded.image if position is not None and position < first else None
    return Row([*head, *ids[first:last]], labels, image, len(ids) - len(labels))


def _picture_end(encoded: Encoded) -> int:
    return 0 if encoded.image_position is None else encoded.image_position + len(IMAGE_TOKENS)


def _run_end(trained: list[bool], first: int) -> int:
    end = first
    while end < len(trained) and trained[end]:
        end += 1
    return end


def _squeeze(prompt: list[int], encoded: Encoded, limit: int) -> list[int]:
    """Return `prompt` in at most `limit` tokens: the oldest text goes first, then the oldest messages' roles.

    The picture, its message's role and the last message's stay.
    """
    over = len(prompt) - limit
    if over <= 0:
        return prompt
    kept = [True] * len(prompt)
    picture = range(encoded.image_position or 0, min(_picture_end(encoded), len(prompt)))
    spans = [span for span in encoded.spans if span.start < len(prompt) - 1]
    bare = [span for span in spans[:-1] if not (picture and span.body <= picture.start < span.end)]
    droppable = [place for span in spans for place in range(span.body, min(span.end, len(prompt)))]
    droppable += [place for span in bare for place in range(span.start, span.body)]
    for place in droppable:
        if over and place not in picture:
            kept[place] = False
            over -= 1
    if over > 0:
        raise DataError(
            f"{limit} tokens hold no question and answer of this conversation",
            why=f"the roles{' and the picture' if picture else ''} alone take {sum(kept)} tokens",
            next="raise max_input_length, or make the conversation shorter",
        )
    return [token for token, keep in zip(prompt, kept, strict=True) if keep]


def _row_of_rounds(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], limits: Limits) -> Row:
    """ChatGLM2's prompt is one text; as in its own script the last answer is what is trained."""
    answer = [*tokenizer.encode_text(str(messages[-1]["content"])), tokenizer.eos_ids[0]]
    if messages[-1].get("role") != "assistant":
        raise DataError("the conversation does not end with an answer", why="ChatGLM2 learns the last answer")
    prompt = encode_chat(tokenizer, messages[:-1]).ids
    answer = answer[: limits.max_output]
    room = limits.row - len(answer)
    cut = max(0, len(prompt) - room)
    head = len(tokenizer.prefix)
    prompt = prompt[:head] + prompt[head + cut :]
    return Row([*prompt, *answer], [IGNORED] * len(prompt) + answer, None, cut)
