"""What old slow tokenizers expect of `PreTrainedTokenizer`."""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type,operator"

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uncrate.runtime.compat.hooks import ClassBody, Hooks, Legacy

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _both(hooks: Hooks, mixin: type) -> None:
    for kind in ("slow tokenizer", "fast tokenizer"):
        hooks.mixins.setdefault(kind, []).append(mixin)


class LateVocabulary(Legacy):
    """Special tokens are added once there is a vocabulary to look them up in: when the outermost `__init__` is done."""

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        # The base class hands special tokens over as texts; a mask token that eats the space before it must keep doing
        # so.
        given = {str(token): token for token in self.all_special_tokens_extended}
        new_tokens = [given.get(token, token) if isinstance(token, str) else token for token in new_tokens]
        if not self.__dict__.get("_uncrate_depth"):
            added: int = super()._add_tokens(new_tokens, special_tokens=special_tokens)
            return added
        try:
            added = super()._add_tokens(new_tokens, special_tokens=special_tokens)
        except (AttributeError, TypeError, KeyError, NotImplementedError):
            # The vocabulary is a file that the class has not opened yet.
            self.__dict__.setdefault("_uncrate_pending", []).append((list(new_tokens), special_tokens))
            return 0
        return added

    def _uncrate_finish(self) -> None:
        for tokens, special in self.__dict__.pop("_uncrate_pending", []):
            self._add_tokens(tokens, special_tokens=special)
        # 4.x cleaned spaces up in decoded text unless told not to.
        if "clean_up_tokenization_spaces" not in self.init_kwargs:
            self.clean_up_tokenization_spaces = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name.removeprefix("_") in SPECIAL and "_special_tokens_map" not in self.__dict__:
            # Set before super().__init__(), which starts from nothing as it always did.
            self.__dict__["_special_tokens_map"] = dict.fromkeys(SPECIAL)
        if name.startswith("_") and name[1:] in SPECIAL:
            self.__dict__["_special_tokens_map"][name[1:]] = value
            return
        super().__setattr__(name, value)


def _edit_tokenizer_init(body: ClassBody) -> None:
    function = body.namespace.get("__init__")
    if body.kind != "slow tokenizer" or not inspect.isfunction(function):
        return

    @functools.wraps(function)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        depth = self.__dict__.get("_uncrate_depth", 0)
        self.__dict__["_uncrate_depth"] = depth + 1
        try:
            function(self, *args, **kwargs)
        finally:
            self.__dict__["_uncrate_depth"] = depth
        if depth == 0:
            del self.__dict__["_uncrate_depth"]
            self._uncrate_finish()

    body.namespace["__init__"] = __init__


def late_vocabulary(hooks: Hooks) -> None:
    """Let a slow tokenizer set its vocabulary after super().__init__()."""
    hooks.mixins.setdefault("slow tokenizer", []).append(LateVocabulary)
    hooks.edits.append(_edit_tokenizer_init)


