"""Arguments and options that several commands share, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

from uncrate.plan import DTYPES, ROUTES, TASKS

Where = Annotated[
    str, typer.Argument(metavar="WHERE", help="A folder (./x, /x), a hub id (owner/name[@revision]), or nano.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]
Subfolder = Annotated[
    str | None, typer.Option("--subfolder", metavar="FOLDER", help="The folder inside WHERE that holds the checkpoint.")
]
LockFile = Annotated[
    str | None,
    typer.Option("--lock", metavar="FILE", help="The lock to use, in place of the uncrate.lock that is found."),
]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read .bin weights, by torch's weights-only reader.")]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", metavar="DTYPE", help=f"Of the parameters: {', '.join(DTYPES)}; auto keeps the stored one."
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps; auto takes the best one.")
]
Task = Annotated[str, typer.Option("--task", metavar="TASK", help=f"What the model is for: {', '.join(TASKS)}.")]
Route = Annotated[str, typer.Option("--route", metavar="ROUTE", help=f"Who runs the model: {', '.join(ROUTES)}.")]
AllowMissing = Annotated[
    list[str] | None,
    typer.Option("--allow-missing", metavar="PATTERN", help="Tensors that may be missing, as in '*.bias'; repeatable."),
]
AllowUnexpected = Annotated[
    list[str] | None,
    typer.Option("--allow-unexpected", metavar="PATTERN", help="Tensors that may be left over; repeatable."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="MODEL", help="The model under an adapter, in place of the one that it names."),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="ADAPTER", help="A LoRA adapter to put on the model; repeatable."),
]
