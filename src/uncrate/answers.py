"""What every opened checkpoint offers: answers, all at once or piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from uncrate.errors import MessageError
from uncrate.generate.options import Sampling, from_generation_config
from uncrate.show import plain_sheet, seconds_text, size_text

if TYPE_CHECKING:
    from uncrate.plan import Plan
    from uncrate.runtime.carry_out import Report

Messages = Sequence[Mapping[str, Any]]
Cancelled = Callable[[], bool]


def never() -> bool:
    """The answer of nobody who wants to cancel."""
    return False


@dataclass(frozen=True)
class Generation:
    """One answer. `tokens` end with the stop token where one was drawn; `text` is without it.

    finish_reason: "stop", "length" or "cancelled". seconds: prefill and decode of its whole batch.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: Mapping[str, float]


class AnswerStream(Iterator[str], ABC):
    """Pieces of one answer, each whole characters; `close` cancels it. `result` is the Generation so far."""

    @abstractmethod
    def close(self) -> None:
        """Stop after the step under way; what was answered so far stays in `result`."""

    @property
    @abstractmethod
    def result(self) -> Generation:
        """The answer so far; its finish_reason is "cancelled" until the stream has ended."""


class Answering(ABC):
    """Generation by one set of options, whatever model is behind it."""

    plan: Plan
    report: Report

    def to_dict(self) -> dict[str, Any]:
        """Return the plan that was carried out, and what it took."""
        report = {"seconds": dict(self.report.seconds), "peak_bytes": dict(self.report.peak_bytes)}
        return {**self.plan.to_dict(), "report": report}

    def sheet(self) -> list[tuple[str, str]]:
        """Return what is open and what it took as label and value rows for a person."""
        steps = ", ".join(f"{name} {seconds_text(seconds)}" for name, seconds in self.report.seconds.items())
        peak = size_text(max(self.report.peak_bytes.values(), default=0))
        return [*self.plan.sheet(), ("opened in", f"{steps}; the process's peak is {peak}")]

    def __str__(self) -> str:
        return plain_sheet(self.sheet())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.plan.asked.source}>"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know that the plan could not: nothing, where the plan knows all."""
        return ()

    @property
    def sampling(self) -> Sampling:
        """How the checkpoint's generation_config.json wants tokens chosen; greedy where it does not say."""
        return from_generation_config(self.plan.manifest.json_files.get("generation_config.json"))

    @abstractmethod
    def _generate(
        self, conversations: Sequence[Messages], sampling: Sampling, cancelled: Cancelled
    ) -> list[Generation]:
        """Answer every conversation."""

    @abstractmethod
    def _stream(self, messages: Messages, sampling: Sampling, cancelled: Cancelled) -> AnswerStream:
        """Answer one conversation piece by piece."""

    def generate(
        self,
        conversations: Sequence[Messages],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        cancelled: Cancelled = never,
    ) -> list[Generation]:
        """Return one answer for each conversation; options left out are the checkpoint's own.

        temperature 0 is greedy. `cancelled` is asked before every step. Raises MessageError for a message that the
        prompt
        cannot hold, PictureError for a picture that cannot be read, DoesNotFit for a prompt that is too long.
        """
        sampling = merge_sampling(
            self.sampling,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        return self._generate(check_conversations(conversations), sampling, cancelled)

    def stream(
        self,
        messages: Messages,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        cancelled: Cancelled = never,
    ) -> AnswerStream:
        """Return the answer to one conversation as an iterator of text pieces; options and errors as in `generate`."""
        sampling = merge_sampling(
            self.sampling,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        return self._stream(messages, sampling, cancelled)


def merge_sampling(
    base: Sampling,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
) -> Sampling:
    """Return `base` with every option that is not None replaced."""
    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def check_conversations(conversations: Sequence[Messages]) -> Sequence[Messages]:
    """Return the conversations; MessageError where one conversation, or a text, stands in place of the list."""
    if isinstance(conversations, Mapping | str) or any(isinstance(item, Mapping | str) for item in conversations):
        raise MessageError(
            "a list of conversations is wanted, each a list of messages",
            next="put the messages in one more list: [messages]",
        )
    return conversations
