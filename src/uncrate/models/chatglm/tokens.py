"""What every ChatGLM tokenizer can do, and text that arrives id by id without broken characters."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from operator import index
from typing import SupportsIndex

from uncrate.errors import MessageError, TokenizerError, escape

# Ids that a file may give to a token. Tables of real models have some 150,000 rows; a file that says 10**12 is hostile.
MAX_ID = 1 << 22

STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")


class Tokenizer(ABC):
    """Text to ids and back; special tokens are reached by name only, so that no text can contain one.

    `layout` names the chat prompt the model was trained on: "glm4", "chatglm3" or "chatglm2".
    `image_size` is the side in pixels that a picture is brought to, None where the checkpoint's tokenizer names none.
    `tool_opening` is the sentence before the list of tools.
    """

    layout: str
    special_ids: Mapping[str, int]
    prefix: tuple[int, ...]
    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int
    image_size: int | None
    tool_opening: str
    _hidden: frozenset[int]
    _names: Mapping[int, bytes]

    @abstractmethod
    def encode_text(self, text: str) -> list[int]:
        """Return the ids of `text`, in which special tokens are plain text. Raises MessageError for lone surrogates."""

    @abstractmethod
    def token_bytes(self, token: int, *, first: bool) -> bytes:
        """Return the bytes of one ordinary token; `first` when text starts with it. An unused id has none."""

    @property
    def takes_pictures(self) -> bool:
        """Whether a chat can hold a picture: the token exists and the tokenizer knows a picture's size."""
        return self.image_size is not None and "<|begin_of_image|>" in self.special_ids

    def special(self, name: str) -> int:
        """Return the id of the special token `name`. Raises TokenizerError that names the known ones."""
        found = self.special_ids.get(name)
        if found is None:
            known = " ".join(escape(known) for known in self.special_ids)
            raise TokenizerError(
                f"there is no special token {escape(name)}",
                where="tokenizer",
                why=f"the checkpoint has: {known or 'none'}",
            )
        return found

    def decode(self, ids: Iterable[SupportsIndex], *, skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`, special tokens by name or left out; bytes that are not UTF-8 become U+FFFD.

        Ids that no token has give nothing: embedding tables are padded, so that a model can choose one.
        Raises TokenizerError for what is not an id at all.
        """
        return self.decode_bytes(ids, skip_special_tokens=skip_special_tokens).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[SupportsIndex], *, skip_special_tokens: bool = False) -> bytes:
        """Return the bytes of `ids`; see `decode`."""
        return b"".join(self._pieces(ids, True, skip_special_tokens))

    def describe(self, ids: Iterable[SupportsIndex]) -> str:
        """Return `ids` for a person to read: text with special tokens by name and unused ids as `<unused:714>`.

        Text that looks like a special token is shown as it is.
        """
        out: list[str] = []
        run: list[int] = []
        for token in [*map(_checked, ids), -1]:
            if token >= 0 and (token in self._names or self._known(token)):
                run.append(token)
                continue
            out.append(self.decode(run))
            run = []
            if token >= 0:
                out.append(self._label(token))
        return "".join(out)

    def _known(self, token: int) -> bool:
        return bool(self.token_bytes(token, first=False))

    def _label(self, token: int) -> str:
        """How `describe` shows an id that has no text."""
        return f"<unused:{token}>"

    def _pieces(self, ids: Iterable[SupportsIndex], first: bool, skip: bool) -> Iterator[bytes]:
        """Yield the bytes of each id. A special token starts a new text, as SentencePiece needs to know."""
        for token in map(_checked, ids):
            name = self._names.get(token)
            if name is None:
                yield self.token_bytes(token, first=first)
            elif not (skip and token in self._hidden):
                yield name
            first = name is not None


class TextStream:
    """Text from ids that arrive a few at a time; no piece ever ends inside a character.

    The pieces put together equal `tokenizer.decode` of all ids, U+FFFD for invalid bytes included.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._first = True
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text that `ids` complete; bytes of an unfinished character wait for the next call."""
        data = b""
        for token in map(_checked, ids):
            data += b"".join(self._tokenizer._pieces((token,), self._first, self._skip))
            self._first = token in self._tokenizer._names
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Return what is left at the end: "" or one U+FFFD for a character that never got complete. Starts anew."""
        self._first = True
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def _checked(token: SupportsIndex) -> int:
    # numpy's and torch's integers are welcome, as plain ones; True is no id and 1.0 is a mistake somewhere else.
    try:
        value = index(token)
    except TypeError:
        value = None
    if value is None or isinstance(token, bool):
        raise TokenizerError(
            f"{escape(token)} is not a token id", where="tokenizer", why="an id is a whole number from 0"
        )
    if value < 0:
        raise TokenizerError(
            f"{value} is not a token id",
            where="tokenizer",
            why="an id is a whole number from 0; labels use -100 for positions without a target",
        )
    return value


def encodable(text: str) -> bytes:
    """Return the UTF-8 of `text`. Raises MessageError where it is not text or holds half of a surrogate pair."""
    if not isinstance(text, str):
        raise MessageError(f"text is wanted, not {type(text).__name__}", where="tokenizer")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(
            f"the text has half of a surrogate pair, U+{ord(text[error.start]):04X}, at character {error.start}",
            where="tokenizer",
            why="no UTF-8 text can hold one; it comes from bytes that were decoded wrongly or a cut emoji",
            next="text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') repairs it",
        ) from error
