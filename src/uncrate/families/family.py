"""What uncrate must know of a model family to plan it: without torch, from config.json alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One native family.

    `claims` names the generation a config.json belongs to, or None. `read_config` returns the typed config (ConfigError
    tells every fault). `expected_tensors(config, task)` gives every parameter's shape. `classes` maps a task to the
    class
    as text, "module:Class"; nothing is imported to plan. `derived` maps a stored tensor's name to why it is left out.
    """

    name: str
    claims: Callable[[Mapping[str, Any]], str | None]
    read_config: Callable[[Mapping[str, Any], str], Any]
    expected_tensors: Callable[[Any, str], dict[str, Shape]]
    classes: Mapping[str, str]
    heads: Mapping[str, tuple[str, ...]]
    derived: Callable[[str, str], str | None]
