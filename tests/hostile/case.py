"""A hostile checkpoint: a function that builds it into a folder, and what the refusal must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uncrate.errors import UncrateError

Builder = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """`build` writes the checkpoint; opening its manifest must raise `error` with every one of `says` in the text."""

    name: str
    build: Builder
    error: type[UncrateError]
    says: tuple[str, ...]


def collector(cases: list[Case]) -> Callable[..., Callable[[Builder], Builder]]:
    """Return a decorator that adds the function under it to `cases`: `@case(MalformedWeights, "part", ...)`."""

    def case(error: type[UncrateError], *says: str) -> Callable[[Builder], Builder]:
        def add(build: Builder) -> Builder:
            cases.append(Case(build.__name__, build, error, says))
            return build

        return add

    return case
