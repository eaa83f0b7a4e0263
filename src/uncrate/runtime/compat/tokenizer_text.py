"""From text to tokens and back as slow tokenizers of 4.x did it, and the signatures that they have."""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type"

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from uncrate.runtime.compat.hooks import ClassBody, Hooks, Legacy


class OldText(Legacy):
    """From text to tokens and back as 4.x did for slow tokenizers: lower-casing, and added tokens kept apart in
    decoding."""

    def tokenize(self, text: Any, **kwargs: Any) -> list[str]:
        if getattr(self, "do_lower_case", False) and isinstance(text, str):
            text = self._lowered(text)
        tokens: list[str] = super().tokenize(text, **kwargs)
        return tokens

    def _lowered(self, text: str) -> str:
        kept = [re.escape(token) for token in self.all_special_tokens]
        added = self._added_tokens_decoder.values()
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
        found = self.convert_ids_to_tokens(token_ids, skip_special_tokens=skip_special_tokens)
        tokens = [found] if isinstance(found, str) else found
        special = set(self.all_special_tokens)
        extra = self.__dict__.get("_extra_special_tokens", [])
        apart = set(self._added_tokens_encoder) - special
        apart |= {str(token) for token in extra if self.convert_tokens_to_ids(str(token)) >= self.vocab_size}
        pieces: list[str] = []
        run: list[str] = []
        for token in tokens:
            if skip_special_tokens and token in special:
                continue
            if token in apart:
                pieces += [piece for piece in [self.convert_tokens_to_string(run) if run else ""] if piece]
                pieces.append(token)
                run = []
            else:
                run.append(token)
        if run:
            pieces.append(self.convert_tokens_to_string(run))
        text = (" " if spaces_between_special_tokens else "").join(pieces)
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        return self.clean_up_tokenization(text) if clean else text


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
