"""Configurations and tokenizers of models that are not native: the approved code's, or transformers' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from uncrate.auto.config import unknown_type
from uncrate.checkpoint.manifest import Manifest
from uncrate.errors import NotApproved, TokenizerError, escape


def names_own_code(values: Mapping[str, Any], auto_class: str) -> bool:
    """Whether a JSON file's `auto_map` names the checkpoint's own code for an Auto class."""
    auto_map = values.get("auto_map")
    return isinstance(auto_map, Mapping) and auto_map.get(auto_class) is not None


def foreign_config(manifest: Manifest, values: dict[str, Any]) -> PretrainedConfig:
    """Return the configuration of a foreign checkpoint. Raises ConfigError, NotApproved."""
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return CONFIG_MAPPING[kind].from_dict(values)
    if names_own_code(values, "AutoConfig"):
        raise NotApproved(
            f"the configuration class {escape(values['auto_map']['AutoConfig'])} is the checkpoint's own code",
            where=str(manifest.source),
            next=f"uncrate plan {manifest.source}",
        )
    raise unknown_type(manifest)


def foreign_tokenizer(manifest: Manifest, others: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Return transformers' own tokenizer for a checkpoint's files. Raises TokenizerError, NotApproved."""
    from transformers import AutoTokenizer

    config = manifest.json_files.get("tokenizer_config.json", {})
    if names_own_code(config, "AutoTokenizer"):
        raise NotApproved(
            "the tokenizer is the checkpoint's own code",
            where=str(manifest.source),
            next=f"uncrate plan {manifest.source}",
        )
    names = [*manifest.tokenizer, *(["config.json"] if manifest.config is not None else [])]
    if not manifest.tokenizer:
        raise TokenizerError("the checkpoint has no tokenizer files", where=str(manifest.source))
    paths = manifest.open().local_many(names)
    return AutoTokenizer.from_pretrained(paths[0].parent, local_files_only=True, trust_remote_code=False, **others)
