"""Prefill, then one token a step for every row that is not done.

Axes in names: B rows still running, T prompt tokens, V words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from uncrate.errors import DoesNotFit
from uncrate.generate.cache import KVCache
from uncrate.generate.options import Sampling
from uncrate.generate.sample import Sampler


@dataclass(frozen=True)
class Limits:
    """The model's sizes that generation needs: cache shape, the longest position, how many positions a picture adds."""

    layers: int
    groups: int
    channels: int
    words: int
    longest: int
    picture_positions: int


@dataclass
class Row:
    """One row's answer so far. `finish_reason` is "stop", "length" or "cancelled" once it is done."""

    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Decoded:
    """All rows of a batch, with the seconds that prefill and decode took."""

    rows: list[Row]
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


def decode(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    sampling: Sampling,
    limits: Limits,
    stop_ids: frozenset[int],
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Decoded]:
    """Yield after every step, with each row's tokens so far; the stop token, once drawn, is the row's last token.

    `inputs` are input_ids, attention_mask, position_ids [B, T] and perhaps images, left-padded. `cancelled` is asked
    before every step. Raises DoesNotFit where the prompt leaves no position for an answer.
    """
    device = inputs["input_ids"].device
    count, length = inputs["input_ids"].shape
    position = inputs["position_ids"][:, -1:].clone()
    room = limits.longest - 1 - int(position.max())
    if room < 1:
        raise DoesNotFit(
            f"the prompt takes {limits.longest - room:,} positions, the model has {limits.longest:,}",
            next="shorten the conversation",
        )
    steps = min(sampling.max_new_tokens, room)
    expanded = length + (limits.picture_positions if "images" in inputs else 0)
    cache = KVCache(
        layers=limits.layers,
        batch=count,
        groups=limits.groups,
        capacity=expanded + steps,
        channels=limits.channels,
        dtype=next(model.parameters()).dtype,
        device=device,
    )
    seen = None
    if sampling.repetition_penalty != 1.0:
        seen = Sampler.words_seen(inputs["input_ids"], inputs["attention_mask"], limits.words)
    sampler = Sampler(sampling, seen, count, device)
    result = Decoded([Row() for _ in range(count)])
    running = list(range(count))
    start = time.perf_counter()
    with torch.inference_mode():
        logits = model(**inputs, cache=cache, logits_to_keep=1).logits[:, -1]
    result.prefill_seconds = time.perf_counter() - start
    for step in range(steps):
        start = time.perf_counter()
        with torch.inference_mode():
            tokens = sampler.choose(logits)
        kept = _take(result, running, tokens.tolist(), stop_ids, last=step == steps - 1)
        if kept and cancelled():
            for row in running:
                result.rows[row].finish_reason = result.rows[row].finish_reason or "cancelled"
            kept = []
        result.decode_seconds += time.perf_counter() - start
        yield result
        if not kept:
            return
        start = time.perf_counter()
        with torch.inference_mode():
            position = position + 1
            if len(kept) < len(running):  # rows that are done cost no more time
                rows = torch.tensor(kept, device=device)
                running = [running[index] for index in kept]
                tokens, position = tokens[rows], position[rows]
                cache.keep_rows(rows)
                sampler.keep_rows(rows)
            logits = model(tokens[:, None], position_ids=position, cache=cache, logits_to_keep=1).logits[:, -1]
        result.decode_seconds += time.perf_counter() - start


def _take(result: Decoded, running: list[int], tokens: list[int], stop_ids: frozenset[int], last: bool) -> list[int]:
    """Add each running row's token; returns the places in `running` that go on."""
    kept = []
    for place, (row, token) in enumerate(zip(running, tokens, strict=True)):
        answer = result.rows[row]
        answer.tokens.append(token)
        if token in stop_ids:
            answer.finish_reason = "stop"
        elif last:
            answer.finish_reason = "length"
        else:
            kept.append(place)
    return kept
