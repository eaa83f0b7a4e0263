"""The tokenizer of ChatGLM3-6B and ChatGLM2-6B: a SentencePiece model with special tokens behind it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from uncrate.errors import MissingPackage, TokenizerError, escape
from uncrate.models.chatglm.tokens import Tokenizer, encodable

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

# In this order, from the first id after the SentencePiece vocabulary. The files of these checkpoints do not say so;
# their code does.
SPECIALS_2 = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
SPECIALS_3 = (*SPECIALS_2, "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

_SPACE = "\u2581"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece vocabulary followed by ChatGLM3's or ChatGLM2's special tokens. Takes no pictures."""

    image_size = None
    tool_opening = ""

    def __init__(self, model: bytes, *, layout: str, where: str = "tokenizer.model") -> None:
        self._model = model
        self._where = where
        self.layout = layout
        size = self._processor.vocab_size()
        names = SPECIALS_3 if layout == "chatglm3" else SPECIALS_2
        self.special_ids = {name: size + index for index, name in enumerate(names)}
        self._names = {token: name.encode("utf-8") for name, token in self.special_ids.items()}
        self._hidden = frozenset(self._names)
        self.vocab_size = size + len(names)
        self.prefix = (self.special("[gMASK]"), self.special("sop"))
        stops = [
            self._processor.eos_id(),
            self.special_ids.get("<|user|>", -1),
            self.special_ids.get("<|observation|>", -1),
        ]
        self.eos_ids = tuple(token for token in stops if token >= 0)
        # The original pads with <unk>, id 0.
        self.pad_id = max(self._processor.unk_id(), 0)

    @classmethod
    def from_bytes(
        cls,
        tokenizer_model: bytes,
        tokenizer_config: Mapping[str, Any],
        *,
        where: str = "tokenizer.model",
        layout: str | None = None,
    ) -> SentencePieceTokenizer:
        """Return the tokenizer from its files' contents; `layout` None: told from what tokenizer_config.json names."""
        return cls(tokenizer_model, layout=layout or _layout(tokenizer_config), where=where)

    def encode_text(self, text: str) -> list[int]:
        encodable(text)
        ids: list[int] = self._processor.encode(text)
        return ids

    def token_bytes(self, token: int, *, first: bool) -> bytes:
        table = self._bytes
        data = table[token] if token < len(table) else b""
        # SentencePiece puts a blank before every text and takes it away again.
        return data[1:] if first and self._adds_blank and data.startswith(b" ") else data

    def _label(self, token: int) -> str:
        known = token < self._processor.vocab_size() and self._processor.is_control(token)
        return str(self._processor.id_to_piece(token)) if known else super()._label(token)

    @cached_property
    def _adds_blank(self) -> bool:
        pieces = self._processor.encode("a", out_type=str)
        return bool(pieces) and pieces[0].startswith(_SPACE)

    @cached_property
    def _bytes(self) -> list[bytes]:
        processor = self._processor
        table = []
        for token in range(processor.vocab_size()):
            piece = processor.id_to_piece(token)
            if processor.is_control(token) or processor.is_unused(token):
                table.append(b"")
            elif processor.is_unknown(token):
                table.append(" \u2047 ".encode())
            elif processor.is_byte(token):
                table.append(bytes((int(piece[3:5], 16),)))
            else:
                table.append(piece.replace(_SPACE, " ").encode("utf-8"))
        return table

    @cached_property
    def _processor(self) -> SentencePieceProcessor:
        if find_spec("sentencepiece") is None:
            raise MissingPackage(
                "this checkpoint's tokenizer is a SentencePiece model",
                where=self._where,
                why="the package that reads it is not installed",
                next="pip install sentencepiece",
            )
        from sentencepiece import SentencePieceProcessor

        try:
            return SentencePieceProcessor(model_proto=self._model)
        except (RuntimeError, ValueError, OSError) as error:
            raise TokenizerError(
                "this is neither a tiktoken vocabulary nor a SentencePiece model",
                where=self._where,
                why=escape(str(error)),
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_processor", "_bytes")}


def _layout(config: Mapping[str, Any]) -> str:
    """ChatGLM2's vocabulary is ChatGLM3's without role tokens; early files of both tell them apart by name alone."""
    name = config.get("name_or_path")
    return "chatglm2" if isinstance(name, str) and "chatglm2" in name.lower() else "chatglm3"
