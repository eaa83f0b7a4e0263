"""The nano tokenizer: byte pairs learned from the questions, their answers and a little general text.

Written in tiktoken's text format (base64 of the token's bytes, a space, its rank), with every single byte a rank, so
that any text can be encoded. No merge crosses a piece of the pattern that ChatGLM's tokenizer splits text by, and none
takes in more than one word or two Chinese characters: phrases stay made of words.
"""

from __future__ import annotations

import base64
from collections import Counter
from itertools import pairwise

import numpy as np
import regex
from questions import choose, choose_without_picture
from scenes import Bank, compose

from uncrate.models.chatglm.tokenizer import PATTERN

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
RANKS = 640 - len(SPECIAL_TOKENS)  # with the special tokens a multiple of 64, as padded_vocab_size wants it
PIECE = regex.compile(PATTERN)
TWO_CHARACTERS = 6  # bytes of two Chinese characters

GENERAL = """
A small model that reads a few handwritten digits and tells their colours and places. It was trained in less than an
hour on two cores, so that anybody can open it, ask it about a picture, change it and train it again. You are a helpful
assistant. The weather today is fine, and the sum of two and three is five. Please tell me more about this. Thank you.
这是一个小模型，它能看懂几个手写数字，说出它们的颜色和位置。它在两个核心上训练了不到一个小时，任何人都可以打开它，
问它关于图片的问题，修改它，再训练它。你是一个有用的助手。今天天气很好，二加三等于五。请再告诉我一些。谢谢。
"""


def learn(bank: Bank, seed: int) -> list[bytes]:
    """The tokens in the order of their ranks: 256 bytes, then merges by how often they occur; same seed, same list."""
    pieces = _pieces(bank, seed)
    words = {piece: [bytes([byte]) for byte in piece] for piece in pieces}
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < RANKS:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for piece, parts in words.items():
            for left, right in pairwise(parts):
                pairs[left, right] += pieces[piece]
        allowed = {pair: count for pair, count in pairs.items() if _allowed(pair[0] + pair[1])}
        best = min(allowed, key=lambda pair: (-allowed[pair], pair))
        tokens.append(best[0] + best[1])
        words = {piece: _merge(parts, best) for piece, parts in words.items()}
    return tokens


def write(tokens: list[bytes]) -> str:
    """The text of `tokenizer.model`."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def _pieces(bank: Bank, seed: int) -> Counter[bytes]:
    rng = np.random.default_rng(seed)
    texts = GENERAL.split("\n")
    for _ in range(1500):
        scene = compose(rng, bank, int(rng.integers(0, 5)))
        for question in [*choose(rng, scene, 6), *choose_without_picture(rng, 1)]:
            texts += [question.text, question.answer]
    return Counter(piece.encode() for text in texts for piece in PIECE.findall(text))


def _allowed(token: bytes) -> bool:
    return len(token) <= TWO_CHARACTERS or token.isascii()


def _merge(parts: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    index = 0
    while index < len(parts):
        if parts[index : index + 2] == [*pair]:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(parts[index])
            index += 1
    return merged
