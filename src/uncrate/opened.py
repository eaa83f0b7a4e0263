"""An opened checkpoint: the model, its tokenizer, and what can be done with both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from uncrate.answers import Answering, AnswerStream, Cancelled, Generation, Messages, check_conversations
from uncrate.errors import TokenizerError, UsageError
from uncrate.families.fields import Fields
from uncrate.generate.loop import Decoded, Limits, decode
from uncrate.generate.options import Sampling
from uncrate.models.chatglm.prompt import batch, encode_chat
from uncrate.models.chatglm.tokenizer import tokenizer_from_bytes
from uncrate.models.chatglm.tokens import TextStream, Tokenizer
from uncrate.plan import Plan
from uncrate.runtime.adapters import AdapterSet
from uncrate.runtime.carry_out import Report, fill
from uncrate.runtime.mapping import Mapped

if TYPE_CHECKING:
    from uncrate.runtime.rewrite import Written

TOKENIZER_LIMIT = 64 << 20


@dataclass(frozen=True, repr=False)
class Opened(Answering):
    """Here it is: `model` (a torch module in evaluation mode), `tokenizer` (None where the checkpoint has none), the
    typed `config`, the `plan` that was carried out, and the `report` of what it took.
    """

    model: nn.Module
    tokenizer: Tokenizer | None
    config: Any
    plan: Plan
    report: Report

    @cached_property
    def adapters(self) -> AdapterSet:
        """The adapters on the model: `add`, `use`, `disable`, `remove`."""
        return AdapterSet(self.model, self.plan)

    def save(self, folder: str | os.PathLike[str], *, shard_size: str = "5GB", force: bool = False) -> Written:
        """Write the model as it is now into the new folder `folder`; everything else of the checkpoint is kept.

        Raises UsageError for a place that is taken (`force` replaces a checkpoint) or while adapters are in use,
        DoesNotFit.
        """
        from uncrate.runtime.save import save

        return save(self, Path(folder), shard_size=shard_size, force=force)

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return torch.device(self.plan.device.name)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer: those of both configs and of the chat layout. Raises ConfigError."""
        file = Fields(self.plan.manifest.json_files.get("generation_config.json", {}), "generation_config.json")
        listed = file.token_ids("eos_token_id")
        file.done()
        layout = self.tokenizer.eos_ids if self.tokenizer else ()
        return frozenset((*listed, *self.config.eos_token_ids, *layout))

    @property
    def limits(self) -> Limits:
        """The model's sizes that generation needs."""
        config = self.config
        return Limits(
            layers=config.num_layers,
            groups=config.kv_groups,
            channels=config.kv_channels,
            words=config.padded_vocab_size,
            longest=config.seq_length,
            picture_positions=config.vision.image_tokens - 1 if config.vision else 0,
        )

    def prepare(self, conversations: Sequence[Messages]) -> dict[str, Tensor]:
        """Return model inputs for conversations: input_ids, attention_mask, position_ids [B, T], images [N, 3, S, S].

        Raises MessageError for a message the prompt cannot hold, PictureError for a picture that cannot be read.
        """
        tokenizer = self._need_tokenizer()
        vision = self.config.vision
        encoded = [
            encode_chat(tokenizer, messages, pictures=vision is not None)
            for messages in check_conversations(conversations)
        ]
        return batch(encoded, tokenizer, vision.image_size if vision else None, device=self.device)

    def _generate(
        self, conversations: Sequence[Messages], sampling: Sampling, cancelled: Cancelled
    ) -> list[Generation]:
        inputs = self.prepare(conversations)
        *_, decoded = self._decode(inputs, sampling, cancelled)
        prompts = inputs["attention_mask"].sum(1).tolist()
        return [self._answer(decoded, row, prompt) for row, prompt in enumerate(prompts)]

    def _stream(self, messages: Messages, sampling: Sampling, cancelled: Cancelled) -> Stream:
        return Stream(self, self.prepare([messages]), sampling, cancelled)

    def _decode(self, inputs: dict[str, Tensor], sampling: Sampling, cancelled: Cancelled) -> Iterator[Decoded]:
        if self.plan.task != "causal":
            raise UsageError("a classifier gives classes, not text", next="call opened.model(**opened.prepare(...))")
        return decode(self.model, inputs, sampling, self.limits, self.stop_ids, cancelled)

    def _answer(self, decoded: Decoded, row: int, prompt_tokens: int) -> Generation:
        tokens = tuple(decoded.rows[row].tokens)
        stream = AnswerText(self._need_tokenizer(), self.stop_ids)
        text = stream.push(tokens) + stream.flush()
        seconds = {"prefill": decoded.prefill_seconds, "decode": decoded.decode_seconds}
        reason = decoded.rows[row].finish_reason or "cancelled"
        return Generation(tokens, text, reason, int(prompt_tokens), len(tokens), seconds)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "the checkpoint has no tokenizer.model",
                where=str(self.plan.manifest.source),
                next="copy tokenizer.model and tokenizer_config.json beside the weights",
            )
        return self.tokenizer


