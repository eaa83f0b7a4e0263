"""Logits to the next token of every row: repetition penalty, temperature, top-k, top-p, then greedy or a draw.

Axes in names: B rows, V words.
"""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from uncrate.errors import UncrateError
from uncrate.generate.options import Sampling


class Sampler:
    """Chooses tokens for a batch; each row has its own seeded generator, so neighbours change no answer."""

    def __init__(self, sampling: Sampling, seen_BV: Tensor | None, rows: int, device: torch.device) -> None:
        self.sampling = sampling
        self.seen = seen_BV
        self.generators: list[torch.Generator] = []
        if not sampling.greedy:
            seed = sampling.seed if sampling.seed is not None else secrets.randbelow(1 << 62)
            self.generators = [
                torch.Generator(device=device).manual_seed((seed + row) % (1 << 63)) for row in range(rows)
            ]

    @staticmethod
    def words_seen(input_ids: Tensor, mask: Tensor, words: int) -> Tensor:
        """Return bool [B, V]: the words that stand in each row's real tokens."""
        seen = torch.zeros(len(input_ids), words, dtype=torch.int32, device=input_ids.device)
        return seen.scatter_add_(1, input_ids, mask.to(torch.int32)).bool()

    def choose(self, logits_BV: Tensor) -> Tensor:
        """Return the chosen tokens [B] for logits [B, V] of any float dtype. Raises UncrateError for logits of NaN."""
        logits = logits_BV.float()
        if self.seen is not None and self.sampling.repetition_penalty != 1.0:
            penalty = self.sampling.repetition_penalty
            weaker = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self.seen, weaker, logits)
        scores = logits if self.sampling.greedy else self._draw(logits)
        best, tokens = scores.max(-1)
        if bool(best.isnan().any()):  # NaN is the largest of all, so it is always found here
            raise _not_numbers(logits_BV.dtype)
        if self.seen is not None:
            self.seen[torch.arange(len(tokens), device=tokens.device), tokens] = True
        return tokens

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but these indices [R]."""
        if self.seen is not None:
            self.seen = self.seen[rows]
        if self.generators:
            self.generators = [self.generators[index] for index in rows.tolist()]

    def _draw(self, logits: Tensor) -> Tensor:
        """Return [B, V] of which the largest is the draw."""
        scores = restrict(logits / self.sampling.temperature, top_k=self.sampling.top_k, top_p=self.sampling.top_p)
        probabilities = scores.softmax(-1)
        # The largest of p / Exp(1) noise is a draw from p; the noise comes row by row from the row's own generator.
        noise = torch.empty_like(probabilities)
        for row, generator in enumerate(self.generators):
            noise[row].exponential_(generator=generator)
        return probabilities / noise.clamp_(min=1e-30)


def _not_numbers(dtype: torch.dtype) -> UncrateError:
    half = dtype == torch.float16
    return UncrateError(
        "the model computed NaN in place of an answer",
        why="float16 holds nothing above 65,504, and this model goes beyond" if half else "its weights may be broken",
        next="open it with dtype bfloat16 or float32" if half else "compare the weight files with where they came from",
    )


def restrict(logits_BV: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Set all but the `top_k` likeliest words, and all outside the smallest set of probability `top_p`, to -inf.

    At least one word always stays; equal scores at the edge of top-k stay together.
    """
    if 0 < top_k < logits_BV.shape[-1]:
        edge = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < edge, -torch.inf)
    if top_p < 1.0:
        ordered, order = logits_BV.sort(dim=-1, descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= top_p)
        logits_BV = logits_BV.masked_fill(dropped, -torch.inf)
    return logits_BV
