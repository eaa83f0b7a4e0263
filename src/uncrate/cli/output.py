"""The one JSON document of a `--json` command."""

from __future__ import annotations

import json
from collections.abc import Mapping


def print_document(document: Mapping[str, object]) -> None:
    """Print `document` on stdout; it holds "schema" and nothing that JSON has no word for."""
    print(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))
