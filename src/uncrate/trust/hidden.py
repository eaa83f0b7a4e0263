"""Text that shows a reviewer something else than what Python reads."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_ZERO_WIDTH = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2064\u206a-\u206f\u2028\u2029\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e01ef"
)
_CONTROL = "\x00-\x08\x0b\x0e-\x1f\x7f-\x9f"
_HIDDEN = re.compile(f"[{_BIDI}]|[{_ZERO_WIDTH}]|[{_CONTROL}]")
_IS_BIDI = re.compile(f"[{_BIDI}]")
_IS_CONTROL = re.compile(f"[{_CONTROL}]")
_WORD = re.compile(r"\w+")
_FAR_RIGHT = re.compile(r"[^\s#][ \t]{120,}[^\s#]")
_ENCODED = re.compile(r"[A-Za-z0-9+/=_\-]{256,}")
_ESCAPED = re.compile(rb"[A-Za-z0-9+/=_\-]{256,}")
_POWERFUL = frozenset(("eval", "exec", "compile", "open", "getattr", "setattr", "globals", "vars", "os", "__import__"))
_SCRIPTS = ("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU")


def hidden_text(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield line, column, what: bidi and zero-width characters, controls, look-alike names, code pushed far right."""
    for number, line in enumerate(text.split("\n"), 1):
        if found := _HIDDEN.search(line):
            yield number, found.start() + 1, _name(found[0], len(_HIDDEN.findall(line)))
        if not line.isascii():
            for word in _WORD.finditer(line):
                script = _mixed(word[0])
                if script:
                    yield number, word.start() + 1, f"a word of Latin and {script.title()} letters"
        if found := _FAR_RIGHT.search(line):
            yield number, found.end(), "text far to the right"


def _name(char: str, count: int) -> str:
    kind = "a bidirectional" if _IS_BIDI.match(char) else "a control" if _IS_CONTROL.match(char) else "an invisible"
    more = f", {count} on this line" if count > 1 else ""
    return f"{kind} character U+{ord(char):04X}{more}"


def _mixed(word: str) -> str | None:
    if word.isascii():
        return None
    if unicodedata.normalize("NFKC", word) in _POWERFUL:
        return "WIDE"  # inside an f-string, Python reads it as its own name
    if not any("a" <= char.lower() <= "z" for char in word):
        return None
    for char in word:
        name = unicodedata.name(char, "") if not char.isascii() else ""
        for script in _SCRIPTS:
            # A Greek letter with an index (Δt, μ_x) is common in mathematics; a Cyrillic one beside Latin is not.
            if name.startswith(script) and not (script == "GREEK" and len(word) <= 3):
                return script
    return None


def is_encoded(value: str | bytes) -> bool:
    """Whether a literal is a long run of base64-like characters: data or code that nobody can read."""
    if isinstance(value, str):
        return len(value) >= 256 and _ENCODED.search(value) is not None
    return (
        isinstance(value, bytes) and len(value) >= 256 and (_ESCAPED.search(value) is not None or not value.isascii())
    )
