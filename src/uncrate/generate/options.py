"""How the next token is chosen: one typed value, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from uncrate.errors import ConfigError, UsageError, escape


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The choice of tokens.

    temperature 0 is greedy. top_k 0 and top_p 1 keep all words; repetition_penalty 1 is none (it weakens every word
    of the
    prompt and the answer so far, as transformers does). `seed` makes a run repeatable; None draws a fresh one.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed"):
            value = getattr(self, name)
            _check(name, _is_whole(value) or (name == "seed" and value is None), value, "a whole number")
        for name in ("temperature", "top_p", "repetition_penalty"):
            value = getattr(self, name)
            _check(name, _is_number(value), value, "a number")
        _check("max_new_tokens", self.max_new_tokens >= 1, self.max_new_tokens, "at least 1")
        _check("temperature", 0.0 <= self.temperature <= 100.0, self.temperature, "between 0 and 100")
        _check("top_k", self.top_k >= 0, self.top_k, "0 (all words) or more")
        _check("top_p", 0.0 < self.top_p <= 1.0, self.top_p, "above 0, at most 1")
        _check(
            "repetition_penalty",
            0.01 <= self.repetition_penalty <= 100.0,
            self.repetition_penalty,
            "between 0.01 and 100",
        )
        _check("seed", self.seed is None or 0 <= self.seed < 1 << 63, self.seed, "0 or more, below 2**63")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest word is always taken."""
        return self.temperature == 0.0 or self.top_k == 1


def from_generation_config(values: Mapping[str, Any] | None, fallback: Sampling | None = None) -> Sampling:
    """Return what generation_config.json asks for; a file that does not say how to choose leaves that to `fallback`.

    Without `fallback` (the Python surface) silence means greedy, as in transformers. Raises ConfigError for a value
    that nobody can draw by.
    """
    try:
        return _from_generation_config(values or {}, fallback)
    except UsageError as error:
        raise ConfigError(
            error.what, where="generation_config.json", next="correct the file, or take it from the hub again"
        ) from error


def _from_generation_config(values: Mapping[str, Any], fallback: Sampling | None) -> Sampling:
    base = fallback or Sampling()
    said: dict[str, Any] = {}
    for key in ("temperature", "top_k", "top_p", "repetition_penalty"):
        if values.get(key) is not None:
            _check(key, _is_number(values[key]), values[key], "a number")
            said[key] = values[key]
    length = values.get("max_new_tokens")
    if isinstance(length, int) and _is_whole(length) and length >= 1:
        base = replace(base, max_new_tokens=length)
    if values.get("do_sample") is False or (not said and fallback is None):
        return replace(
            base, temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=float(said.get("repetition_penalty", 1.0))
        )
    if values.get("do_sample") is not True and fallback is None:
        return replace(base, repetition_penalty=float(said.get("repetition_penalty", 1.0)))
    if not said:
        return base
    return replace(
        base,
        temperature=float(said.get("temperature", 1.0)),
        top_k=said.get("top_k", 0),
        top_p=float(said.get("top_p", 1.0)),
        repetition_penalty=float(said.get("repetition_penalty", 1.0)),
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(name: str, ok: bool, value: object, wanted: str) -> None:
    if not ok:
        raise UsageError(f"{name} should be {wanted}, is {escape(repr(value))}")


# What GLM-4's own chat demo used; `uncrate chat` falls back to it where the checkpoint says nothing.
DEMO = Sampling(max_new_tokens=1024, temperature=0.6, top_p=0.8, repetition_penalty=1.2)
