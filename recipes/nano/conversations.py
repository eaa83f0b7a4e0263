"""Conversations about scenes as the model's inputs: several questions on one picture make one row.

A picture costs the vision tower the same however much is asked about it, so most rows hold several turns. The loss
counts every answer and the token that ends it, which is the next turn's `<|user|>`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from questions import Question, choose, choose_without_picture
from scenes import Bank, Scene, compose, draw, roughen

from uncrate.models.chatglm.image import MEAN, STD
from uncrate.models.chatglm.tokenizer import ChatGLMTokenizer

IGNORED = -100
MOST_TURNS = 8
WITHOUT_PICTURE = 0.03


@dataclass(frozen=True)
class Batch:
    """One step of talking: `input_ids`, `labels` [B, T] int64; `images` [N, 3, S, S] float32 for the first N rows."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    images: torch.Tensor
    scenes: list[Scene]


class Encoder:
    """Turns conversations into ids as `uncrate.models.chatglm.prompt` does, with labels; texts are encoded once."""

    def __init__(self, tokenizer: ChatGLMTokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[str, list[int]] = {}
        self._picture = [tokenizer.special(f"<|{name}|>") for name in ("begin_of_image", "endoftext", "end_of_image")]
        self._user, self._assistant = tokenizer.special("<|user|>"), tokenizer.special("<|assistant|>")
        self.pad_id = tokenizer.pad_id

    def _text(self, text: str) -> list[int]:
        if text not in self._texts:
            self._texts[text] = self._tokenizer.encode_text(text)
        return self._texts[text]

    def conversation(self, turns: list[Question], *, picture: bool) -> tuple[list[int], list[int]]:
        """Ids and labels of one row, of the same length; labels stand at their own token, as the model expects them."""
        ids, labels = [*self._tokenizer.prefix], [IGNORED] * len(self._tokenizer.prefix)
        for index, turn in enumerate(turns):
            shown = self._picture if picture and index == 0 else []
            asked = [self._user, *self._text("\n"), *shown, *self._text(turn.text), self._assistant]
            answer = [*self._text("\n"), *self._text(turn.answer)]
            stop = self._user if index else IGNORED  # the role token that opens this turn ended the answer before
            ids += asked + answer
            labels += [stop, *[IGNORED] * (len(asked) - 1), *answer]
        return [*ids, self._user], [*labels, self._user]


def normalise(pictures: np.ndarray) -> torch.Tensor:
    """Pictures [N, S, S, 3] in 0..255, rounded as in a file, to what the vision tower reads: [N, 3, S, S] float32."""
    scaled = (np.rint(pictures) / np.float32(255.0) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32))


def make_pictures(
    rng: np.random.Generator, bank: Bank, *, rows: int, size: int, freedom: float = 1.0
) -> tuple[list[Scene], torch.Tensor]:
    """Random scenes and what the vision tower reads of them, [N, 3, S, S] float32, roughened as files are."""
    counts = rng.choice(5, size=rows, p=[0.03, 0.25, 0.24, 0.24, 0.24])
    scenes = [compose(rng, bank, int(count), freedom) for count in counts]
    return scenes, normalise(roughen(draw(scenes, bank, size), rng))


def make_batch(
    rng: np.random.Generator, bank: Bank, encoder: Encoder, *, rows: int, size: int, drill: tuple[str, ...] = ()
) -> Batch:
    """A random batch of conversations, a few of them without a picture."""
    blind = int(rng.binomial(rows, WITHOUT_PICTURE))
    scenes, images = make_pictures(rng, bank, rows=rows - blind, size=size)
    turns = int(rng.integers(1, MOST_TURNS + 1))
    encoded = [encoder.conversation(choose(rng, scene, turns, drill), picture=True) for scene in scenes]
    for _ in range(blind):
        encoded.append(encoder.conversation(choose_without_picture(rng, turns), picture=False))
    width = max(len(ids) for ids, _ in encoded)
    input_ids = np.full((rows, width), encoder.pad_id, dtype=np.int64)  # padded on the right, where nothing looks back
    labels = np.full((rows, width), IGNORED, dtype=np.int64)
    for row, (ids, wanted) in enumerate(encoded):
        input_ids[row, : len(ids)] = ids
        labels[row, : len(wanted)] = wanted
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), images, scenes)
