"""`uncrate export`: a checkpoint that stock transformers opens, with our code as its custom code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uncrate import show
from uncrate.cli.merge import Force, Out, ShardSize, as_where
from uncrate.cli.options import Adapters, AsJson, Base, Dtype, Subfolder, Where
from uncrate.cli.output import print_document
from uncrate.cli.waiting import counting
from uncrate.errors import escape

SelfContained = Annotated[
    bool, typer.Option("--self-contained", help="Let nothing in OUT point outside it; writes tokenizer.json as well.")
]
TokenizerJson = Annotated[
    bool, typer.Option("--tokenizer-json", help="Also write tokenizer.json for the Rust tokenizers library.")
]


def command(
    where: Where,
    out: Out,
    self_contained: SelfContained = False,
    dtype: Dtype = "auto",
    shard_size: ShardSize = "5GB",
    tokenizer_json: TokenizerJson = False,
    base: Base = None,
    adapter: Adapters = None,
    subfolder: Subfolder = None,
    force: Force = False,
    as_json: AsJson = False,
) -> int:
    """Write a ChatGLM checkpoint for transformers.

    OUT has the weights and, as its custom code, uncrate's own: stock transformers with trust_remote_code=True runs it,
    without uncrate. Adapters are folded in; the checkpoint's own code stays behind.
    """
    from uncrate.export import export

    with counting("exporting") as progress:
        done = export(
            where,
            out,
            base=base,
            adapters=tuple(adapter or ()),
            self_contained=self_contained,
            dtype=dtype,
            shard_size=shard_size,
            tokenizer_json=tokenizer_json,
            force=force,
            subfolder=subfolder,
            progress=progress,
        )
    written = done.written
    if as_json:
        print_document(
            {
                "schema": 1,
                "out": str(Path(out)),
                "source": str(done.plan.asked.source),
                "files": list(written.files),
                "code": list(done.code),
                "left_behind": list(done.left_behind),
                "tensors": written.tensors,
                "bytes": written.bytes,
                "tokenizer_json_characters": done.proven,
            }
        )
        return 0
    rows = [
        ("source", escape(str(done.plan.asked.source), 400)),
        ("written", f"{written.tensors:,} tensors, {show.size_text(written.bytes)}"),
        ("code", ", ".join(done.code)),
    ]
    if done.left_behind:
        rows.append(("left behind", escape(", ".join(done.left_behind), 400)))
    if done.proven is not None:
        rows.append(("tokenizer.json", f"the same ids on {done.proven:,} characters"))
    call = f'AutoModelForCausalLM.from_pretrained("{escape(as_where(out), 400)}", trust_remote_code=True)'
    rows.append(("next", call))
    print(show.sheet(rows, stream=sys.stdout))
    return 0