class OldTokenizerNames(Legacy):
    """Attributes and methods that both kinds of tokenizers had."""

    @property
    def additional_special_tokens(self) -> list[str]:
        return [str(token) for token in self.__dict__.get("_extra_special_tokens", [])]

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Any) -> None:
        self.__dict__["_extra_special_tokens"] = list(value or [])

    # Old classes set the private name as well.
    _additional_special_tokens = additional_special_tokens

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        return [self.convert_tokens_to_ids(token) for token in self.additional_special_tokens]

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        known = {name: token for name, token in self._special_tokens_map.items() if token is not None}
        extra = self.__dict__.get("_extra_special_tokens", [])
        return {**known, **({"additional_special_tokens": list(extra)} if extra else {})}

    @property
    def all_special_tokens_extended(self) -> list[Any]:
        known = [token for token in self._special_tokens_map.values() if token is not None]
        return list({str(token): token for token in [*known, *self.__dict__.get("_extra_special_tokens", [])]}.values())

    def _legacy_token(self, name: str) -> tuple[bool, Any]:
        """Answer `_eos_token` and its like, which held a token as it was given."""
        if name.startswith("_") and name[1:] in SPECIAL and "_special_tokens_map" in self.__dict__:
            return True, self.__dict__["_special_tokens_map"].get(name[1:])
        return False, None

    def sanitize_special_tokens(self) -> int:
        added: int = self.add_tokens(self.all_special_tokens_extended, special_tokens=True)
        return added

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Encode one text, or one pair, into a BatchEncoding."""
        return self(text, text_pair, **options) if text_pair is not None else self(text, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> Any:
        """Encode a list of texts, pairs of texts, or lists of ids."""
        padding, truncation, max_length, rest = self._get_padding_truncation_strategies(
            padding=options.pop("padding", False),
            truncation=options.pop("truncation", None),
            max_length=options.pop("max_length", None),
            pad_to_multiple_of=options.get("pad_to_multiple_of"),
            verbose=options.get("verbose", True),
        )
        del rest
        return self._batch_encode_plus(
            batch_text_or_text_pairs,
            padding_strategy=padding,
            truncation_strategy=truncation,
            max_length=max_length,
            **options,
        )

    def _batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> Any:
        return self._encode_plus(batch_text_or_text_pairs, **options)

    def prepare_seq2seq_batch(self, src_texts: Any, tgt_texts: Any = None, **options: Any) -> Any:
        """Encode source texts, and target texts as labels."""
        made = self(src_texts, **options)
        if tgt_texts is not None:
            made["labels"] = self(text_target=tgt_texts, **options)["input_ids"]
        return made

    @contextmanager
    def as_target_tokenizer(self) -> Iterator[None]:
        """Encode as targets for a while."""
        for switch in ("_switch_to_target_mode", "_switch_to_input_mode"):
            if switch == "_switch_to_input_mode":
                yield
            if hasattr(self, switch):
                getattr(self, switch)()

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return None if tokens is None else super().convert_tokens_to_ids(tokens)

    def _set_model_specific_special_tokens(self, special_tokens: dict[str, Any]) -> None:
        # 4.x knew no such thing: a keyword that ends in "_token" is the class's own attribute, and no special token.
        del special_tokens


class OldBatches(Legacy):
    """Batches of texts, pairs or ids, each prepared alone and padded together; for slow tokenizers."""

    # Until 5.0 a tokenizer that names nothing gave token types as well.
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    def _batch_encode_plus(
        self,
        batch_text_or_text_pairs: Any,
        add_special_tokens: bool = True,
        padding_strategy: Any = None,
        truncation_strategy: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> Any:
        from transformers.tokenization_utils_base import BatchEncoding
        from transformers.utils import PaddingStrategy

        padding = getattr(padding_strategy, "value", padding_strategy) or PaddingStrategy.DO_NOT_PAD.value
        each: dict[str, list[Any]] = {}
        for item in batch_text_or_text_pairs:
            pair = isinstance(item, (list, tuple)) and len(item) == 2 and not isinstance(item[0], int)
            alone = is_split_into_words and isinstance(item, (list, tuple)) and not isinstance(item[0], (list, tuple))
            first, second = item if pair and not alone else (item, None)
            made = self.prepare_for_model(
                self._ids(first, is_split_into_words, kwargs),
                self._ids(second, is_split_into_words, kwargs) if second is not None else None,
                add_special_tokens=add_special_tokens,
                padding=PaddingStrategy.DO_NOT_PAD.value,
                truncation=getattr(truncation_strategy, "value", truncation_strategy) or False,
                max_length=max_length,
                stride=stride,
                return_attention_mask=False,
                return_token_type_ids=return_token_type_ids,
                return_overflowing_tokens=return_overflowing_tokens,
                return_special_tokens_mask=return_special_tokens_mask,
                return_length=return_length,
                verbose=verbose,
            )
            for key, value in made.items():
                each.setdefault(key, []).append(value)
        options = {"padding": padding, "max_length": max_length, "pad_to_multiple_of": pad_to_multiple_of}
        side = {"padding_side": padding_side} if padding_side is not None else {}
        batch = self.pad(each, **options, **side, return_attention_mask=return_attention_mask)
        return BatchEncoding(dict(batch), tensor_type=return_tensors)

    def _ids(self, text: Any, is_split_into_words: bool, kwargs: dict[str, Any]) -> list[int]:
        if isinstance(text, str):
            ids: list[int] = self.convert_tokens_to_ids(self.tokenize(text, **kwargs))
            return ids
        if len(text) == 0 or isinstance(text[0], int):
            return list(text)
        if is_split_into_words:
            ids = self.convert_tokens_to_ids([token for word in text for token in self.tokenize(word, **kwargs)])
            return ids
        ids = self.convert_tokens_to_ids(list(text))
        return ids


def old_methods(hooks: Hooks) -> None:
    """Give encode_plus, batch_encode_plus and the old attribute names back."""
    _both(hooks, OldTokenizerNames)
    hooks.mixins["slow tokenizer"].append(OldBatches)


class PropertyErrors(Legacy):
    """A property that fails has failed: today's base class hands out the property object instead."""

    def __getattr__(self, name: str) -> Any:
        if name == "_special_tokens_map" or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        answer = getattr(type(self), "_legacy_token", None)
        known, value = answer(self, name) if answer is not None else (False, None)
        if known:
            return value
        value = super().__getattr__(name)
        if isinstance(value, property):
            raise AttributeError(f"{type(self).__name__}.{name} is not ready")
        return value


def property_errors(hooks: Hooks) -> None:
    """Let failing properties raise."""
    _both(hooks, PropertyErrors)


def fast_converter(hooks: Hooks) -> None:
    """Convert a slow tokenizer by the checkpoint's own converter, and believe its tokenizer.json."""
    from uncrate.runtime.compat.tokenizer_files import FastFromSlow, OldFiles

    _both(hooks, OldFiles)
    hooks.mixins["fast tokenizer"].append(FastFromSlow)


def sentencepiece_extractor(hooks: Hooks) -> None:
    """Give the extractor its old method."""

    def old(real: Any) -> Any:
        def extract(self: Any, vocab_scores: Any = None, **kwargs: Any) -> Any:
            if isinstance(vocab_scores, type) or kwargs:
                return real.extract(self, vocab_scores, **kwargs)
            from transformers.convert_slow_tokenizer import generate_merges

            vocab = {piece.piece: index for index, piece in enumerate(self.proto.pieces)}
            return vocab, generate_merges(vocab, vocab_scores)

        return type(real.__name__, (real,), {"extract": extract, "__module__": __name__})

    hooks.replace[("transformers.convert_slow_tokenizer", "SentencePieceExtractor")] = old
