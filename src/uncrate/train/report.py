"""What a finished run shows: loss.png, and report.html with curves, answers before and after, settings and versions."""

from __future__ import annotations

import base64
import html
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

from uncrate.errors import MissingPackage
from uncrate.train.callbacks import read_log
from uncrate.train.recipe import FinetuningConfig
from uncrate.train.runplan import RunPlan

PACKAGES = ("uncrate", "torch", "transformers", "peft", "accelerate", "safetensors", "tiktoken", "pillow")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } img { max-width: 100% }
table { border-collapse: collapse; width: 100% } td, th { border-bottom: 1px solid #ddd; padding: .3rem .6rem;
text-align: left; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere }
pre { background: #f6f6f6; padding: .6rem }
"""


@dataclass(frozen=True)
class Sample:
    """One evaluation question, the answer that was wanted, and the model's before and after training."""

    question: str
    wanted: str
    answer: str
    after: str


def write_report(
    folder: Path,
    log: Path,
    plan: RunPlan,
    recipe: FinetuningConfig,
    samples: Sequence[Sample],
    metrics: Mapping[str, float],
) -> None:
    """Write loss.png and report.html into `folder`. Raises MissingPackage without matplotlib."""
    records = read_log(log)
    picture = draw_curves(records)
    (folder / "loss.png").write_bytes(picture)
    settings = {
        "training_args": dict(recipe.training),
        "generation_config": dict(recipe.generation),
        "peft_config": recipe.peft,
        "freeze": recipe.freeze,
        "combine": recipe.combine,
        "max_input_length": recipe.max_input_length,
        "max_output_length": recipe.max_output_length,
        "configuration": recipe.where,
    }
    evaluations = [record for record in records if any(name.startswith("eval_") for name in record)]
    final = dict(metrics) or (evaluations[-1] if evaluations else {})
    parts = [
        f"<h1>Fine-tuning of {html.escape(plan.model)}</h1>",
        f'<img alt="loss by step" src="data:image/png;base64,{base64.b64encode(picture).decode()}">',
        "<h2>Results</h2>",
        _table(
            ("what", "value"), ((name, f"{value:.4g}") for name, value in final.items() if isinstance(value, float))
        ),
        "<h2>Answers before and after</h2>",
        _table(("question", "wanted", "before", "after"), ((s.question, s.wanted, s.answer, s.after) for s in samples)),
        "<h2>The run</h2>",
        _table(("what", "value"), plan.sheet()),
        "<h2>Settings</h2>",
        f"<pre>{html.escape(json.dumps(settings, indent=2, ensure_ascii=False, default=str))}</pre>",
        "<h2>Versions</h2>",
        _table(("package", "version"), _versions()),
    ]
    page = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>uncrate train</title><style>{_STYLE}</style>'
    (folder / "report.html").write_text(page + "\n".join(parts) + "\n</html>\n", encoding="utf-8")


def draw_curves(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG of training and evaluation loss by step."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("the curve needs the package matplotlib", next="pip install 'uncrate[train]'") from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None, linewidth=1.2)
            axes.legend()
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{cells}</table>"


def _versions() -> list[tuple[str, str]]:
    out = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            out.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            out.append((name, "not installed as a package"))
    return out
