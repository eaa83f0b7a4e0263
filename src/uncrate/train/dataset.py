"""Rows for torch: read by number, pictures opened in the collator, rows of like length together.

Axes in names: B rows, T tokens, A tokens of the longest answer, N pictures, S picture side.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from uncrate.models.chatglm.prompt import Encoded, batch
from uncrate.models.chatglm.tokens import Tokenizer
from uncrate.train.records import Records
from uncrate.train.rows import IGNORED, Pair, Row
from uncrate.train.survey import Reading, Survey, messages_of


class TrainingRows(Dataset[Row]):
    """The good records of a file as training rows; a row is read, and its text encoded, when it is asked for."""

    def __init__(self, records: Records, found: Survey, reading: Reading) -> None:
        self.records = records
        self.lengths: Sequence[int] = found.lengths
        self._good: array[int] = found.good
        self._reading = reading

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Row:
        return self._reading.row(messages_of(self.records, self._good[index]))


class EvaluationPairs(Dataset[Pair]):
    """The questions of a file's good records, one for each answer."""

    def __init__(self, records: Records, found: Survey, reading: Reading) -> None:
        self.records = records
        self._reading = reading
        self._places = [
            (index, number)
            for index in found.good
            for number in range(len(reading.questions(messages_of(records, index))))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Pair:
        record, number = self._places[index]
        return self._reading.questions(messages_of(self.records, record))[number]

    def place(self, index: int) -> str:
        """Where the question of this number stands."""
        return str(self.records.place(self._places[index][0]))


@dataclass(frozen=True)
class Collator:
    """Rows or pairs to one left-padded batch; only here are pictures opened, in the loader's worker processes.

    Rows give input_ids, attention_mask, position_ids, labels [B, T], and images [N, 3, S, S] of the rows that have one.
    Pairs give the same for prompt and answer together, and prompt_ids, prompt_mask, prompt_positions, answers [B, A].
    """

    tokenizer: Tokenizer
    image_size: int | None
    dtype: torch.dtype = torch.float32

    def __call__(self, items: Sequence[Row | Pair]) -> dict[str, Tensor]:
        rows = [item if isinstance(item, Row) else _whole(item) for item in items]
        out = self._batch([(row.ids, row.image) for row in rows])
        out["labels"] = _left_padded([row.labels for row in rows])
        pairs = [item for item in items if isinstance(item, Pair)]
        if pairs:
            asked = self._batch([(pair.prompt, None) for pair in pairs])
            out["prompt_ids"], out["prompt_mask"] = asked["input_ids"], asked["attention_mask"]
            out["prompt_positions"] = asked["position_ids"]
            width = max(len(pair.answer) for pair in pairs)
            out["answers"] = torch.tensor([pair.answer + [IGNORED] * (width - len(pair.answer)) for pair in pairs])
        return out

    def _batch(self, rows: Sequence[tuple[list[int], object]]) -> dict[str, Tensor]:
        encoded = [Encoded(ids=ids, image=image, image_position=None, spans=()) for ids, image in rows]  # type: ignore[arg-type]
        return batch(encoded, self.tokenizer, self.image_size, dtype=self.dtype)


def _whole(pair: Pair) -> Row:
    return Row([*pair.prompt, *pair.answer], [IGNORED] * len(pair.prompt) + pair.answer, pair.image)


def _left_padded(rows: Sequence[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[IGNORED] * (width - len(row)) + row for row in rows])


class GroupedByLength(Sampler[int]):
    """A random order in which rows of like length stand together; the same for the same seed and epoch.

    transformers' own draws from the global generator, so a resumed run would see another order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch = max(1, batch_size)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        span = self._batch * 50
        groups = [
            sorted(order[start : start + span], key=lambda index: -self._lengths[index])
            for start in range(0, len(order), span)
        ]
        # The longest batch comes first: if memory is too small, it is too small at once.
        if groups:
            longest = max(range(len(groups)), key=lambda group: self._lengths[groups[group][0]])
            groups[0], groups[longest] = groups[longest], groups[0]
        return iter([index for group in groups for index in group])
