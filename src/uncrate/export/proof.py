"""tokenizer.json against the tokenizer it was made of, on text of every kind."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from uncrate.errors import MissingPackage, TokenizerError, escape
from uncrate.models.chatglm.tokens import Tokenizer

CHARACTERS = 300_000
_TEXT = """the of and to in is that it was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then them
I'm you're we'll it's they'd I've DON'T model.weights[0] def forward(self, x): return x+1 https://example.com/?q=1
café naïve Straße Ünïcode ﬁne ΑΒΓ привет こんにちは 안녕하세요 สวัสดี नमस्ते שלום مرحبا"""
_WORDS: list[str] = re.findall(r"\S+", _TEXT)
_CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多"
)
_ODD = (
    "\U0001f600\U0001f469\u200d\U0001f52c\U0001f1e8\U0001f1f3\u200b\u00a0\u3000\ufeff\t\x0b\x0c\x85\u2028"
    "①²½Ⅷ…—“”，。！？"
)
_BLANKS = (" ", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "   \t ", "\u3000", "\u00a0 ", "\n\n\n    ")


def sample_texts(characters: int = CHARACTERS) -> Iterator[str]:
    """Yield texts of `characters` in all: English, Chinese, code, numbers, emoji, odd blanks, any letter of Unicode."""
    draw = random.Random(2024)
    done = 0
    while done < characters:
        text = "".join(_piece(draw) for _ in range(draw.randrange(1, 400)))
        done += len(text)
        yield text


def _piece(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.35:
        return draw.choice(_WORDS) + draw.choice((" ", " ", ", ", ".", "'s ", "'S"))
    if kind < 0.6:
        return "".join(draw.choices(_CHINESE, k=draw.randrange(1, 12))) + draw.choice(("", "，", "。\n"))
    if kind < 0.7:
        return str(draw.randrange(10 ** draw.randrange(1, 14)))
    if kind < 0.85:
        return draw.choice(_BLANKS) * draw.randrange(1, 4)
    if kind < 0.95:
        return "".join(draw.choices(_ODD, k=draw.randrange(1, 5)))
    return chr(draw.choice((*range(0x20, 0x250), *range(0x370, 0x530), *range(0x4E00, 0x9FA0))))


def prove_tokenizer(tokenizer: Tokenizer, path: Path) -> int:
    """Compare ids on `sample_texts`; returns the characters. Raises TokenizerError with the first text that differs."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingPackage(
            "tokenizer.json cannot be proven",
            why="the package tokenizers is not installed",
            next="pip install tokenizers",
        ) from error
    rust = tokenizers.Tokenizer.from_file(str(path))
    done = 0
    for text in sample_texts():
        wanted, got = tokenizer.encode_text(text), rust.encode(text, add_special_tokens=False).ids
        if wanted != got:
            at = next((i for i, pair in enumerate(zip(wanted, got, strict=False)) if pair[0] != pair[1]), len(got))
            raise TokenizerError(
                f"tokenizer.json gives other ids: {got[at : at + 4]} for {wanted[at : at + 4]}",
                where=escape(tokenizer.decode(wanted[max(at - 4, 0) : at + 4])),
                next="leave --tokenizer-json away, and send this to the authors of uncrate",
            )
        done += len(text)
    return done
