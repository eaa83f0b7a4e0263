"""AutoTokenizer and AutoProcessor: a checkpoint's tokenizer as a transformers object, from the road's own files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from uncrate.auto.keywords import TOKENIZER, Given, refuse_unknown, sort_keywords
from uncrate.auto.looking import Where, find, find_source, name_of
from uncrate.checkpoint.jsonfile import thaw
from uncrate.checkpoint.manifest import Manifest, read_manifest
from uncrate.errors import TokenizerError, UsageError, escape
from uncrate.families.table import find_family

# What a program may set on a tokenizer as it opens it.
SETTABLE = (
    "padding_side",
    "truncation_side",
    "model_max_length",
    "clean_up_tokenization_spaces",
    "image_size",
    "pad_token",
    "eos_token",
    "bos_token",
    "unk_token",
    "extra_special_tokens",
    "additional_special_tokens",
    "split_special_tokens",
    "verbose",
)
_OWN = ("vocab_file", "name_or_path", "tokenizer_file", "files_loaded", "init_inputs", "is_local", "local_files_only")


class AutoTokenizer:
    """Open a checkpoint's tokenizer; never built itself."""

    def __init__(self) -> None:
        raise UsageError("AutoTokenizer is not built itself", next="AutoTokenizer.from_pretrained(WHERE)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Where, *inputs: Any, **kwargs: Any) -> Any:
        """Return the tokenizer. Raises UncrateError: UsageError for refused and unknown keywords, TokenizerError."""
        given = sort_keywords(kwargs, TOKENIZER)
        if inputs:
            raise UsageError("a tokenizer takes no further positional arguments", next="give keywords")
        manifest = _find(pretrained_model_name_or_path, given)
        if not _is_native(manifest):
            from uncrate.auto.foreign import foreign_tokenizer

            return foreign_tokenizer(manifest, given)
        refuse_unknown([name for name in given.others if name not in SETTABLE], TOKENIZER, SETTABLE)
        return open_tokenizer(manifest, given.others)


class AutoProcessor:
    """Open what prepares a checkpoint's inputs: texts, pictures, conversations."""

    def __init__(self) -> None:
        raise UsageError("AutoProcessor is not built itself", next="AutoProcessor.from_pretrained(WHERE)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Where, **kwargs: Any) -> Any:
        """Return the processor; of a model that reads text alone, as in transformers, its tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        from uncrate.models.chatglm.hf import ChatGLMProcessor, ChatGLMTokenizer

        takes_pictures = isinstance(tokenizer, ChatGLMTokenizer) and tokenizer.native.takes_pictures
        return ChatGLMProcessor(tokenizer) if takes_pictures else tokenizer


def _find(where: Where, given: Given) -> Manifest:
    """An adapter folder may hold its own tokenizer; else its base's is meant."""
    manifest = read_manifest(find_source(where, given), subfolder=given.get("subfolder") or None)
    if manifest.adapter is None or "tokenizer.model" in manifest.tokenizer or "tokenizer.json" in manifest.tokenizer:
        return manifest if manifest.config is None else find(where, given).asked
    return find(where, given).model


def _is_native(manifest: Manifest) -> bool:
    """Whether the tokenizer is a ChatGLM's: by its model's config, else by what tokenizer_config.json calls it."""
    if "tokenizer.model" not in manifest.tokenizer:
        return False
    if manifest.config is not None:
        return find_family(manifest.config) is not None
    named = manifest.json_files.get("tokenizer_config.json", {}).get("tokenizer_class")
    return isinstance(named, str) and named.startswith(("ChatGLM", "GLM"))


def open_tokenizer(manifest: Manifest, settings: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Return the ChatGLM tokenizer of a manifest with `settings` in place of what its file says."""
    from uncrate.models.chatglm.hf import ChatGLMTokenizer

    files = manifest.open()
    stored: dict[str, Any] = thaw(manifest.json_files.get("tokenizer_config.json", {}))
    values = {name: _token(value) for name, value in stored.items() if name not in _OWN}
    for name in values:
        if callable(getattr(ChatGLMTokenizer, name, None)):
            raise TokenizerError(
                f"the key {escape(name)} is the name of a method",
                where="tokenizer_config.json",
                next="take the key out of the file",
            )
    if any(file.path == "chat_template.jinja" for file in manifest.files):
        values["chat_template"] = files.read("chat_template.jinja", 1 << 20).decode("utf-8", "replace")
    claimed = find_family(manifest.config) if manifest.config is not None else None
    if claimed is not None and claimed[1] in ("ChatGLM2", "ChatGLM3"):
        values["chat_layout"] = claimed[1].lower()
    tokenizer = ChatGLMTokenizer(
        str(files.local("tokenizer.model")), **{**values, **settings}, name_or_path=name_of(manifest.source)
    )
    if settings.get("split_special_tokens") is False:
        tokenizer.split_special_tokens = False
    return tokenizer


def _token(value: Any) -> Any:
    """A token may be written as an object; the tokenizer takes its text."""
    return value["content"] if isinstance(value, dict) and isinstance(value.get("content"), str) else value
