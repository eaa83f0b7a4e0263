"""What a checkpoint holds, learned from names, headers and JSON alone: no tensor is read and no code runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from uncrate.checkpoint import adapter as adapters
from uncrate.checkpoint.facts import Adapter, FileEntry, Redirect, TensorEntry, Weights
from uncrate.checkpoint.files import Files, open_files
from uncrate.checkpoint.jsonfile import CONFIG_LIMIT, parse_json, parse_object, thaw
from uncrate.checkpoint.source import LocalSource, Source, parse_source
from uncrate.checkpoint.weights import read_weights
from uncrate.errors import CheckpointError, MalformedJSON, escape
from uncrate.show import plain_sheet, size_text

__all__ = ["Adapter", "FileEntry", "Manifest", "Redirect", "TensorEntry", "Weights", "read_manifest"]

CONFIG = "config.json"
# JSON files that steer how a checkpoint is loaded: each must be a strict JSON object.
STEERING = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "chat_template.json",
    "adapter_config.json",
)
# Large tables that only a tokenizer reads, and indices that only the weights need.
_TABLES = ("tokenizer.json", "vocab.json")
_OTHER_LIMIT = 1 << 20
_MAX_OTHERS = 200
_TOKENIZER_FILES = frozenset(
    (
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
        "ice_text.model", "bpe.codes", "dict.txt", "chat_template.json", "chat_template.jinja",
        "preprocessor_config.json", "processor_config.json", "image_processor_config.json",
        "video_preprocessor_config.json", "feature_extractor_config.json",
    )
)  # fmt: skip
# A link out of the folder under one of these endings would be read as a part of the checkpoint.
_PARTS = (".json", ".safetensors", ".bin", ".py", ".model", ".tiktoken", ".jinja", "vocab.txt", "merges.txt")


@dataclass(frozen=True, repr=False)
class Manifest:
    """What is there.

    `config` is config.json as it stands, deeply read-only, or None when the folder has none. `json_files` holds every
    other JSON file at the root (those that steer loading, such as tokenizer_config.json, and small others), parsed as
    strictly. `commit` is the full commit hash of a hub source, None for a folder. `files` are relative to `subfolder`
    where one was asked for. `notes` say what was passed over and which of several files was chosen.
    """

    source: Source
    commit: str | None
    files: tuple[FileEntry, ...]
    config: Mapping[str, Any] | None
    json_files: Mapping[str, Mapping[str, Any]]
    weights: Weights
    adapter: Adapter | None
    redirects: tuple[Redirect, ...]
    subfolder: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return plain_sheet(self.sheet())

    def __repr__(self) -> str:
        return f"<Manifest of {self.source}: {len(self.files)} files, {len(self.weights.tensors)} tensors>"

    @property
    def model_type(self) -> str | None:
        """The `model_type` of config.json, when it is text."""
        value = self.config.get("model_type") if self.config is not None else None
        return value if isinstance(value, str) else None

    @property
    def tokenizer(self) -> tuple[str, ...]:
        """The files that a tokenizer or processor is made of."""
        return tuple(
            file.path
            for file in self.files
            if file.path in _TOKENIZER_FILES or (file.path.endswith(".tiktoken") and "/" not in file.path)
        )

    @property
    def python_files(self) -> tuple[FileEntry, ...]:
        """Every Python file of the checkpoint, whether anything refers to it or not."""
        return tuple(file for file in self.files if file.path.endswith(".py"))

    def open(self, *, offline: bool | None = None) -> Files:
        """Return the checkpoint's files again, a hub source at the same commit."""
        return open_files(self.source, commit=self.commit, subfolder=self.subfolder, offline=offline)

    def to_dict(self) -> dict[str, Any]:
        """Return what `inspect --json` prints."""
        weights = self.weights
        return {
            "schema": 1,
            "source": str(self.source),
            "subfolder": self.subfolder,
            "commit": self.commit,
            "config": thaw(self.config),
            "model_type": self.model_type,
            "weights": {
                "format": weights.format,
                "tensors": len(weights.tensors),
                "parameters": weights.parameters,
                "bytes": weights.bytes,
                "dtypes": weights.dtypes,
                "files": [{"path": file.path, "size": file.size} for file in weights.files],
            },
            "code": {"files": [{"path": file.path, "size": file.size} for file in self.python_files]},
            "adapter": self._adapter_dict(),
            "tokenizer": list(self.tokenizer),
            "redirects": [
                {"kind": r.kind, "target": r.target, "named_by": r.named_by, "moving": r.moving} for r in self.redirects
            ],
            "notes": list(self.notes),
        }

    def _adapter_dict(self) -> dict[str, Any] | None:
        if self.adapter is None:
            return None
        return {"peft_type": self.adapter.peft_type, "base": self.adapter.base, "config": thaw(self.adapter.config)}

    def sheet(self) -> list[tuple[str, str]]:
        """Return label and value of each line that a person reads first; nothing in them can steer a terminal."""
        rows = [("source", escape(str(self.source)))]
        if self.commit:
            rows.append(("commit", self.commit))
        rows.append(("model", self._model_text()))
        rows.append(("weights", weights_text(self.weights)))
        if self.weights.files:
            rows.append(("files", _names([file.path for file in self.weights.files], 2)))
        if self.adapter is not None:
            base = escape(self.adapter.base) if self.adapter.base else "no base named"
            rows.append(("adapter", f"{escape(self.adapter.peft_type)} on {base}"))
        rows.append(("tokenizer", _names(list(self.tokenizer), 4) or "none"))
        code = [file.path for file in self.python_files]
        rows.append(("code", f"{_names(code, 4)} (nothing of it has run)" if code else "none"))
        for redirect in self.redirects:
            moving = ", moving" if redirect.moving else ""
            rows.append(
                (
                    "points to",
                    f"{escape(redirect.target)} ({redirect.kind}, named by {escape(redirect.named_by)}{moving})",
                )
            )
        rows.extend(("note", escape(note, 400)) for note in self.notes[:4])
        return rows

    def _model_text(self) -> str:
        if self.config is None:
            return "no config.json"
        names = self.config.get("architectures")
        shown = (
            ", ".join(escape(name) for name in names[:3] if isinstance(name, str)) if isinstance(names, tuple) else ""
        )
        return f"{escape(self.model_type or 'no model_type')}{f' ({shown})' if shown else ''}"


