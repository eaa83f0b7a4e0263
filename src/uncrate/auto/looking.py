"""From a call's WHERE and keywords to the manifest: the first lines of the road, as the drop-in classes walk them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uncrate.adapters import Stacked, follow_base
from uncrate.auto.keywords import Given, path_text, token_of
from uncrate.checkpoint.jsonfile import freeze
from uncrate.checkpoint.manifest import Manifest, read_manifest
from uncrate.checkpoint.source import BUNDLED, Access, HubSource, LocalSource, Source, parse_source
from uncrate.errors import ConfigError, HubError, UncrateError, UsageError, escape
from uncrate.families import foreign

Where = str | os.PathLike[str]


@dataclass(frozen=True)
class Found:
    """What a call named: the manifest of it, the model that it leads to, and the adapters in between."""

    asked: Manifest
    model: Manifest
    stack: tuple[Stacked, ...]


def find(where: Where, given: Given) -> Found:
    """Read what `where` names, at the revision, with the access and from the subfolder that the keywords say."""
    source = find_source(where, given)
    try:
        asked = read_manifest(source, subfolder=given.get("subfolder") or None)
    except HubError as error:
        raise _shadowed(error, where) from error
    model, stack = follow_base(asked, base=given.get("base"))
    return Found(asked, _with_model_type(model, where), stack)


def find_source(where: Where, given: Given) -> Source:
    """Return the source of a call. Raises UsageError where `where` and `revision` disagree."""
    try:
        source = parse_source(where)
    except UsageError as error:
        raise _shadowed(error, where) from error
    revision = given.get("revision")
    if isinstance(source, LocalSource):
        return _folder_of(source)
    if revision is not None and source.revision is not None and revision != source.revision:
        raise UsageError(
            f"{escape(path_text(where))} names a revision, and revision={escape(repr(revision))} another",
            next="give one of them",
        )
    parsed = parse_source(f"{source.repo}@{revision}") if revision is not None else source
    assert isinstance(parsed, HubSource)
    cache = given.get("cache_dir")
    access = Access(
        cache=None if cache is None else Path(cache).expanduser(),
        token=token_of(given),
        offline=True if given.get("local_files_only") else None,
        refresh=bool(given.get("force_download")),
    )
    return replace(parsed, access=access)


def _folder_of(source: LocalSource) -> LocalSource:
    """transformers takes the path of a config.json for its folder."""
    if not source.folder.is_file():
        return source
    if source.folder.name != "config.json":
        raise UsageError(
            f"{escape(source.text)} is a file", next="give the folder it is in; its configuration is named config.json"
        )
    return LocalSource(source.folder.parent, source.text.removesuffix("config.json").rstrip("/") or ".")


def name_of(source: Source) -> str:
    """Return what transformers calls name_or_path: the repository without its revision, or the folder.

    PEFT writes it into an adapter as its base, where other programs read it.
    """
    if isinstance(source, HubSource):
        return source.repo
    return str(source.folder) if source.text in BUNDLED else source.text


def _shadowed(error: UncrateError, where: Where) -> UncrateError:
    """Say that a folder of that name is here: transformers would have taken it, uncrate asks for ./ in front."""
    if not isinstance(where, str) or not Path(where).is_dir():
        return error
    return type(error)(
        error.what,
        where=error.where,
        why=f"a folder named {escape(where)} is here, and without ./ in front it is not looked at",
        next=f"write ./{escape(where)} for the folder",
    )


def _with_model_type(manifest: Manifest, where: Where) -> Manifest:
    """Guess a missing model_type as transformers does, by the longest known one in the path, and say so."""
    config = manifest.config
    if config is None or config.get("model_type") is not None:
        return manifest
    text = path_text(where)
    kinds = sorted({*foreign.transformers_model_types(), "chatglm"}, key=len, reverse=True)
    guess = next((kind for kind in kinds if kind in text), None)
    if guess is None:
        raise ConfigError(
            "config.json has no model_type, and no known one is part of the path",
            where=escape(text),
            next='add "model_type" to config.json',
        )
    warnings.warn(
        f"config.json has no model_type; {guess!r} is guessed from the path {escape(text)}", UserWarning, stacklevel=4
    )
    note = f"config.json has no model_type: {guess} is guessed from the path"
    return replace(manifest, config=freeze({**config, "model_type": guess}), notes=(*manifest.notes, note))


def with_config(manifest: Manifest, values: dict[str, Any], note: str) -> Manifest:
    """Return the manifest with another config.json: what follows is planned from it."""
    return replace(manifest, config=freeze(values), notes=(*manifest.notes, note))
