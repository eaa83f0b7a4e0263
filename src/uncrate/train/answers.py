"""Answers of the model under training, by uncrate's own generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uncrate.errors import ConfigError, RecipeError, UsageError, escape
from uncrate.generate.loop import decode
from uncrate.generate.options import Sampling, from_generation_config
from uncrate.opened import AnswerText, Opened
from uncrate.train.rows import IGNORED

# What a generation_config may say that means nothing here, or what greedy or sampled decoding already is.
_KNOWN = {"max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty"}
_NOTHING = {"eos_token_id", "pad_token_id", "bos_token_id", "use_cache", "num_beams", "transformers_version"}


def read_sampling(generation: Mapping[str, Any], longest: int) -> Sampling:
    """Return how evaluation chooses tokens: greedy unless `generation` says do_sample, at most `longest` by default.

    Raises RecipeError for what generation here cannot do.
    """
    unknown = sorted(set(generation) - _KNOWN - _NOTHING)
    if unknown or generation.get("num_beams", 1) not in (None, 1):
        named = ", ".join(unknown) or "num_beams"
        raise RecipeError(
            f"generation_config has {escape(named)}, which evaluation cannot do",
            why=f"it knows {', '.join(sorted(_KNOWN))}, and no beams",
        )
    values = {"max_new_tokens": longest, **generation}
    if not values.get("do_sample"):
        values["do_sample"] = False
    try:
        return from_generation_config(values)
    except (UsageError, ConfigError) as error:
        raise RecipeError(f"generation_config: {error.what}") from error


class Answerer:
    """Generates with the modules that are being trained, adapters included."""

    def __init__(self, opened: Opened, sampling: Sampling) -> None:
        self._model: nn.Module = opened.model
        self._sampling = sampling
        self._tokenizer = opened.tokenizer
        self._stop_ids = opened.stop_ids
        self._limits = opened.limits

    def tokens(self, batch: Mapping[str, Tensor]) -> list[list[int]]:
        """Return the answers to the prompts of a batch of pairs, each with its stop token where one was drawn."""
        inputs = {
            "input_ids": batch["prompt_ids"],
            "attention_mask": batch["prompt_mask"],
            "position_ids": batch["prompt_positions"],
        }
        if "images" in batch:
            inputs["images"] = batch["images"]
        transformer = self._model.get_submodule("transformer")
        was_training = transformer.training
        transformer.eval()
        try:
            *_, decoded = decode(self._model, inputs, self._sampling, self._limits, self._stop_ids)
        finally:
            transformer.train(was_training)
        return [row.tokens for row in decoded.rows]

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of an answer's tokens without its end and the line end before it; -100 is left out."""
        assert self._tokenizer is not None
        stream = AnswerText(self._tokenizer, self._stop_ids)
        return stream.push([token for token in tokens if token != IGNORED]) + stream.flush()


def padded(answers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return answers as int64 [B, A], -100 after each end."""
    width = max(1, *(len(answer) for answer in answers))
    return torch.tensor([[*answer, *[IGNORED] * (width - len(answer))] for answer in answers], device=device)
