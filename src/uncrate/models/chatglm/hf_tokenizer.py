"""The ChatGLM tokenizers as a transformers tokenizer: the native one inside, its ids, and the methods people call.

Special tokens of the chat layout are never found in text: `tokenizer("<|user|>")` gives the ids of that spelling. What
stands for a special token is written by `apply_chat_template`, or asked for with `split_special_tokens=False`. Tokens
that a user adds are found in text, as everywhere in transformers.
"""

# transformers' own annotations are too narrow to override its methods by them.
# mypy: disable-error-code="override,misc,assignment,attr-defined,arg-type,return-value"

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken
from transformers import BatchEncoding, PreTrainedTokenizer

from uncrate.errors import TokenizerError, UsageError
from uncrate.models.chatglm.hf_chat import ChatMethods
from uncrate.models.chatglm.tokenizer import MAX_FILE_BYTES, tokenizer_from_bytes
from uncrate.models.chatglm.tokenizer_sp import SentencePieceTokenizer

VOCABULARY = "tokenizer.model"
# Saved beside the ordinary keys: which tokens of a saved tokenizer text is searched for.
_FOUND_IN_TEXT = "found_in_text"
# What transformers hands down beside the keys of tokenizer_config.json.
_NOT_KEPT = ("is_local", "local_files_only", "backend", "name_or_path", "_from_auto", "_commit_hash")


