"""What old slow tokenizers expect of `PreTrainedTokenizer`."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
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
        # The base class hands special tokens over as texts; a mask token that eats the space before it must keep doing so.
        given = {str(token): token for token in self.all_special_tokens_extended}  # type: ignore[attr-defined]
        new_tokens = [given.get(token, token) if isinstance(token, str) else token for token in new_tokens]
        if not self.__dict__.get("_uncrate_depth"):
            added: int = super()._add_tokens(new_tokens, special_tokens=special_tokens)  # type: ignore[misc]
            return added
        try:
            added = super()._add_tokens(new_tokens, special_tokens=special_tokens)  # type: ignore[misc]
        except (AttributeError, TypeError, KeyError, NotImplementedError):
            # The vocabulary is a file that the class has not opened yet.
            self.__dict__.setdefault("_uncrate_pending", []).append((list(new_tokens), special_tokens))
            return 0
        return added

    def _uncrate_finish(self) -> None:
        for tokens, special in self.__dict__.pop("_uncrate_pending", []):
            self._add_tokens(tokens, special_tokens=special)
        # 4.x cleaned spaces up in decoded text unless told not to.
        if "clean_up_tokenization_spaces" not in self.init_kwargs:  # type: ignore[attr-defined]
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
        return [self.convert_tokens_to_ids(token) for token in self.additional_special_tokens]  # type: ignore[attr-defined]

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        known = {name: token for name, token in self._special_tokens_map.items() if token is not None}  # type: ignore[attr-defined]
        extra = self.__dict__.get("_extra_special_tokens", [])
        return {**known, **({"additional_special_tokens": list(extra)} if extra else {})}

    @property
    def all_special_tokens_extended(self) -> list[Any]:
        known = [token for token in self._special_tokens_map.values() if token is not None]  # type: ignore[attr-defined]
        return list({str(token): token for token in [*known, *self.__dict__.get("_extra_special_tokens", [])]}.values())

    def _legacy_token(self, name: str) -> tuple[bool, Any]:
        """Answer `_eos_token` and its like, which held a token as it was given."""
        if name.startswith("_") and name[1:] in SPECIAL and "_special_tokens_map" in self.__dict__:
            return True, self.__dict__["_special_tokens_map"].get(name[1:])
        return False, None

    def sanitize_special_tokens(self) -> int:
        added: int = self.add_tokens(self.all_special_tokens_extended, special_tokens=True)  # type: ignore[attr-defined]
        return added

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Encode one text, or one pair, into a BatchEncoding."""
        return self(text, text_pair, **options) if text_pair is not None else self(text, **options)  # type: ignore[operator]

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> Any:
        """Encode a list of texts, pairs of texts, or lists of ids."""
        padding, truncation, max_length, rest = self._get_padding_truncation_strategies(  # type: ignore[attr-defined]
            padding=options.pop("padding", False),
            truncation=options.pop("truncation", None),
            max_length=options.pop("max_length", None),
            pad_to_multiple_of=options.get("pad_to_multiple_of"),
            verbose=options.get("verbose", True),
        )
        del rest
        return self._batch_encode_plus(
            batch_text_or_text_pairs, padding_strategy=padding, truncation_strategy=truncation, max_length=max_length, **options
        )

    def _batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> Any:
        return self._encode_plus(batch_text_or_text_pairs, **options)  # type: ignore[attr-defined]

    def prepare_seq2seq_batch(self, src_texts: Any, tgt_texts: Any = None, **options: Any) -> Any:
        """Encode source texts, and target texts as labels."""
        made = self(src_texts, **options)  # type: ignore[operator]
        if tgt_texts is not None:
            made["labels"] = self(text_target=tgt_texts, **options)["input_ids"]  # type: ignore[operator]
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
        return None if tokens is None else super().convert_tokens_to_ids(tokens)  # type: ignore[misc]

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
            made = self.prepare_for_model(  # type: ignore[attr-defined]
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
        batch = self.pad(each, **options, **side, return_attention_mask=return_attention_mask)  # type: ignore[attr-defined]
        return BatchEncoding(dict(batch), tensor_type=return_tensors)

    def _ids(self, text: Any, is_split_into_words: bool, kwargs: dict[str, Any]) -> list[int]:
        if isinstance(text, str):
            ids: list[int] = self.convert_tokens_to_ids(self.tokenize(text, **kwargs))  # type: ignore[attr-defined]
            return ids
        if len(text) == 0 or isinstance(text[0], int):
            return list(text)
        if is_split_into_words:
            ids = self.convert_tokens_to_ids([token for word in text for token in self.tokenize(word, **kwargs)])  # type: ignore[attr-defined]
            return ids
        ids = self.convert_tokens_to_ids(list(text))  # type: ignore[attr-defined]
        return ids


def old_methods(hooks: Hooks) -> None:
    """Give encode_plus, batch_encode_plus and the old attribute names back."""
    _both(hooks, OldTokenizerNames)
    hooks.mixins["slow tokenizer"].append(OldBatches)


class OldText(Legacy):
    """From text to tokens and back as 4.x did for slow tokenizers: lower-casing, and added tokens kept apart in decoding."""

    def tokenize(self, text: Any, **kwargs: Any) -> list[str]:
        if getattr(self, "do_lower_case", False) and isinstance(text, str):
            text = self._lowered(text)
        tokens: list[str] = super().tokenize(text, **kwargs)  # type: ignore[misc]
        return tokens

    def _lowered(self, text: str) -> str:
        kept = [re.escape(token) for token in self.all_special_tokens]  # type: ignore[attr-defined]
        added = self._added_tokens_decoder.values()  # type: ignore[attr-defined]
        kept += [re.escape(token.content) for token in added if not token.special and token.normalized]
        pattern = "(" + "|".join(sorted(kept, key=len, reverse=True)) + ")|(.+?)" if kept else "()(.+?)"
        return re.sub(pattern, lambda found: found.group(1) or found.group(2).lower(), text, flags=re.DOTALL)

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
        **kwargs: Any,
    ) -> str:
        found = self.convert_ids_to_tokens(token_ids, skip_special_tokens=skip_special_tokens)  # type: ignore[attr-defined]
        tokens = [found] if isinstance(found, str) else found
        special = set(self.all_special_tokens)  # type: ignore[attr-defined]
        extra = self.__dict__.get("_extra_special_tokens", [])
        apart = set(self._added_tokens_encoder) - special  # type: ignore[attr-defined]
        apart |= {str(token) for token in extra if self.convert_tokens_to_ids(str(token)) >= self.vocab_size}  # type: ignore[attr-defined]
        pieces: list[str] = []
        run: list[str] = []
        for token in tokens:
            if skip_special_tokens and token in special:
                continue
            if token in apart:
                pieces += [piece for piece in [self.convert_tokens_to_string(run) if run else ""] if piece]  # type: ignore[attr-defined]
                pieces.append(token)
                run = []
            else:
                run.append(token)
        if run:
            pieces.append(self.convert_tokens_to_string(run))  # type: ignore[attr-defined]
        text = (" " if spaces_between_special_tokens else "").join(pieces)
        clean = self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces  # type: ignore[attr-defined]
        return self.clean_up_tokenization(text) if clean else text  # type: ignore[attr-defined,no-any-return]


