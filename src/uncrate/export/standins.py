"""Simpler definitions that take the place of ours in exported code, where our own would bring a long tail along."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import Regex, models, pre_tokenizers


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


def letters_of_bytes() -> dict[int, str]:
    """Map each byte to a printable letter of its own, as byte-level vocabularies are written."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


def every_merge(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return every pair of tokens that makes a token, in the order of the rank of what it makes."""
    found = []
    for token in sorted(ranks, key=ranks.__getitem__):
        pairs = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in ranks and token[at:] in ranks]
        found += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return found


class PairEncoding:
    """Byte pairs by the tokenizers library: the ids that tiktoken gives."""

    def __init__(self, *, name: str, pat_str: str, mergeable_ranks: Mapping[bytes, int], special_tokens: Any) -> None:
        letters = letters_of_bytes()
        spelled = {token: "".join(letters[byte] for byte in token) for token in mergeable_ranks}
        vocab = {spelled[token]: rank for token, rank in mergeable_ranks.items()}
        merges = [(spelled[left], spelled[right]) for left, right in every_merge(mergeable_ranks)]
        self._pairs = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
        self._pairs.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pat_str), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`; nothing in it is special."""
        ids: list[int] = self._pairs.encode(text, add_special_tokens=False).ids
        return ids


class Tiktoken:
    """What is asked of the package tiktoken, where it is not installed."""

    Encoding = PairEncoding
