"""What is shown and tried before the first step, and the answers that are kept for afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from uncrate import show
from uncrate.generate.options import Sampling
from uncrate.models.chatglm.tokens import Tokenizer
from uncrate.opened import Opened
from uncrate.train.answers import Answerer
from uncrate.train.dataset import Collator, EvaluationPairs, TrainingRows
from uncrate.train.metrics import measure
from uncrate.train.report import Sample
from uncrate.train.view import marked

SHOWN = 2
COMPARED = 4
LONGEST = 64
"""Tokens of an answer that the report compares."""


def show_rows(rows: TrainingRows, tokenizer: Tokenizer) -> None:
    """Print the first rows as the model sees them; green, or in ⟦ ⟧, is what is trained."""
    on = show.colours(sys.stderr)
    for index in range(min(SHOWN, len(rows))):
        row = rows[index]
        text = marked(tokenizer, row.ids, row.labels, colour=on)
        print(f"\nrow {index + 1}, {len(row.ids)} tokens, {row.trained} trained:\n{text}", file=sys.stderr)


def sample_answers(opened: Opened, pairs: EvaluationPairs, collator: Collator, sampling: Sampling) -> list[Sample]:
    """Return the model's answers to the first questions, with what was wanted."""
    answerer = Answerer(opened, replace(sampling, max_new_tokens=min(sampling.max_new_tokens, LONGEST)))
    out = []
    for index in range(min(COMPARED, len(pairs))):
        pair = pairs[index]
        batch = {name: value.to(opened.device) for name, value in collator([pair]).items()}
        said = answerer.text(answerer.tokens(batch)[0])
        out.append(Sample(collator.tokenizer.describe(pair.prompt), answerer.text(pair.answer), said, ""))
    return out


def try_evaluation(
    opened: Opened, pairs: EvaluationPairs, collator: Collator, sampling: Sampling, *, old: bool
) -> list[Sample]:
    """Run the evaluation once, metrics and all: what is wrong with it should not show at step 500."""
    samples = sample_answers(opened, pairs, collator, sampling)
    measure([sample.answer for sample in samples], [sample.wanted for sample in samples], old=old)
    first = samples[0]
    print("\nevaluation, before training: " + show.harmless(first.question), file=sys.stderr)
    print(f"wanted: {show.harmless(first.wanted)}\nsaid: {show.harmless(first.answer)}", file=sys.stderr)
    return samples


def text_metrics(answerer: Answerer, *, old: bool) -> Callable[[Any], dict[str, float]]:
    """Return what Trainer calls with predicted and wanted ids: the metrics of their texts."""

    def compute(prediction: Any) -> dict[str, float]:
        said = [answerer.text(row.tolist()) for row in prediction.predictions]
        wanted = [answerer.text(row.tolist()) for row in prediction.label_ids]
        return measure(said, wanted, old=old)

    return compute


def write_predictions(
    path: Path, pairs: EvaluationPairs, answerer: Answerer, predicted: Sequence[Any], wanted: Sequence[Any]
) -> None:
    """Write one JSON line for each question: its place in the data, the answer that was wanted, and what was said."""
    lines = [
        {
            "place": pairs.place(index),
            "wanted": answerer.text(right.tolist()),
            "said": answerer.text(said.tolist()),
        }
        for index, (said, right) in enumerate(zip(predicted, wanted, strict=True))
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
