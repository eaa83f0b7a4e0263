"""Typed, bounded reads of config.json: every fault is collected and all are told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncrate.errors import ConfigError, escape

# No real model comes near these; a config that exceeds one is a mistake or an attack on memory.
MOST_LAYERS = 1024
LARGEST_SIZE = 1 << 24


class Fields:
    """Reads one JSON object by key. A wrong or missing value is remembered and `done()` raises all of them together."""

    def __init__(self, values: Mapping[str, Any], where: str, pointer: str = "") -> None:
        self._values = values
        self._where = where
        self._pointer = pointer
        self.faults: list[str] = []

    def _fault(self, key: str, text: str) -> None:
        self.faults.append(f"{self._pointer}/{key}: {text}")

    def integer(self, key: str, *, low: int = 1, high: int = LARGEST_SIZE, default: int | None = None) -> int:
        """Return a whole number in [low, high]; a missing key is a fault unless `default` is given."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if key not in self._values:
            self._fault(key, "missing")
        elif not isinstance(value, int) or isinstance(value, bool):
            self._fault(key, f"should be a whole number, is {escape(repr(value))}")
        elif not low <= value <= high:
            self._fault(key, f"should be between {low} and {high}, is {escape(repr(value))}")
        else:
            return value
        return low

    def optional_integer(self, key: str, *, low: int = 0, high: int = LARGEST_SIZE) -> int | None:
        """Return a whole number in [low, high], or None where the key is missing or null."""
        return None if self._values.get(key) is None else self.integer(key, low=low, high=high)

    def number(self, key: str, *, low: float, high: float, default: float | None = None) -> float:
        """Return a finite number in [low, high] as float."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if key not in self._values:
            self._fault(key, "missing")
        elif not isinstance(value, int | float) or isinstance(value, bool):
            self._fault(key, f"should be a number, is {escape(repr(value))}")
        elif not low <= value <= high:
            self._fault(key, f"should be between {low:g} and {high:g}, is {escape(repr(value))}")
        else:
            return float(value)
        return low

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return true or false; `default` where the key is missing."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            self._fault(key, f"should be true or false, is {escape(repr(value))}")
            return default
        return value

    def text(self, key: str, *, default: str | None = None, known: tuple[str, ...] | None = None) -> str:
        """Return a text, one of `known` if given."""
        value = self._values.get(key, default)
        if value is None and key not in self._values:
            self._fault(key, "missing")
        elif not isinstance(value, str):
            self._fault(key, f"should be a text, is {escape(repr(value))}")
        elif known is not None and value not in known:
            self._fault(key, f"should be one of {', '.join(known)}, is {escape(repr(value))}")
        else:
            return value
        return default or ""

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Return one token id or a list of them as a tuple; empty where the key is missing or null."""
        value = self._values.get(key)
        if value is None:
            return ()
        items = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < LARGEST_SIZE for item in items):
            self._fault(key, f"should be a token id or a list of token ids, is {escape(repr(value))}")
            return ()
        return items

    def object(self, key: str) -> Fields | None:
        """Return a nested object's reader, or None where the key is missing or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._fault(key, f"should be an object, is {escape(repr(value))}")
            return None
        inner = Fields(value, self._where, f"{self._pointer}/{key}")
        inner.faults = self.faults
        return inner

    def require(self, ok: bool, key: str, text: str) -> None:
        """Remember a fault of `key` where a relation between fields does not hold."""
        if not ok:
            self._fault(key, text)

    def done(self) -> None:
        """Raise ConfigError with every fault found so far; return when there is none."""
        if self.faults:
            raise ConfigError(
                "the config cannot be built from:" + "".join(f"\n  - {fault}" for fault in self.faults),
                where=self._where,
                next="correct the named keys, or fetch config.json again from where the weights came from",
            )
