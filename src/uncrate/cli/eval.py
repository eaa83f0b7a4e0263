"""`uncrate eval`: how near a model's answers are to those of a data file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uncrate import show
from uncrate.cli.options import AsJson, Device, Dtype, Where
from uncrate.cli.output import print_document
from uncrate.errors import UsageError

Data = Annotated[str, typer.Argument(metavar="DATA", help="A .jsonl or .json file of conversations.")]
AdapterOption = Annotated[str | None, typer.Option("--adapter", metavar="WHERE", help="An adapter to put on.")]
BaseOption = Annotated[str | None, typer.Option("--base", metavar="WHERE", help="The base, where WHERE is an adapter.")]
Out = Annotated[
    str | None, typer.Option("--out", "-o", metavar="FILE", help="Write each answer, one JSON line a question.")
]
MaxInput = Annotated[int, typer.Option("--max-input", help="Tokens a question may have; the oldest text is left out.")]
MaxOutput = Annotated[int, typer.Option("--max-output", help="Tokens an answer may have.")]
Batch = Annotated[int, typer.Option("--batch", help="Questions answered at once.")]
Pairs = Annotated[
    str, typer.Option("--eval-pairs", metavar="STYLE", help="answer, or glm4-2024 as the old script asked.")
]
ZhMetrics = Annotated[bool, typer.Option("--zh-metrics", help="Add the old script's rouge-1, -2, -l and bleu-4.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave conversations with faults out.")]


def command(
    where: Where,
    data: Data,
    adapter: AdapterOption = None,
    base: BaseOption = None,
    out: Out = None,
    max_input: MaxInput = 4096,
    max_output: MaxOutput = 512,
    batch: Batch = 8,
    eval_pairs: Pairs = "answer",
    zh_metrics: ZhMetrics = False,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> int:
    """Measure a model's answers on a data file.

    Exact match, BLEU and ROUGE-L.
    """
    if eval_pairs not in ("answer", "glm4-2024"):
        raise UsageError(f"--eval-pairs is answer or glm4-2024, not {eval_pairs!r}")
    if min(max_input, max_output, batch) < 1:
        raise UsageError("--max-input, --max-output and --batch are at least 1")
    from uncrate.train.evaluation import EvalJob, evaluate
    from uncrate.train.rows import Limits

    numbers = evaluate(
        EvalJob(
            where=where,
            data=Path(data),
            out=Path(out) if out else None,
            adapter=adapter,
            base=base,
            limits=Limits(max_input=max_input, max_output=max_output),
            batch=batch,
            pairs=eval_pairs,
            old_metrics=zh_metrics,
            skip_bad=skip_bad,
            device=device,
            dtype=dtype,
        )
    )
    if as_json:
        print_document({"schema": 1, "data": data, "predictions": out, "metrics": dict(numbers)})
    else:
        print(show.sheet([(name, f"{value:.6g}") for name, value in numbers.items()], stream=sys.stdout))
    return 0