def _byte_letters() -> dict[int, int]:
    """Map each byte to a printable letter of its own, as byte-level vocabularies are written in JSON."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in set(visible))
    return {byte: byte for byte in visible} | {byte: 256 + index for index, byte in enumerate(hidden)}


_LETTERS = _byte_letters()
_BYTES = {chr(letter): byte for byte, letter in _LETTERS.items()}


class ChatGLMTokenizer(ChatMethods, PreTrainedTokenizer):
    """The tokenizer of GLM-4V, GLM-4, ChatGLM3 and ChatGLM2 checkpoints.

    Calling it puts [gMASK]<sop> in front and returns input_ids, attention_mask and position_ids. It pads on the left;
    `padding_side="right"` is for training and classification, where nothing is generated behind the padding.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": VOCABULARY}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask", "position_ids"]
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str,
        padding_side: str = "left",
        image_size: int | None = None,
        chat_layout: str | None = None,
        found_in_text: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Open `vocab_file`; the rest is what tokenizer_config.json holds. Raises TokenizerError."""
        self._source_config = {key: _plain(value) for key, value in kwargs.items() if key not in _NOT_KEPT}
        self._model_bytes = _read(vocab_file)
        table = {**self._source_config, "image_size": image_size}
        self.native = tokenizer_from_bytes(self._model_bytes, table, where=str(vocab_file), layout=chat_layout)
        self.image_size = self.native.image_size
        self.chat_layout = chat_layout
        self.name = "GLMTokenizer"
        self._found: dict[str, int] = {}
        hidden = self.native._hidden
        self._added_tokens_decoder = {
            token: AddedToken(name, special=token in hidden, normalized=False)
            for name, token in self.native.special_ids.items()
        }
        kwargs.pop("added_tokens_decoder", None)
        kwargs.setdefault("pad_token", self._token_name(self.native.pad_id))
        if self.native.eos_ids:
            kwargs.setdefault("eos_token", self._token_name(self.native.eos_ids[0]))
        optional = {"image_size": image_size, "chat_layout": chat_layout}
        super().__init__(
            vocab_file=str(vocab_file),
            padding_side=padding_side,
            **{key: value for key, value in optional.items() if value is not None},
            **kwargs,
        )
        # Of the tokens that are there from the start, text is searched for those alone that a user once added.
        self._found = {
            name: token
            for name, token in self._added_tokens_encoder.items()
            if name in found_in_text or token >= self.native.vocab_size
        }
        # What transformers calls splitting: special tokens in a text are its letters.
        self.split_special_tokens = True

    def _token_name(self, token: int) -> str:
        added = self._added_tokens_decoder.get(token)
        return self._convert_id_to_token(token) if added is None else added.content

    @property
    def vocab_size(self) -> int:
        """Ordinary tokens, without the special ones."""
        specials = self.native.special_ids.values()
        return min(specials, default=self.native.vocab_size)

    def __len__(self) -> int:
        return max(self.native.vocab_size, max(self._added_tokens_decoder, default=0) + 1)

    def _update_total_vocab_size(self) -> None:
        self.total_vocab_size = len(self)

    def get_vocab(self) -> dict[str, int]:
        return {**self._ordinary, **self._added_tokens_encoder}

    @cached_property
    def _ordinary(self) -> dict[str, int]:
        """Every ordinary token as text, each byte as a letter of its own."""
        return {self._convert_id_to_token(token): token for token in range(self.vocab_size) if self._spelled(token)}

    def _spelled(self, token: int) -> bytes:
        return self.native.token_bytes(token, first=False)

    def _add_tokens(self, new_tokens: Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Give new tokens the ids after the last one; returns how many were new."""
        count = 0
        for given in new_tokens:
            name = str(given)
            if not name or name in self._added_tokens_encoder:
                continue
            known = self._ordinary.get(name)
            token = len(self) if known is None else known
            special = special_tokens or (isinstance(given, AddedToken) and given.special)
            added = given if isinstance(given, AddedToken) else AddedToken(name, normalized=False, special=special)
            self._added_tokens_decoder[token], self._added_tokens_encoder[name] = added, token
            self._found[name] = token
            if special and name not in self.all_special_tokens:
                self._extra_special_tokens.append(added)
            count += known is None
        self._update_total_vocab_size()
        return count

    def text_ids(self, text: str, *, split_special_tokens: bool | None = None) -> list[int]:
        """Return the ids of a text without any prefix. False finds the layout's special tokens in it, too."""
        found = dict(self._found)
        if not (self.split_special_tokens if split_special_tokens is None else split_special_tokens):
            found |= self._added_tokens_encoder
        if not found or not any(name in text for name in found):
            return self.native.encode_text(text)
        cut = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
        ids: list[int] = []
        for piece in re.split(f"({cut})", text):
            if piece in found:
                ids.append(found[piece])
            elif piece:
                ids += self.native.encode_text(piece)
        return ids

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        ids = self.text_ids(text, split_special_tokens=kwargs.get("split_special_tokens"))
        if pair is not None:
            ids += self.text_ids(pair, split_special_tokens=kwargs.get("split_special_tokens"))
        return self.convert_ids_to_tokens(self.build_inputs_with_special_tokens(ids) if add_special_tokens else ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.convert_ids_to_tokens(self.native.encode_text(text))

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **kwargs: Any) -> Any:
        """Return the ids of a text, [gMASK]<sop> in front; options as in transformers."""
        if isinstance(text, str) and text_pair is None and not kwargs.keys() - {"split_special_tokens", "verbose"}:
            # One text and nothing to pad: no mask and no positions have to be made to be thrown away.
            ids = self.text_ids(text, split_special_tokens=kwargs.get("split_special_tokens"))
            whole = [*self.native.prefix, *ids] if add_special_tokens else ids
            self._eventual_warn_about_too_long_sequence(whole, None, kwargs.get("verbose", True))
            return whole
        return super().encode(text, text_pair, add_special_tokens, **kwargs)

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> BatchEncoding:
        # Texts become ids at once; the way over tokens as strings costs several times as much.
        split = kwargs.pop("split_special_tokens", None)
        if not kwargs.get("is_split_into_words"):
            text, text_pair = self._to_ids(text, split), self._to_ids(text_pair, split)
        return super()._encode_plus(text, text_pair, **kwargs)

    def _to_ids(self, text: Any, split: bool | None) -> Any:
        if isinstance(text, str):
            # transformers refuses an empty list of ids, but takes an empty text.
            return self.text_ids(text, split_special_tokens=split) or ""
        if isinstance(text, list) and text and isinstance(text[0], str):
            return [self.text_ids(item, split_special_tokens=split) or "" for item in text]
        if isinstance(text, list) and text and isinstance(text[0], tuple):
            return [tuple(self._to_ids(part, split) for part in pair) for pair in text]
        return text

    def _convert_token_to_id(self, token: str | bytes) -> int | None:
        if isinstance(token, bytes):  # as the original code spells tokens
            token = token.decode("latin-1").translate(_LETTERS)
        return self._ordinary.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        if isinstance(self.native, SentencePieceTokenizer) and index < self.vocab_size:
            return str(self.native._processor.id_to_piece(index))
        return self.native.token_bytes(index, first=False).decode("latin-1").translate(_LETTERS)

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        if isinstance(self.native, SentencePieceTokenizer):
            known = (self._added_tokens_encoder.get(token, self._ordinary.get(token)) for token in tokens)
            return self.native.decode(token for token in known if token is not None)
        data = b""
        for token in tokens:
            added = token in self._added_tokens_encoder
            data += token.encode() if added else bytes(_BYTES[letter] for letter in token if letter in _BYTES)
        return data.decode("utf-8", errors="replace")

    def _decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(token) for token in token_ids]
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        text = self._decode_ids(ids, skip_special_tokens)
        return self.clean_up_tokenization(text) if clean else text

    def _decode_ids(self, ids: list[int], skip: bool) -> str:
        own = {
            token: added
            for token, added in self._added_tokens_decoder.items()
            if added.content not in self.native.special_ids
        }
        if not own or own.keys().isdisjoint(ids):
            return self.native.decode(ids, skip_special_tokens=skip)
        text, run = "", []
        for token in ids:
            if token not in own:
                run.append(token)
                continue
            shown = "" if skip and own[token].special else own[token].content
            text += self.native.decode(run, skip_special_tokens=skip) + shown
            run = []
        return text + self.native.decode(run, skip_special_tokens=skip)

    def get_prefix_tokens(self) -> list[int]:
        """Return the ids of [gMASK]<sop>, which every text starts with."""
        return list(self.native.prefix)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return [gMASK]<sop> A, or [gMASK]<sop> A B <eos>."""
        ids = [*self.native.prefix, *token_ids_0]
        return ids if token_ids_1 is None else [*ids, *token_ids_1, *self.native.eos_ids[:1]]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        if already_has_special_tokens:
            special = set(self.native.special_ids.values())
            return [int(token in special) for token in token_ids_0]
        mask = [1] * len(self.native.prefix) + [0] * len(token_ids_0)
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), *[1] * len(self.native.eos_ids[:1])]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    def _pad(self, encoded_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        ids = encoded_inputs["input_ids"]
        positions = encoded_inputs.get("position_ids", list(range(len(ids))))
        padded = super()._pad(encoded_inputs, *args, **kwargs)
        added = len(padded["input_ids"]) - len(ids)
        side = kwargs.get("padding_side") or self.padding_side
        padded["position_ids"] = [*positions, *[0] * added] if side == "right" else [*[0] * added, *positions]
        return padded

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write tokenizer.model as it was read; returns its path."""
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}{VOCABULARY}"
        path.write_bytes(self._model_bytes)
        return (str(path),)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save the tokenizer; tokenizer_config.json keeps the keys it had, the class name of its own code included."""
        saved: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(saved[0])
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        source = self._source_config
        if isinstance(config.get("extra_special_tokens"), list):  # the name that every release of transformers reads
            config["additional_special_tokens"] = [_name(token) for token in config.pop("extra_special_tokens")]
        if "auto_map" in source and self._auto_class is None:
            config["auto_map"] = source["auto_map"]
        named = source.get("tokenizer_class") or _own_class(source.get("auto_map"))
        config["tokenizer_class"] = named or config["tokenizer_class"]
        for key in _NOT_KEPT:
            config.pop(key, None)
        if self._found:
            config[_FOUND_IN_TEXT] = sorted(self._found)
        path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        return saved


def _own_class(auto_map: Any) -> str | None:
    """Return the class name that `auto_map` gives the checkpoint's own tokenizer."""
    listed = auto_map.get("AutoTokenizer") if isinstance(auto_map, Mapping) else None
    first = listed[0] if isinstance(listed, list | tuple) and listed else None
    return first.rpartition(".")[2] if isinstance(first, str) else None


def _name(token: Any) -> Any:
    return token["content"] if isinstance(token, Mapping) else token


def _plain(value: Any) -> Any:
    """Return a keyword as tokenizer_config.json spells it: tokens as text, ids as texts in a table."""
    if isinstance(value, AddedToken):
        return value.content
    if isinstance(value, Mapping):
        return {
            str(key): {"content": item.content, "special": item.special}
            if isinstance(item, AddedToken)
            else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read(path: str) -> bytes:
    file = Path(path)
    if not file.is_file():
        raise TokenizerError(
            "there is no such file", where=str(path), next=f"the folder of a ChatGLM checkpoint holds {VOCABULARY}"
        )
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return file.read_bytes()
