"""`uncrate data`: look at training data before anything is trained on it; no model and no torch."""

from __future__ import annotations

from typing import Annotated

import typer

from uncrate.cli.options import AsJson
from uncrate.errors import UsageError, escape

ACTIONS = ("check", "show", "convert")

Action = Annotated[str, typer.Argument(metavar="ACTION", help="check, show or convert.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="A .jsonl or .json file, or a folder with labels_*/.")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="WHERE", help="Whose tokenizer counts; the bundled nano's when left out."),
]
Config = Annotated[str | None, typer.Option("--config", metavar="CONFIG", help="Take limits and combine from a YAML.")]
MaxInput = Annotated[int | None, typer.Option("--max-input", help="max_input_length; 512 when left out.")]
MaxOutput = Annotated[int | None, typer.Option("--max-output", help="max_output_length; 512 when left out.")]
Labels = Annotated[str, typer.Option("--labels", metavar="STYLE", help="What is trained: answer or glm4-2024.")]
Line = Annotated[int | None, typer.Option("--line", help="show: this line; the first ones when left out.")]
Count = Annotated[int, typer.Option("--count", "-n", help="How many conversations are shown decoded.")]
Out = Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="convert: the .jsonl file to write.")]


def command(
    action: Action,
    file: File,
    model: Model = None,
    config: Config = None,
    max_input: MaxInput = None,
    max_output: MaxOutput = None,
    labels: Labels = "answer",
    line: Line = None,
    count: Count = 1,
    out: Out = None,
    as_json: AsJson = False,
) -> int:
    """Check, show or convert training data.

    check tells every fault with its line (exit code 1), show what the model sees, convert writes .jsonl.
    """
    if action not in ACTIONS:
        raise UsageError(f"{escape(repr(action))} is not known", next="uncrate data check FILE, or show, or convert")
    # Reading pictures brings numpy and Pillow, for which `uncrate --help` should not wait.
    from uncrate.cli import dataset

    if action == "convert":
        return dataset.convert(file, out)
    reading = dataset.choose_reading(model, config, max_input, max_output, labels)
    if action == "show":
        return dataset.show_rows(file, reading, line, count)
    return dataset.check(file, reading, count, as_json)
