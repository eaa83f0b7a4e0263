"""GLM-4's byte pairs as tokenizer.json, for the Rust tokenizers library and everything built on it.

tiktoken joins whichever neighbours make the token of lowest rank; tokenizers joins pairs in the order of a list. Every
way to cut a token into two others stands in that list, in the order of the tokens' ranks, so both join the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from uncrate.errors import TokenizerError
from uncrate.export.standins import every_merge, letters_of_bytes
from uncrate.models.chatglm.tokenizer import PATTERN, ChatGLMTokenizer

FILE = "tokenizer.json"


def tokenizer_json(tokenizer: ChatGLMTokenizer) -> dict[str, Any]:
    """Return the contents of tokenizer.json. Raises TokenizerError for a vocabulary that lacks single bytes."""
    ranks: Mapping[bytes, int] = tokenizer._ranks
    missing = [byte for byte in range(256) if bytes((byte,)) not in ranks]
    if missing:
        raise TokenizerError(
            f"the vocabulary lacks {len(missing)} of 256 single bytes, and {FILE} cannot say so",
            where="tokenizer.model",
        )
    letters = letters_of_bytes()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    names = sorted(tokenizer.special_ids, key=tokenizer.special_ids.__getitem__)
    start = ("[gMASK]", "<sop>")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, tokenizer) for name in names],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*map(_special, start), {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                *map(_special, start),
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                _special("<|endoftext|>"),
            ],
            "special_tokens": {
                name: {"id": name, "ids": [tokenizer.special(name)], "tokens": [name]}
                for name in (*start, "<|endoftext|>")
            },
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelled[token]: rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])},
            "merges": [[spelled[left], spelled[right]] for left, right in every_merge(ranks)],
        },
    }


def dumped(tokenizer: ChatGLMTokenizer) -> str:
    """Return tokenizer.json as text."""
    return json.dumps(tokenizer_json(tokenizer), ensure_ascii=False, indent=1) + "\n"


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def _added(name: str, tokenizer: ChatGLMTokenizer) -> dict[str, Any]:
    token = tokenizer.special_ids[name]
    return {
        "id": token,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": token in tokenizer._hidden,
    }
