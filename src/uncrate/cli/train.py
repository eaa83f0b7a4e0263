"""`uncrate train`: fine-tune by one of GLM-4's configurations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from uncrate import show
from uncrate.cli.options import AsJson, Dtype
from uncrate.cli.output import print_document
from uncrate.errors import MissingPackage, UsageError, escape
from uncrate.families.foreign import package_folder

INTERRUPTED = 130
STYLES = ("answer", "glm4-2024")

Data = Annotated[str, typer.Argument(metavar="DATA_DIR", help="The folder that holds the files of data_config.")]
Model = Annotated[str, typer.Argument(metavar="MODEL_DIR", help="The base: a folder, a hub id, or nano.")]
Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML configuration, as GLM-4's scripts take.")]
Resume = Annotated[
    str | None,
    typer.Argument(metavar="[yes|no|N]", help="Go on from the newest checkpoint, from none, or from step N."),
]
ResumeOption = Annotated[
    str | None, typer.Option("--resume", metavar="yes|no|N", help="The same as the fourth position.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Over the configuration: max_steps=10, peft_config.r=4; repeatable."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Stop before the first step: the plan, two rows, one evaluation.")
]
Labels = Annotated[
    str, typer.Option("--labels", metavar="STYLE", help="What is trained: answer, or glm4-2024 as it was.")
]
Pairs = Annotated[
    str, typer.Option("--eval-pairs", metavar="STYLE", help="What is asked: answer, or glm4-2024 as it was.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave conversations with faults out, and say how many.")]


def command(
    data_dir: Data,
    model_dir: Model,
    config: Config,
    resume_from: Resume = None,
    resume: ResumeOption = None,
    set_values: Set = None,
    dry_run: DryRun = False,
    labels: Labels = "answer",
    eval_pairs: Pairs = "answer",
    skip_bad: SkipBad = False,
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> int:
    """Fine-tune a model by a GLM-4 configuration.

    LoRA, P-tuning v2 or all of it; the configuration is taken unchanged.
    """
    for name, value in (("--labels", labels), ("--eval-pairs", eval_pairs)):
        if value not in STYLES:
            raise UsageError(f"{name} is {' or '.join(STYLES)}, not {escape(repr(value))}")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise UsageError("DATA_DIR is no folder", where=escape(data_dir, 400))
    for package in ("transformers", "peft", "accelerate"):
        if package_folder(package) is None:
            raise MissingPackage(f"training needs the package {package}", next="pip install 'uncrate[train]'")
    from uncrate.train.recipe import FinetuningConfig

    # The recipe is read before torch is imported: a typing error in it should not take seconds to be told.
    recipe = FinetuningConfig.from_file(config, tuple(set_values or ()))
    from uncrate.train.loop import Job, run

    outcome = run(
        Job(
            data=folder,
            model=model_dir,
            recipe=recipe,
            resume=resume or resume_from,
            labels=labels,
            pairs=eval_pairs,
            dry_run=dry_run,
            skip_bad=skip_bad,
            dtype=dtype,
        )
    )
    if not outcome.main:
        return INTERRUPTED if outcome.interrupted else 0
    if as_json:
        print_document(
            {
                "schema": 1,
                "folder": str(outcome.folder),
                "steps": outcome.steps,
                "metrics": outcome.metrics,
                "interrupted": outcome.interrupted,
            }
        )
    elif outcome.interrupted:
        print(f"stopped at step {outcome.steps}; go on: the same command with `yes` at its end", file=sys.stderr)
    elif not dry_run:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in outcome.metrics.items() if "per_second" not in name)
        print(
            f"{outcome.steps} steps; {show.harmless(str(outcome.folder))} holds the result and a report {shown}".strip()
        )
    return INTERRUPTED if outcome.interrupted else 0
