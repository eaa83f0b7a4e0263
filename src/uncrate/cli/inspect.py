"""`uncrate inspect`: what is there, from names, headers and JSON alone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from uncrate import show
from uncrate.checkpoint.manifest import Manifest
from uncrate.cli.options import AsJson, Subfolder, Where
from uncrate.cli.output import print_document
from uncrate.errors import escape
from uncrate.open import inspect
from uncrate.trust.surface import review_of

Tensors = Annotated[bool, typer.Option("--tensors", help="List every tensor: name, dtype, shape, file.")]


Markdown = Annotated[
    bool, typer.Option("--markdown", help="Print the review of the checkpoint's own code as a Markdown page.")
]


def command(
    where: Where,
    as_json: AsJson = False,
    subfolder: Subfolder = None,
    tensors: Tensors = False,
    markdown: Markdown = False,
) -> int:
    """Show what a checkpoint holds.

    No tensor is read and no code runs; of a hub id no weights are downloaded.
    """
    manifest = inspect(where, subfolder=subfolder)
    found = review_of(manifest)
    if markdown:
        sys.stdout.write(found.to_markdown())
        return 0
    if as_json:
        document = {**manifest.to_dict(), "code": {**found.code.to_dict(), "approval": found.approval.to_dict()}}
        print_document({**document, "tensors": _listed(manifest)} if tensors else document)
        return 0
    rows = manifest.sheet()
    named = len(found.code.entry_points)
    if named and not found.code.files:
        rows.append(("named code", f"{named} entry points name code that is not in the checkpoint: none of it can run"))
    print(show.sheet(rows, stream=sys.stdout))
    if found.code.files or found.code.redirects:
        print("\n" + show.harmless(found.to_text()), end="")
    if tensors:
        head = ("tensor", "dtype", "shape", "file")
        listed = [
            (escape(entry.name, 400), escape(entry.dtype), str(list(entry.shape)), escape(entry.file, 400))
            for entry in manifest.weights.tensors.values()
        ]
        print("\n" + show.table(head, listed, stream=sys.stdout))
    return 0


def _listed(manifest: Manifest) -> list[dict[str, object]]:
    return [
        {"name": entry.name, "dtype": entry.dtype, "shape": list(entry.shape), "file": entry.file}
        for entry in manifest.weights.tensors.values()
    ]
