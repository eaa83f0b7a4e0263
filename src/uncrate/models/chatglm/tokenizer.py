"""GLM-4's tokenizer: byte pairs by tiktoken, from the checkpoint's own files, without tiktoken's network and cache."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncrate.checkpoint.jsonfile import parse_object
from uncrate.errors import MessageError, TokenizerError, escape
from uncrate.models.chatglm.tokenizer_sp import SentencePieceTokenizer
from uncrate.models.chatglm.tokens import STOPS, TextStream, Tokenizer, encodable
from uncrate.models.chatglm.vocabulary import is_sentencepiece, named_token, parse_ranks, parse_specials, picture_side

if TYPE_CHECKING:
    import tiktoken

__all__ = [
    "ChatGLMTokenizer",
    "SentencePieceTokenizer",
    "TextStream",
    "Tokenizer",
    "load_tokenizer",
    "tokenizer_from_bytes",
]

MAX_FILE_BYTES = 1 << 26

# How text is cut before pairs are merged. Part of the model: another cut gives other ids.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tiktoken's regular expressions panic on about a million blanks in a row. The cut is far beyond any text whose ids
# anybody has, and below the limit.
_LONG_BLANK = 1 << 18
_LONG_BLANKS = re.compile(rf"\s{{{_LONG_BLANK}}}")

_TOOL_NAME = {False: "GLM-4", True: "ChatGLM"}
_TOOL_OPENING = (
    "你是一个名为 {name} 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)
_TOOL_TITLE = "\n\n# 可用工具"


class ChatGLMTokenizer(Tokenizer):
    """The tokenizer of GLM-4V-9B and GLM-4-9B: a tiktoken vocabulary and special tokens with ids of their own."""

    layout = "glm4"

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special_ids: Mapping[str, int],
        *,
        pad_token: str,
        hidden: frozenset[int],
        image_size: int | None,
        tool_opening: str,
    ) -> None:
        self._ranks = dict(ranks)
        self._bytes = {rank: token for token, rank in self._ranks.items()}
        self._names = {token: name.encode("utf-8") for name, token in special_ids.items()}
        self._hidden = hidden
        self.special_ids = dict(special_ids)
        self.image_size = image_size
        self.tool_opening = tool_opening
        self.vocab_size = max(max(self._bytes), max(self._names, default=0)) + 1
        self.prefix = (self.special("[gMASK]"), self.special("<sop>"))
        self.eos_ids = tuple(self.special_ids[name] for name in STOPS if name in self.special_ids)
        self.pad_id = self.special(pad_token)

    @classmethod
    def from_folder(cls, path: str | Path) -> ChatGLMTokenizer:
        """Return the tokenizer of a checkpoint folder. Raises TokenizerError or MalformedJSON for a bad file."""
        folder = Path(path)
        model, config = folder / "tokenizer.model", folder / "tokenizer_config.json"
        return cls.from_bytes(_read(model), _read_config(config), where=str(model))

    @classmethod
    def from_bytes(
        cls, tokenizer_model: bytes, tokenizer_config: Mapping[str, Any], *, where: str = "tokenizer.model"
    ) -> ChatGLMTokenizer:
        """Return the tokenizer from its files' contents. Raises TokenizerError with the line or pointer at fault."""
        beside = str(Path(where).with_name("tokenizer_config.json"))
        if is_sentencepiece(tokenizer_model):
            raise TokenizerError(
                "this is a SentencePiece model, not a tiktoken vocabulary",
                where=where,
                why="ChatGLM3-6B and ChatGLM2-6B have one",
                next="load_tokenizer(FOLDER) opens both kinds",
            )
        ranks = parse_ranks(tokenizer_model, where=where)
        specials = parse_specials(tokenizer_config, ranks, where=beside)
        pad = named_token(tokenizer_config, "pad_token", where=beside) or named_token(
            tokenizer_config, "eos_token", where=beside
        )
        if pad is None or pad not in specials.ids:
            raise TokenizerError(
                "there is no padding token" if pad is None else f"the padding token {escape(pad)} has no id",
                where=beside,
                next='set "pad_token" to one of added_tokens_decoder',
            )
        return cls(
            ranks,
            specials.ids,
            pad_token=pad,
            hidden=specials.hidden,
            image_size=picture_side(tokenizer_config, where=beside),
            tool_opening=_tool_opening(tokenizer_config),
        )

    def encode_text(self, text: str) -> list[int]:
        encodable(text)
        if len(text) < _LONG_BLANK or not _LONG_BLANKS.search(text):
            ids = self._encoder.encode_ordinary(text)
        else:
            ids = [token for part in _cut_blanks(text) for token in self._encoder.encode_ordinary(part)]
        if self._missing and not self._missing.isdisjoint(ids):
            lost = next(self._missing_byte(token) for token in ids if token in self._missing)
            raise MessageError(
                f"the text holds the byte 0x{lost:02X}, for which the vocabulary has no token",
                where="tokenizer",
                why="a vocabulary without all 256 single bytes cannot spell every text",
            )
        return ids

    def token_bytes(self, token: int, *, first: bool) -> bytes:
        return self._bytes.get(token, b"")

    @cached_property
    def _missing(self) -> frozenset[int]:
        """Ids past the vocabulary that stand for single bytes it lacks: tiktoken panics where a byte has no rank."""
        top = max(self._bytes) + 1
        return frozenset(top + byte for byte in range(256) if bytes((byte,)) not in self._ranks)

    def _missing_byte(self, token: int) -> int:
        return token - max(self._bytes) - 1

    @cached_property
    def _encoder(self) -> tiktoken.Encoding:
        import tiktoken

        ranks = {**self._ranks, **{bytes((self._missing_byte(token),)): token for token in self._missing}}
        return tiktoken.Encoding(name="glm4", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    def __getstate__(self) -> dict[str, Any]:
        # tiktoken's object pickles by a registered name only; it is built anew where it is needed.
        return {key: value for key, value in self.__dict__.items() if key != "_encoder"}


def load_tokenizer(folder: str | Path, *, layout: str | None = None) -> Tokenizer:
    """Return the tokenizer of a ChatGLM checkpoint folder, of either kind. Raises TokenizerError, MissingPackage.

    `layout` ("chatglm3", "chatglm2") settles the chat prompt where the tokenizer's files leave it open.
    """
    path = Path(folder)
    model = path / "tokenizer.model"
    config = _read_config(path / "tokenizer_config.json")
    return tokenizer_from_bytes(_read(model), config, where=str(model), layout=layout)


def tokenizer_from_bytes(
    tokenizer_model: bytes,
    tokenizer_config: Mapping[str, Any],
    *,
    where: str = "tokenizer.model",
    layout: str | None = None,
) -> Tokenizer:
    """Return the tokenizer from its files' contents: tiktoken's text or a SentencePiece protobuf, judged by content."""
    if is_sentencepiece(tokenizer_model):
        return SentencePieceTokenizer.from_bytes(tokenizer_model, tokenizer_config, where=where, layout=layout)
    return ChatGLMTokenizer.from_bytes(tokenizer_model, tokenizer_config, where=where)


def _tool_opening(config: Mapping[str, Any]) -> str:
    """GLM-4V's sentence has no title after it; text checkpoints say theirs in `chat_template`, with one of two names.

    Only which of the known sentences it is gets read from the template; the template itself is never run.
    """
    template = config.get("chat_template")
    if not isinstance(template, str) or _TOOL_TITLE.strip() not in template:
        return _TOOL_OPENING.format(name=_TOOL_NAME[False])
    return _TOOL_OPENING.format(name=_TOOL_NAME["名为 ChatGLM " in template]) + _TOOL_TITLE


def _cut_blanks(text: str) -> list[str]:
    parts = []
    while found := _LONG_BLANKS.search(text):
        parts.append(text[: found.end()])
        text = text[found.end() :]
    return [*parts, text]


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise TokenizerError(
                "there is no such file" if not path.exists() else "this is not a regular file",
                where=str(path),
                next="take the tokenizer's files from the checkpoint's page on the hub",
            )
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TokenizerError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error
    if len(data) > MAX_FILE_BYTES:
        raise TokenizerError(f"the file is larger than {MAX_FILE_BYTES} bytes", where=str(path))
    return data


def _read_config(path: Path) -> Mapping[str, Any]:
    return parse_object(_read(path), str(path)) if path.exists() else {}