def weights_text(weights: Weights) -> str:
    """Return one line on the weights: tensors, parameters, bytes, dtypes."""
    if weights.format == "none":
        return "none"
    if weights.format == "pickle":
        return f"{len(weights.files)} pickle files, {size_text(weights.bytes)}, not looked into"
    dtypes = ", ".join(
        f"{name} x {count}" if len(weights.dtypes) > 1 else name for name, count in weights.dtypes.items()
    )
    counts = f"{len(weights.tensors):,} tensors, {weights.parameters:,} parameters"
    return f"{counts}, {size_text(weights.bytes)}, {dtypes or 'no dtype'}"


def _names(names: list[str], shown: int) -> str:
    text = ", ".join(escape(name) for name in names[:shown])
    return text + (f" and {len(names) - shown} more" if len(names) > shown else "")


def read_manifest(
    where: str | os.PathLike[str] | Source,
    *,
    subfolder: str | None = None,
    commit: str | None = None,
    offline: bool | None = None,
) -> Manifest:
    """Return the manifest of the checkpoint at `where`, or in its `subfolder`.

    Reads names, JSON files and safetensors headers only; of a hub source, at one commit (`commit` pins it to an earlier
    manifest's). Raises SourceError, HubError, MalformedJSON, MalformedWeights, AdapterError, CheckpointError.
    """
    files = open_files(parse_source(where), commit=commit, subfolder=subfolder, offline=offline)
    entries = files.entries()
    notes = [*files.notes, *_check_refused(files)]
    if not entries:
        raise CheckpointError(
            "there are no files",
            where=escape(str(files.source)),
            next="give the folder or repository that holds config.json",
        )
    here = {entry.path: entry for entry in entries if "/" not in entry.path}
    names = _json_names(here, notes)
    files.prefetch([CONFIG, *names] if CONFIG in here else names)
    config = parse_object(files.read(CONFIG, CONFIG_LIMIT), _shown(files, CONFIG)) if CONFIG in here else None
    json_files = _read_json_files(files, names, notes)
    adapter = adapters.read_adapter(json_files[adapters.FILE]) if adapters.FILE in json_files else None
    base = adapters.base_redirect(adapter) if adapter is not None else None
    weights = read_weights(files, notes, adapter=adapter is not None)
    return Manifest(
        source=files.source,
        commit=files.commit,
        files=entries,
        config=config,
        json_files=MappingProxyType(json_files),
        weights=weights,
        adapter=adapter,
        redirects=(base,) if base is not None else (),
        subfolder=subfolder or None,
        notes=tuple(notes),
    )


def _shown(files: Files, path: str) -> str:
    """Name a file so that it can be found: with its folder where that is one on this machine."""
    return f"{files.source.text.rstrip('/')}/{path}" if isinstance(files.source, LocalSource) else path


def _check_refused(files: Files) -> list[str]:
    """Raise for files that would be read as part of the checkpoint and cannot be; return a note on the others."""
    refused = files.refused()
    parts = [f"{escape(path)}: {why}" for path, why in refused.items() if path.endswith(_PARTS)]
    if parts:
        more = f"; and {len(parts) - 20} more" if len(parts) > 20 else ""
        raise CheckpointError(
            "; ".join(parts[:20]) + more,
            where=escape(str(files.source)),
            next="put the file itself in its place, or take it away",
        )
    return [f"passed over: {escape(path)}, {why}" for path, why in list(refused.items())[:3]]


def _json_names(here: Mapping[str, FileEntry], notes: list[str]) -> list[str]:
    """The root-level JSON files to read besides config.json, in a fixed order: those that steer loading first."""
    known = [name for name in STEERING if name in here]
    others = []
    for name, entry in sorted(here.items()):
        if (
            name == CONFIG
            or name in STEERING
            or name in _TABLES
            or not name.endswith(".json")
            or name.endswith(".index.json")
        ):
            continue
        if entry.size > _OTHER_LIMIT:
            notes.append(f"{escape(name)} is not read: it has {entry.size:,} bytes")
        else:
            others.append(name)
    if len(others) > _MAX_OTHERS:
        notes.append(f"{len(others) - _MAX_OTHERS:,} more JSON files are not read")
    return known + others[:_MAX_OTHERS]


def _read_json_files(files: Files, names: list[str], notes: list[str]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name in names:
        data = files.read(name, CONFIG_LIMIT)
        if name in STEERING:
            found[name] = parse_object(data, _shown(files, name))
            continue
        # Any other JSON file may be anything (training logs hold NaN); one that cannot be read steers nothing.
        try:
            value = parse_json(data, name)
        except MalformedJSON as error:
            notes.append(f"{escape(name)} is passed over: {error.what}")
            continue
        if isinstance(value, Mapping):
            found[name] = value
    return found