class AnswerText:
    """Text of an answer from its tokens as they come: no stop token, no line end that the layout puts first."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self._text = TextStream(tokenizer, skip_special_tokens=True)
        self._stop_ids = stop_ids
        self._at_start = tokenizer.layout != "chatglm2"

    def push(self, tokens: Sequence[int]) -> str:
        return self._without_first_line_end(self._text.push([token for token in tokens if token not in self._stop_ids]))

    def flush(self) -> str:
        return self._without_first_line_end(self._text.flush())

    def _without_first_line_end(self, piece: str) -> str:
        if self._at_start and piece:
            self._at_start = False
            return piece.removeprefix("\n")
        return piece


class Stream(AnswerStream):
    """Pieces of one answer, each whole characters; `close` cancels it. `result` is the Generation so far."""

    def __init__(self, opened: Opened, inputs: dict[str, Tensor], sampling: Sampling, cancelled: Cancelled) -> None:
        self._opened = opened
        self._closed = False
        self._prompt_tokens = inputs["input_ids"].shape[1]
        self._decoded = Decoded([])
        self._pieces = self._run(opened._decode(inputs, sampling, lambda: self._closed or cancelled()))

    def _run(self, steps: Iterator[Decoded]) -> Iterator[str]:
        text = AnswerText(self._opened._need_tokenizer(), self._opened.stop_ids)
        done = 0
        for self._decoded in steps:
            tokens = self._decoded.rows[0].tokens
            piece = text.push(tokens[done:])
            done = len(tokens)
            if piece:
                yield piece
        rest = text.flush()
        if rest:
            yield rest

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop after the step under way; what was answered so far stays in `result`."""
        self._closed = True

    @property
    def result(self) -> Generation:
        """The answer so far; its finish_reason is "cancelled" until the stream has ended."""
        if not self._decoded.rows:
            return Generation((), "", "cancelled", self._prompt_tokens, 0, {"prefill": 0.0, "decode": 0.0})
        return self._opened._answer(self._decoded, 0, self._prompt_tokens)


def carry_out(plan: Plan, mapped: Mapped) -> Opened:
    """Do what a sound plan says: build, fill from the mapped weight files, open the tokenizer."""
    report = Report()
    model = fill(plan, mapped, report)
    with report.step("tokenizer"):
        tokenizer = _open_tokenizer(plan)
    opened = Opened(model, tokenizer, plan.config, plan, report)
    if plan.adapters:
        with report.step("adapters"):
            for adapter in plan.adapters:
                opened.adapters.attach(adapter)
    return opened


def _open_tokenizer(plan: Plan) -> Tokenizer | None:
    manifest, config = plan.manifest, plan.config
    if not any(file.path == "tokenizer.model" for file in manifest.files):
        return None
    files = manifest.open()
    where = f"{manifest.source}/tokenizer.model"
    tokenizer = tokenizer_from_bytes(
        files.read("tokenizer.model", TOKENIZER_LIMIT),
        manifest.json_files.get("tokenizer_config.json", {}),
        where=where,
        layout=(plan.generation or "").lower() if plan.generation in ("ChatGLM2", "ChatGLM3") else None,
    )
    if tokenizer.vocab_size > config.padded_vocab_size:
        raise TokenizerError(
            f"the tokenizer has {tokenizer.vocab_size} words, the model {config.padded_vocab_size}",
            where=where,
            why="the files belong to different checkpoints",
        )
    if config.vision is not None and tokenizer.takes_pictures:
        begin, end = tokenizer.special("<|begin_of_image|>"), tokenizer.special("<|end_of_image|>")
        if (begin, end) != (config.boi_token_id, config.eoi_token_id):
            raise TokenizerError(
                f"the tokenizer's image tokens are {begin} and {end}, "
                f"the config's {config.boi_token_id} and {config.eoi_token_id}",
                where=f"{manifest.source}/tokenizer_config.json",
                why="the files belong to different checkpoints",
            )
    return tokenizer
