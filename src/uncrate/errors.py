"""Every error that uncrate raises on purpose, in one tree.

    UncrateError                 exit 1   failed: malformed, missing, does not fit
    ├── UsageError               exit 2   the command or an argument is wrong
    ├── NotApproved              exit 3   the checkpoint's code is not approved
    ├── SourceError                       WHERE names nothing that can be opened
    │   └── HubError                      the hub: no such repository, no access, no network
    ├── CheckpointError                   a file of the checkpoint is missing or malformed
    │   ├── MalformedJSON
    │   ├── MalformedWeights
    │   ├── ConfigError                   config.json says something that the family cannot be built from
    │   ├── CodeError                     a Python file or a reference to one
    │   └── AdapterError
    ├── PlanError                         the plan has problems: all of them, in one message
    ├── DoesNotFit                        memory, disk or context length
    ├── TokenizerError
    ├── PictureError                      not a picture, too large, or one too many
    ├── MessageError                      a chat message that the prompt cannot hold
    ├── DataError                         training or evaluation data
    ├── RecipeError                       a training configuration
    ├── TrustError                        uncrate.lock or the store of approved code is malformed, altered or unwritable
    └── MissingPackage                    an optional dependency is not installed

An error says what is wrong, where, why, and what to type next.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, ClassVar

VALUE_LIMIT = 120


def escape(value: object, limit: int = VALUE_LIMIT) -> str:
    """Return text from a checkpoint made harmless for a terminal or a log, cut at `limit` characters.

    Control, format (bidi, zero-width), surrogate and line-separator characters become `\\uXXXX` escapes.
    """
    text = value if isinstance(value, str) else repr(value)
    cut = text[:limit]
    out = []
    for char in cut:
        category = unicodedata.category(char)
        if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            code = ord(char)
            out.append(
                {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
                or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
            )
        else:
            out.append(char)
    return "".join(out) + ("…" if len(text) > limit else "")


class UncrateError(Exception):
    """Something the user can act on: `what` happened, `where`, `why`, and the `next` thing to type."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, next: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.next = next

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text = f"{self.where}: {text}"
        if self.why:
            text = f"{text}\n  why: {self.why}"
        if self.next:
            text = f"{text}\n  next: {self.next}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.why, self.next))

    def to_dict(self) -> dict[str, Any]:
        """Return the error as `--json` prints it: type, message, where, why, next."""
        return {
            "type": type(self).__name__,
            "message": self.what,
            "where": self.where,
            "why": self.why,
            "next": self.next,
        }


def _rebuild(kind: type[UncrateError], what: str, where: str | None, why: str | None, next: str | None) -> UncrateError:
    return kind(what, where=where, why=why, next=next)


class UsageError(UncrateError):
    """The command or an argument is wrong."""

    exit_code = 2


class NotApproved(UncrateError):
    """The checkpoint's own code would have to run and nobody approved it."""

    exit_code = 3


class SourceError(UncrateError):
    """WHERE names nothing that can be opened."""


class HubError(SourceError):
    """The hub has no such repository, revision or file, refuses access, or cannot be reached."""


class CheckpointError(UncrateError):
    """A file of the checkpoint is missing or malformed."""


class MalformedJSON(CheckpointError):
    """A JSON file breaks the rules of JSON or our bounds."""


class MalformedWeights(CheckpointError):
    """A safetensors file or index breaks the rules of the format."""


class ConfigError(CheckpointError):
    """config.json says something from which no model can be built."""


class CodeError(CheckpointError):
    """A Python file of the checkpoint, or a reference to one, cannot be accepted."""


class AdapterError(CheckpointError):
    """An adapter folder is malformed or its base cannot be found."""


class PlanError(UncrateError):
    """The plan has problems; `faults` holds every one of them as text."""

    def __init__(
        self,
        what: str,
        faults: Iterable[str] = (),
        *,
        where: str | None = None,
        why: str | None = None,
        next: str | None = None,
    ) -> None:
        super().__init__(what, where=where, why=why, next=next)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text += "".join(f"\n  - {fault}" for fault in self.faults)
        if self.why:
            text += f"\n  why: {self.why}"
        if self.next:
            text += f"\n  next: {self.next}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_plan, (type(self), self.what, self.faults, self.where, self.why, self.next))

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "faults": list(self.faults)}


def _rebuild_plan(
    kind: type[PlanError], what: str, faults: tuple[str, ...], where: str | None, why: str | None, next: str | None
) -> PlanError:
    return kind(what, faults, where=where, why=why, next=next)


class DoesNotFit(UncrateError):
    """Memory, disk or the context length is too small for what was asked."""


class TokenizerError(CheckpointError):
    """The tokenizer files are missing or malformed, or a token id is out of range."""


class PictureError(UncrateError):
    """A picture cannot be read, is too large, or is one too many."""


class MessageError(UncrateError):
    """A chat message has a role, a key or a type that the prompt cannot hold."""


class DataError(UncrateError):
    """A file of training or evaluation data is missing or malformed."""


class RecipeError(UncrateError):
    """A training configuration has an unknown or impossible value."""


class TrustError(UncrateError):
    """uncrate.lock or the store of approved code is malformed, was altered, or cannot be read or written."""


class MissingPackage(UncrateError):
    """An optional dependency is not installed."""
