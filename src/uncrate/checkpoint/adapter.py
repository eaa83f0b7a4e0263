"""A PEFT adapter folder: what adapter_config.json says, and the base that it points to. The base is not opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from uncrate.checkpoint.facts import Adapter, Redirect
from uncrate.checkpoint.jsonfile import kind, pointer, thaw
from uncrate.checkpoint.source import HubSource, parse_source
from uncrate.errors import AdapterError, UsageError, escape

FILE = "adapter_config.json"
MAX_RANK = 65_536
MAX_MODULES = 10_000
MAX_PATTERN = 2_000
# What PEFT itself writes; another type is carried through and refused only by who would build it.
_RANKS = ("r", "num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "encoder_hidden_size")


def read_adapter(config: Mapping[str, Any]) -> Adapter:
    """Return the adapter that an adapter_config.json describes; AdapterError tells every fault of it at once."""
    faults: list[str] = []
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str) or not re.fullmatch(r"[A-Z][A-Z0-9_]{0,39}", peft_type):
        faults.append(_fault("peft_type", peft_type, "must be a word like LORA"))
    base = config.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        faults.append(_fault("base_model_name_or_path", base, "must be text or null"))
    elif isinstance(base, str) and (len(base) > 4096 or not base.isprintable()):
        faults.append(_fault("base_model_name_or_path", base, "must be a path or a hub id"))
    revision = config.get("revision")
    if revision is not None and not isinstance(revision, str):
        faults.append(_fault("revision", revision, "must be text or null"))
    for key in _RANKS:
        if key in config and config[key] is not None:
            _check_rank(key, config[key], faults)
    if isinstance(config.get("rank_pattern"), Mapping):
        for name, rank in config["rank_pattern"].items():
            _check_rank("rank_pattern", rank, faults, name)
    if peft_type == "LORA" and "r" not in config:
        faults.append("/r is missing")
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        _check_modules(key, config.get(key), faults)
    if faults:
        raise AdapterError("; ".join(faults[:20]), where=FILE, next="correct the file, or train the adapter again")
    return Adapter(config=config, base=base or None, peft_type=str(peft_type))


def base_redirect(adapter: Adapter) -> Redirect | None:
    """Return where the adapter says its base is: a folder, or the hub, moving when no commit pins it."""
    if adapter.base is None:
        return None
    try:
        source = parse_source(adapter.base)
    except UsageError:
        # Trainers write whatever was typed: a Windows path, a folder without ./, a name of an old cache.
        return Redirect("base", adapter.base, FILE, moving=False)
    if not isinstance(source, HubSource):
        return Redirect("base", adapter.base, FILE, moving=False)
    revision = adapter.config.get("revision")
    if source.revision is None and isinstance(revision, str) and revision:
        pinned = HubSource(source.repo, revision)
        return Redirect("base", str(pinned), FILE, moving=not pinned.pinned)
    return Redirect("base", adapter.base, FILE, moving=not source.pinned)


def _fault(key: str, value: Any, rule: str, name: str | None = None) -> str:
    at = pointer(key) if name is None else pointer(key, name)
    return f"{at} is missing" if value is None else f"{at} {rule}, and is {escape(thaw(value))}"


def _check_rank(key: str, value: Any, faults: list[str], name: str | None = None) -> None:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        faults.append(_fault(key, value, f"must be a whole number from 1 to {MAX_RANK:,}", name))


def _check_modules(key: str, value: Any, faults: list[str]) -> None:
    if value is None:
        return
    if isinstance(value, str):
        if len(value) > MAX_PATTERN or not value.isprintable():
            faults.append(_fault(key, value, f"must be a pattern of at most {MAX_PATTERN:,} characters"))
    elif not isinstance(value, tuple) or not all(isinstance(name, str) and len(name) <= MAX_PATTERN for name in value):
        faults.append(_fault(key, value, f"must be a list of module names or a pattern, and is {kind(value)}"))
    elif len(value) > MAX_MODULES:
        faults.append(f"{pointer(key)} names {len(value):,} modules, and at most {MAX_MODULES:,} are read")
