"""How an answer is drawn: flags before generation_config.json before what GLM-4's own demo used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from uncrate.errors import UsageError
from uncrate.generate.options import DEMO, Sampling, from_generation_config

MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Tokens that an answer has at most.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token: the same answer every time.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="T", help="Above 0; small is sober, large is wild.")
]
TopP = Annotated[
    float | None, typer.Option("--top-p", metavar="P", help="Draw from the likeliest tokens of probability P together.")
]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="K", help="Draw from the K likeliest tokens; 0 is all.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", metavar="R", help="Above 1 makes repeated words less likely.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Makes a drawn answer repeatable.")]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line says about drawing tokens; None where it says nothing."""

    max_tokens: int | None = None
    greedy: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        drawing = (("--temperature", self.temperature), ("--top-p", self.top_p), ("--top-k", self.top_k))
        clash = [name for name, value in drawing if value is not None]
        if self.greedy and clash:
            raise UsageError(
                f"--greedy draws nothing, so {clash[0]} has no meaning with it", next="leave one of them out"
            )
        self.over(Sampling())  # a value out of range is told before anything is opened

    def over(self, base: Sampling) -> Sampling:
        """Return `base` with what the flags say put over it. Raises UsageError for a value out of range."""
        if self.greedy:
            base = replace(base, temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
        given: dict[str, Any] = {
            "max_new_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
        }
        return replace(base, **{name: value for name, value in given.items() if value is not None})

    def choose(self, generation_config: Mapping[str, Any] | None) -> tuple[Sampling, str | None]:
        """Return how to draw for a checkpoint with this generation_config.json, and a remark on idle flags."""
        base = from_generation_config(generation_config, DEMO)
        chosen = self.over(base)
        idle = [name for name, value in (("--top-p", self.top_p), ("--top-k", self.top_k)) if value is not None]
        if chosen.temperature == 0.0 and idle and self.temperature is None:
            return chosen, f"{idle[0]} does nothing here: the checkpoint answers greedily; --temperature makes it draw"
        return chosen, None
