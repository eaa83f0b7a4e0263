"""`uncrate merge`: an adapter and its base as one checkpoint, proven equal before it appears."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from uncrate import show
from uncrate.cli.options import Adapters, AsJson, Base, Device, Dtype
from uncrate.cli.output import print_document
from uncrate.cli.waiting import counting
from uncrate.errors import escape

Adapter = Annotated[str, typer.Argument(metavar="ADAPTER", help="A LoRA adapter: a folder or a hub id.")]
Out = Annotated[str, typer.Argument(metavar="OUT", help="The folder to write; it must not be there, or be empty.")]
ShardSize = Annotated[str, typer.Option("--shard-size", metavar="SIZE", help="The most bytes of one weight file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the checkpoint that OUT holds.")]
NoProof = Annotated[bool, typer.Option("--no-proof", help="Do not open the result and compare its logits.")]


def command(
    adapter: Adapter,
    out: Out,
    base: Base = None,
    more: Adapters = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    shard_size: ShardSize = "5GB",
    force: Force = False,
    no_proof: NoProof = False,
    as_json: AsJson = False,
) -> int:
    """Fold an adapter into its base.

    Writes a checkpoint that needs neither, one tensor at a time, opens it, and proves that its logits equal those of
    base and adapter. Nothing is left behind when that fails or is interrupted.
    """
    from uncrate.export.merging import merge

    with counting("merging") as progress:
        merged = merge(
            adapter,
            out,
            base=base,
            adapters=tuple(more or ()),
            dtype=dtype,
            device=device,
            shard_size=shard_size,
            force=force,
            prove=not no_proof,
            progress=progress,
        )
    written, proof = merged.written, merged.proof
    if as_json:
        document: dict[str, Any] = {
            "schema": 1,
            "out": str(Path(out)),
            "base": str(merged.plan.manifest.source),
            "adapters": [item.to_dict() for item in merged.plan.adapters],
            "files": list(written.files),
            "tensors": written.tensors,
            "changed": written.changed,
            "bytes": written.bytes,
            "proof": None if proof is None else vars(proof),
            "seconds": {name: round(value, 3) for name, value in merged.seconds.items()},
        }
        print_document(document)
        return 0
    rows = [
        ("base", escape(str(merged.plan.manifest.source), 400)),
        *(("adapter", escape(item.describe())) for item in merged.plan.adapters),
        ("written", f"{written.tensors:,} tensors, {show.size_text(written.bytes)}, {written.changed:,} changed"),
        ("proof", proof.describe() if proof else "not wanted"),
        ("took", ", ".join(f"{name} {show.seconds_text(value)}" for name, value in merged.seconds.items())),
        ("next", f"uncrate chat {escape(as_where(out), 400)}"),
    ]
    print(show.sheet(rows, stream=sys.stdout))
    return 0


def as_where(out: str) -> str:
    """Return the folder as WHERE has to be written."""
    return out if out.startswith(("/", "./", "../", "~")) else f"./{out}"