def _edit_signatures(body: ClassBody) -> None:
    if body.kind not in ("slow tokenizer", "fast tokenizer"):
        return
    for name, wrap in (("_pad", _pad_without_side), ("tokenize", _known_keywords), ("_tokenize", _known_keywords)):
        function = body.namespace.get(name)
        if inspect.isfunction(function):
            body.namespace[name] = wrap(function)
    if body.kind == "slow tokenizer" and inspect.isfunction(body.namespace.get("_encode_plus")):
        body.namespace["_encode_plus"] = _one_at_a_time(body.namespace["_encode_plus"])


def _pad_without_side(function: Callable[..., Any]) -> Callable[..., Any]:
    """Serve a `padding_side` argument to a `_pad` written before there was one."""
    parameters = inspect.signature(function).parameters
    if "padding_side" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return function

    @functools.wraps(function)
    def _pad(self: Any, *args: Any, padding_side: str | None = None, **kwargs: Any) -> Any:
        usual = self.padding_side
        self.padding_side = padding_side or usual
        try:
            return function(self, *args, **kwargs)
        finally:
            self.padding_side = usual

    return _pad


def _known_keywords(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep keywords that came later away from a method that never heard of them."""
    parameters = inspect.signature(function).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    later = ("return_offsets_mapping", "return_special_tokens_mask", "sanitize_control_tokens", "split_special_tokens")

    @functools.wraps(function)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if takes_all:
            kwargs = {name: value for name, value in kwargs.items() if value or name not in later or name in parameters}
        else:
            kwargs = {name: value for name, value in kwargs.items() if name in parameters}
        return function(self, *args, **kwargs)

    return called


def _one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """Send batches to `_batch_encode_plus`: an old `_encode_plus` knows single texts only."""

    @functools.wraps(function)
    def _encode_plus(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        split = kwargs.get("is_split_into_words", False)
        inside = text[0] if isinstance(text, (list, tuple)) and len(text) else None
        if isinstance(inside, (list, tuple)) or (isinstance(inside, str) and not split):
            pairs = kwargs.pop("text_pair", None)
            batch = list(zip(text, pairs, strict=True)) if pairs is not None else text
            return self._batch_encode_plus(batch, *args, **kwargs)
        return function(self, text, *args, **kwargs)

    return _encode_plus


def old_signatures(hooks: Hooks) -> None:
    """Keep the signatures and the text handling of 4.x."""
    hooks.mixins.setdefault("slow tokenizer", []).append(OldText)
    hooks.edits.append(_edit_signatures)


class PropertyErrors(Legacy):
    """A property that fails has failed: today's base class hands out the property object instead."""

    def __getattr__(self, name: str) -> Any:
        if name == "_special_tokens_map" or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        answer = getattr(type(self), "_legacy_token", None)
        known, value = answer(self, name) if answer is not None else (False, None)
        if known:
            return value
        value = super().__getattr__(name)  # type: ignore[misc]
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
