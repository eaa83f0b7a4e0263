"""The tokenizer of a foreign checkpoint: its own approved class, or one of transformers'; never code by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uncrate.errors import MissingPackage, TokenizerError, UncrateError, escape


def open_tokenizer(folder: Path, custom_class: Any | None, *, where: str) -> Any:
    """Return the tokenizer of the files in `folder`, of `custom_class` where the checkpoint's approved code has one.

    Raises TokenizerError where no class can read them, MissingPackage where one needs a package.
    """
    import transformers

    try:
        if custom_class is not None:
            return custom_class.from_pretrained(str(folder), local_files_only=True)
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except UncrateError:
        raise
    except ImportError as error:
        raise MissingPackage(
            "the tokenizer needs a package that is not installed", why=escape(str(error), 300)
        ) from error
    except Exception as error:  # a class of anybody's: what it raises ends as one sentence
        name = "AutoTokenizer" if custom_class is None else custom_class.__name__
        raise TokenizerError(
            f"{name} cannot read the tokenizer's files: {type(error).__name__}: {escape(str(error), 300)}", where=where
        ) from error
