"""Configurations and tokenizers of models that are not native: the approved code's, or transformers' own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from uncrate.auto.keywords import Given
from uncrate.checkpoint.code import read_code
from uncrate.checkpoint.manifest import Manifest
from uncrate.errors import ConfigError, NotApproved, TokenizerError, escape
from uncrate.families import foreign
from uncrate.plan import Options, Plan, make_plan
from uncrate.runtime.custom_code import PACKAGE, closure_of
from uncrate.trust.approve import lock_for

# The endings of files that a tokenizer may read.
_READ = (".json", ".jinja", ".model", ".txt", ".tiktoken")


def foreign_config(manifest: Manifest) -> PretrainedConfig:
    """Return the configuration object of a foreign checkpoint. Raises ConfigError, NotApproved, CodeError."""
    from uncrate.runtime.foreign_open import open_config

    plan = make_plan(manifest, Options(device="cpu"))
    if plan.route == "none":
        raise unknown_type(manifest, plan)
    config = open_config(plan)
    assert isinstance(config, PretrainedConfig)
    return config


def unknown_type(manifest: Manifest, plan: Plan) -> ConfigError:
    """The error for a model type that neither uncrate nor transformers knows, with what could be done."""
    kind = (manifest.config or {}).get("model_type")
    count = len(foreign.transformers_model_types())
    return ConfigError(
        f"model_type {escape(repr(kind))} is known to neither uncrate nor transformers, which has {count}",
        where=f"{manifest.source}: config.json",
        why="; ".join(plan.problems),
        next=f"uncrate plan {manifest.source}",
    )


def refuse_code(plan: Plan, given: Given) -> None:
    """Raise NotApproved where code would run and `trust_remote_code=False` says that none may."""
    if plan.route == "custom" and given.get("trust_remote_code") is False:
        raise NotApproved(
            "the model is the checkpoint's own code, and trust_remote_code=False keeps it from running",
            where=str(plan.asked.source),
            next="leave trust_remote_code out; what may run is what the lock approves",
        )


def foreign_tokenizer(manifest: Manifest, given: Given) -> Any:
    """Return the approved code's tokenizer, else transformers' own. Raises TokenizerError, NotApproved, CodeError."""
    from transformers import AutoTokenizer

    from uncrate.runtime.foreign_open import load_entry

    if not manifest.tokenizer:
        raise TokenizerError("the checkpoint has no tokenizer files", where=str(manifest.source))
    here = [file.path for file in manifest.files if "/" not in file.path]
    folder = manifest.open().local_many([name for name in here if name.endswith(_READ)])[0].parent
    lock = lock_for(manifest.source)
    code = read_code(manifest, pins=lock.pins(str(manifest.source)))
    entry = code.entry("AutoTokenizer") if code else None
    if entry is not None and given.get("trust_remote_code") is not False:
        approval = lock.status(code)
        own = load_entry(code, approval, entry, where=str(manifest.source))
        return own.from_pretrained(str(folder), local_files_only=True, **given.others)  # type: ignore[attr-defined]
    plain = {**given.others, "local_files_only": True, "trust_remote_code": False}
    try:
        return AutoTokenizer.from_pretrained(str(folder), **plain)
    except (OSError, ValueError, TypeError) as error:
        raise TokenizerError(
            f"transformers cannot open the tokenizer: {escape(str(error), 300)}", where=str(manifest.source)
        ) from error


def model_class_of(config: PretrainedConfig, auto_class: str) -> type | None:
    """Return the model class that approved code has for its own configuration object; None for transformers' own."""
    closure = closure_of(type(config).__module__)
    if closure is None:
        return None
    auto_map = getattr(config, "auto_map", None)
    reference = auto_map.get(auto_class) if isinstance(auto_map, Mapping) else None
    if not isinstance(reference, str) or "--" in reference:
        raise ConfigError(f"the configuration's auto_map names no {auto_class}", where="config.json")
    module, _, name = reference.rpartition(".")
    found = getattr(importlib.import_module(f"{PACKAGE}.c{closure}.{module}"), name, None)
    if not isinstance(found, type):
        raise ConfigError(f"{escape(reference)} is not a class of the approved code", where="config.json")
    return found
