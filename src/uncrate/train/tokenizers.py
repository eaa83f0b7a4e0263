"""The tokenizer of a checkpoint, without its model and without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from uncrate.checkpoint.files import open_files
from uncrate.checkpoint.source import parse_source
from uncrate.errors import TokenizerError, UsageError
from uncrate.families.chatglm import ChatGLMConfig, claims, read_config
from uncrate.models.chatglm.tokenizer import tokenizer_from_bytes
from uncrate.models.chatglm.tokens import Tokenizer
from uncrate.open import inspect

_LIMIT = 64 << 20


@dataclass(frozen=True)
class Words:
    """A checkpoint's tokenizer, its config, and whether its model takes pictures."""

    tokenizer: Tokenizer
    config: ChatGLMConfig

    @property
    def pictures(self) -> bool:
        return self.config.vision is not None

    @property
    def picture_positions(self) -> int:
        """Positions that a picture adds to its three tokens."""
        return self.config.vision.image_tokens - 1 if self.config.vision else 0


def model_place(text: str | os.PathLike[str]) -> str:
    """Return MODEL_DIR as WHERE: the old scripts took `models/glm-4v-9b/`, which is no hub id, for a folder."""
    where = os.fspath(text)
    try:
        parse_source(where)
    except UsageError:
        if os.path.isdir(where):
            return os.path.abspath(where)
        raise
    return where


def open_words(where: str | os.PathLike[str]) -> Words:
    """Return the tokenizer that WHERE holds. Raises TokenizerError where it is none of the ChatGLM family."""
    manifest = inspect(model_place(where))
    generation = claims(manifest.config) if manifest.config is not None else None
    if manifest.config is None or generation is None:
        raise TokenizerError(
            "this is no GLM-4, GLM-4V, ChatGLM3 or ChatGLM2 checkpoint",
            where=str(manifest.source),
            why="training is built for this family",
        )
    files = open_files(manifest.source, commit=manifest.commit)
    tokenizer = tokenizer_from_bytes(
        files.read("tokenizer.model", _LIMIT),
        manifest.json_files.get("tokenizer_config.json", {}),
        layout=generation.lower() if generation in ("ChatGLM2", "ChatGLM3") else None,
    )
    return Words(tokenizer, read_config(manifest.config))
