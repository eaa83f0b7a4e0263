"""A tokenizer's files, read strictly: tiktoken's text format and the special tokens of tokenizer_config.json."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uncrate.errors import TokenizerError, escape
from uncrate.models.chatglm.tokens import MAX_ID

MAX_TOKEN_BYTES = 1 << 12


@dataclass(frozen=True)
class Specials:
    """The special tokens by name, and which of them `skip_special_tokens` leaves out."""

    ids: Mapping[str, int]
    hidden: frozenset[int]


def is_sentencepiece(data: bytes) -> bool:
    """Whether a tokenizer.model is SentencePiece's protobuf: it begins with the tag 0x0A, and no base64 does."""
    return data.startswith(b"\n") and len(data) > 1


def parse_ranks(data: bytes, *, where: str) -> dict[bytes, int]:
    """Return token to rank from lines of `BASE64 RANK`. Raises TokenizerError with the number of a wrong line."""
    lines = data.split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    if not data.strip():
        raise TokenizerError("the vocabulary is empty", where=where, next="download the file again")
    if lines[0].startswith(b"version https://git-lfs"):
        raise TokenizerError(
            "this is a Git LFS pointer, not a vocabulary",
            where=where,
            next="run `git lfs pull` in the checkpoint's folder",
        )
    ranks: dict[bytes, int] = {}
    try:
        for line in lines:
            token, rank = line.split()
            if not rank.isdigit() or len(rank) > 7:
                raise ValueError
            ranks[a2b_base64(token, strict_mode=True)] = int(rank)
    except (ValueError, Base64Error):
        raise _first_fault(lines, where) from None
    distinct = len(ranks) == len(lines) == len(set(ranks.values()))
    if distinct and max(ranks.values()) < MAX_ID and max(map(len, ranks)) <= MAX_TOKEN_BYTES and b"" not in ranks:
        return ranks
    raise _first_fault(lines, where)


def _first_fault(lines: list[bytes], where: str) -> TokenizerError:
    """Go through the lines slowly and say which one is wrong; the quick way only knows that one is."""
    tokens: dict[bytes, int] = {}
    ranks: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        shown = escape(line.decode("utf-8", errors="backslashreplace"))
        place = f"{where}, line {number}"
        parts = line.split()
        if len(parts) != 2:
            return TokenizerError(f"a line is 'BASE64 RANK', this one is '{shown}'", where=place)
        if not parts[1].isdigit() or len(parts[1]) > 7 or int(parts[1]) >= MAX_ID:
            return TokenizerError(f"the rank in '{shown}' is not a number from 0 to {MAX_ID - 1}", where=place)
        try:
            token = a2b_base64(parts[0], strict_mode=True)
        except Base64Error as error:
            return TokenizerError(f"the token in '{shown}' is not base64", where=place, why=str(error))
        if not 0 < len(token) <= MAX_TOKEN_BYTES:
            return TokenizerError(f"a token of {len(token)} bytes; 1 to {MAX_TOKEN_BYTES} are possible", where=place)
        rank = int(parts[1])
        for seen, key in ((tokens.get(token), "token"), (ranks.get(rank), "rank")):
            if seen is not None:
                return TokenizerError(f"the {key} of '{shown}' is already that of line {seen}", where=place)
        tokens[token], ranks[rank] = number, number
    raise AssertionError("the quick reading refused lines that the slow one accepts")


def parse_specials(config: Mapping[str, Any], ranks: Mapping[bytes, int], *, where: str) -> Specials:
    """Return the special tokens of `added_tokens_decoder`. Raises TokenizerError with the pointer of what is wrong."""
    table = config.get("added_tokens_decoder")
    if not isinstance(table, Mapping):
        raise TokenizerError(
            "added_tokens_decoder is missing" if table is None else "added_tokens_decoder is not an object",
            where=where,
            why="it gives <|user|>, <|assistant|> and the other special tokens their ids",
            next="take tokenizer_config.json from the same checkpoint as tokenizer.model",
        )
    taken = set(ranks.values())
    ids: dict[str, int] = {}
    hidden: set[int] = set()
    for key, entry in table.items():
        place = f"{where}#/added_tokens_decoder/{escape(key, 40)}"
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 7 and int(key) < MAX_ID):
            raise TokenizerError(f"'{escape(key)}' is not a token id", where=place)
        token = int(key)
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(content, str) or not content or not content.isprintable() or len(content) > 256:
            raise TokenizerError(f"the content {escape(content)} is not a special token's text", where=place)
        if token in taken:
            raise TokenizerError(f"{escape(content)} has id {token}, which another token has", where=place)
        if content in ids:
            raise TokenizerError(f"{escape(content)} has two ids, {ids[content]} and {token}", where=place)
        taken.add(token)
        ids[content] = token
        if entry.get("special") is not False:
            hidden.add(token)
    return Specials(ids=ids, hidden=frozenset(hidden))


def named_token(config: Mapping[str, Any], key: str, *, where: str) -> str | None:
    """Return the token text under `key` ("eos_token"), which is a text or an object with `content`; None if absent."""
    value = config.get(key)
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"{key} is {escape(value)}, not a text", where=where)
    return value


def picture_side(config: Mapping[str, Any], *, where: str) -> int | None:
    """Return `image_size`, the side of a picture in pixels, None if the checkpoint takes no pictures."""
    value = config.get("image_size")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 14:
        raise TokenizerError(f"image_size is {escape(value)}, not a number of pixels up to {1 << 14}", where=where)
    return value
