"""Simpler definitions that take the place of ours in exported code, where our own would bring a long tail along."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in `data`; ValueError where it is none."""
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: the top must be an object")
    return value


def thaw(value: Any) -> Any:
    """Return `value` with every mapping as a dict and every tuple as a list."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value
