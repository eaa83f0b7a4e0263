"""Which JSON files of a checkpoint can name code, without parsing every vocabulary and log that lies beside them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from uncrate.checkpoint.files import Files
from uncrate.checkpoint.jsonfile import parse_json
from uncrate.checkpoint.references import KEYS
from uncrate.errors import MalformedJSON, escape

if TYPE_CHECKING:
    from uncrate.checkpoint.manifest import Manifest

_LIMIT = 1 << 20
_MAX_FILES = 200
_TABLES = ("tokenizer.json", "vocab.json", "added_tokens.json", "merges.json")
# A key may be spelled with escapes: a file with an escaped letter or underscore is parsed to be sure.
_MAYBE = re.compile("|".join(KEYS).encode() + rb"|\\u00(?:5[fF]|6[0-9a-fA-F]|7[0-9aA])")


def code_documents(files: Files, manifest: Manifest) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parsed JSON files that may name code, by path, and a note on each that could not be searched.

    The manifest has read those at the root already; here are added those in subfolders.
    """
    documents: dict[str, Any] = dict(manifest.json_files)
    if manifest.config is not None:
        documents["config.json"] = manifest.config
    notes: list[str] = []
    wanted = []
    for entry in files.entries():
        name = entry.path.rpartition("/")[2]
        if "/" not in entry.path or not name.endswith(".json") or name in _TABLES or name.endswith(".index.json"):
            continue
        if entry.size > _LIMIT:
            notes.append(f"{escape(entry.path)} is not searched for references to code: it has {entry.size:,} bytes")
        else:
            wanted.append(entry.path)
    if len(wanted) > _MAX_FILES:
        notes.append(f"{len(wanted) - _MAX_FILES:,} more JSON files are not searched for references to code")
    wanted = wanted[:_MAX_FILES]
    files.prefetch(wanted)
    for path in wanted:
        data = files.read(path, _LIMIT)
        if _MAYBE.search(data):
            try:
                documents[path] = parse_json(data, path)
            except MalformedJSON as error:
                # What cannot be read here can be opened by nothing of ours: it steers nothing.
                notes.append(f"{escape(path)} is not searched for references to code: {error.what}")
    return documents, tuple(notes)
