"""An opened checkpoint whose model is transformers-style: the checkpoint's own class, or one of transformers'."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from uncrate.answers import Answering, AnswerStream, Cancelled, Generation, Messages, check_conversations
from uncrate.errors import MessageError, TokenizerError, UsageError
from uncrate.generate.options import Sampling
from uncrate.plan import Plan
from uncrate.plan.values import some_of
from uncrate.runtime.carry_out import Report
from uncrate.runtime.fill import Filled
from uncrate.runtime.foreign_open import open_foreign
from uncrate.runtime.mapping import Mapped


@dataclass(frozen=True, repr=False)
class OpenedForeign(Answering):
    """Here it is: `model` (a PreTrainedModel in evaluation mode), `tokenizer` (transformers', or None), the config
    object,
    the `plan` that was carried out, the `report` of what it took, and what became of every tensor (`filled`).
    """

    model: Any
    tokenizer: Any
    config: Any
    plan: Plan
    report: Report
    filled: Filled
    why_no_tokenizer: str = ""

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return torch.device(self.plan.device.name)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the class did with the stored tensors that its user should know: some unused, some initialised."""
        said = list(self.filled.notes)
        if self.filled.unexpected:
            said.append(f"stored, but used by nothing: {some_of(self.filled.unexpected)}")
        if self.filled.initialised:
            said.append(f"in no file, so initialised: {some_of(self.filled.initialised)}")
        return tuple(said)

    def prepare(self, conversations: Sequence[Messages]) -> dict[str, Any]:
        """Return the tokenizer's tensors for one conversation, by its chat template, else its plain text."""
        if len(check_conversations(conversations)) != 1:
            raise UsageError(
                "one conversation at a time on this route", next="call opened.tokenizer and opened.model.generate"
            )
        messages = [dict(message) for message in conversations[0]]
        tokenizer = self._need_tokenizer()
        # A tokenizer class of the checkpoint may bring its own template as a method, as GLM-4V's does.
        if getattr(tokenizer, "chat_template", None) or _has_own_template(tokenizer):
            pictures = [message for message in messages if message.get("image") is not None]
            for message in pictures:
                from uncrate.models.chatglm.image import open_picture

                message["image"] = open_picture(message["image"])
            encoded = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True
            )
        else:
            if any(message.get("image") is not None for message in messages):
                raise MessageError("this tokenizer takes no pictures", next="call the model's own methods")
            encoded = tokenizer("\n".join(str(message.get("content", "")) for message in messages), return_tensors="pt")
        return {name: value.to(self.device) for name, value in encoded.items() if isinstance(value, torch.Tensor)}

    def _generate(
        self, conversations: Sequence[Messages], sampling: Sampling, cancelled: Cancelled
    ) -> list[Generation]:
        return [self._run(self.prepare([messages]), sampling, cancelled, None) for messages in conversations]

    def _stream(self, messages: Messages, sampling: Sampling, cancelled: Cancelled) -> ForeignStream:
        return ForeignStream(self, self.prepare([messages]), sampling, cancelled)

    def _run(self, inputs: Mapping[str, Any], sampling: Sampling, cancelled: Cancelled, streamer: Any) -> Generation:
        from transformers import StoppingCriteriaList

        length = inputs["input_ids"].shape[1]
        options: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "do_sample": not sampling.greedy}
        if not sampling.greedy:
            options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        if sampling.repetition_penalty != 1.0:
            options["repetition_penalty"] = sampling.repetition_penalty
        stop = StoppingCriteriaList([lambda ids, scores, **_: torch.full((len(ids),), cancelled(), device=ids.device)])
        start = time.perf_counter()
        with torch.random.fork_rng(), torch.inference_mode():
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            out = self.model.generate(**inputs, **options, stopping_criteria=stop, streamer=streamer)
        row = (out if isinstance(out, torch.Tensor) else out.sequences)[0]
        # Encoder-decoders answer from their own start; decoders repeat the prompt first.
        tokens = row[1:] if getattr(self.config, "is_encoder_decoder", False) else row[length:]
        text = self._need_tokenizer().decode(tokens, skip_special_tokens=True)
        reason = "cancelled" if cancelled() else "length" if len(tokens) >= sampling.max_new_tokens else "stop"
        seconds = {"prefill": 0.0, "decode": time.perf_counter() - start}
        return Generation(tuple(tokens.tolist()), text, reason, length, len(tokens), seconds)

    def _need_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise TokenizerError(
                "there is no tokenizer",
                where=str(self.plan.manifest.source),
                why=self.why_no_tokenizer,
                next="call opened.model with ids of your own",
            )
        return self.tokenizer


class ForeignStream(AnswerStream):
    """Pieces of one answer as the model's own `generate` makes them, in a thread of its own; `close` cancels it."""

    def __init__(
        self, opened: OpenedForeign, inputs: Mapping[str, Any], sampling: Sampling, cancelled: Cancelled
    ) -> None:
        from transformers import TextIteratorStreamer

        self._closed = False
        self._error: BaseException | None = None
        self._result: Generation | None = None
        self._prompt_tokens = inputs["input_ids"].shape[1]
        self._pieces = TextIteratorStreamer(opened._need_tokenizer(), skip_prompt=True, skip_special_tokens=True)

        def work() -> None:
            try:
                self._result = opened._run(inputs, sampling, lambda: self._closed or cancelled(), self._pieces)
            except BaseException as error:  # handed to the reader, who raises it
                self._error = error
                self._pieces.on_finalized_text("", stream_end=True)

        self._thread = threading.Thread(target=work, name="uncrate-generate", daemon=True)
        self._thread.start()

    def __next__(self) -> str:
        for piece in self._pieces:
            if piece:
                return str(piece)
        self._thread.join()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        """Stop after the step under way."""
        self._closed = True

    @property
    def result(self) -> Generation:
        """The answer; its finish_reason is "cancelled" and it is empty until the stream has ended."""
        empty = Generation((), "", "cancelled", self._prompt_tokens, 0, {"prefill": 0.0, "decode": 0.0})
        return self._result or empty


def _has_own_template(tokenizer: Any) -> bool:
    """Whether the class overrides `apply_chat_template`."""
    from transformers import PreTrainedTokenizerBase

    return type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template


def carry_out(plan: Plan, mapped: Mapped) -> OpenedForeign:
    """Do what a sound plan says: run the approved code or take transformers' class, fill it, open the tokenizer."""
    report = Report()
    parts = open_foreign(plan, mapped, report)
    return OpenedForeign(parts.model, parts.tokenizer, parts.config, plan, report, parts.filled, parts.why_no_tokenizer)
