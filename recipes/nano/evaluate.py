"""Measure a nano checkpoint on scenes of held-out digits, by the road that users take, and write RESULTS.md.

`python recipes/nano/evaluate.py` measures the bundled one again. An answer counts when it is the right text, whole and
exact. Pictures are drawn larger than the model sees them, so that the road's own resizing is part of what is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from questions import KINDS, LANGUAGES, Question, ask, facts
from scenes import Bank, Scene, compose, draw, load_bank

import uncrate

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parents[1] / "src" / "uncrate" / "nano"
RESULTS = HERE / "RESULTS.md"
SEED = 20260
SCENES = 800
AT_ONCE = 64
DRAWN_AT = 192  # three times what the model sees


@dataclass(frozen=True)
class Outcome:
    """One question about one scene, and what the checkpoint answered."""

    scene: Scene
    question: Question
    answer: str

    @property
    def right(self) -> bool:
        return self.answer == self.question.answer


def trials(bank: Bank, *, scenes: int, seed: int) -> list[tuple[Scene, Question]]:
    """For each scene one question of every kind that it allows, in turns English and Chinese."""
    rng = np.random.default_rng(seed)
    chosen = []
    for number in range(scenes):
        scene = compose(rng, bank, 1 + number % 4 if number % 40 else 0)
        by_kind = defaultdict(list)
        for fact in facts(scene):
            by_kind[fact.kind].append(fact)
        for offset, options in enumerate(by_kind.values()):
            fact = options[int(rng.integers(len(options)))]
            chosen.append((scene, ask(rng, fact, LANGUAGES[(number // 4 + offset) % 2])))
    return chosen


def answers(checkpoint: Path | str, asked: list[tuple[Scene, Question]], bank: Bank) -> Iterator[Outcome]:
    """Put each question with its picture to the checkpoint, a batch at a time, greedily."""
    opened = uncrate.open(checkpoint)
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        pictures = np.rint(draw([scene for scene, _ in some], bank, DRAWN_AT)).astype(np.uint8)
        chats = [
            [{"role": "user", "image": Image.fromarray(picture), "content": question.text}]
            for picture, (_, question) in zip(pictures, some, strict=True)
        ]
        generated = opened.generate(chats, max_new_tokens=64, temperature=0)
        for (scene, question), generation in zip(some, generated, strict=True):
            yield Outcome(scene, question, generation.text)


def share(outcomes: list[Outcome]) -> float:
    """The part of the answers that is right."""
    return sum(outcome.right for outcome in outcomes) / len(outcomes)


def results(outcomes: list[Outcome]) -> str:
    """RESULTS.md."""
    singles = [outcome for outcome in outcomes if len(outcome.scene.digits) == 1]
    rows: list[tuple[str, Callable[[Outcome], bool]]] = [
        (kind, lambda outcome, kind=kind: outcome.question.kind == kind) for kind in KINDS
    ]
    sizes: list[tuple[str, Callable[[Outcome], bool]]] = [
        (f"{count} digit{'s' * (count != 1)}", lambda outcome, count=count: len(outcome.scene.digits) == count)
        for count in range(5)
    ]
    return "\n".join(
        [
            "# What the bundled checkpoint answers",
            "",
            "Written by `recipes/nano/evaluate.py`. Each figure is the part of greedy answers that are the right text,",
            "whole and exact, on scenes made of digits that training never saw, drawn larger than the model sees them",
            f"({DRAWN_AT} x {DRAWN_AT} pixels): {len(outcomes):,} questions about {SCENES} scenes.",
            "",
            f"- all questions: {share(outcomes):.1%} of {len(outcomes)}",
            f"- scenes of one digit: {share(singles):.1%} of {len(singles)}",
            "",
            *_table("question", rows, outcomes),
            "",
            *_table("scene", sizes, outcomes),
            "",
        ]
    )


def _table(head: str, rows: list[tuple[str, Callable[[Outcome], bool]]], outcomes: list[Outcome]) -> Iterator[str]:
    yield f"| {head} | English | Chinese | both | questions |"
    yield "|---|---|---|---|---|"
    for name, chosen in rows:
        some = [outcome for outcome in outcomes if chosen(outcome)]
        by_language = [[outcome for outcome in some if outcome.question.language == code] for code in LANGUAGES]
        figures = [f"{share(part):.1%}" for part in (*by_language, some)]
        yield f"| {name} | {' | '.join(figures)} | {len(some)} |"


def measure(checkpoint: Path | str) -> str:
    """Ask all trials and return RESULTS.md; wrong answers go to stderr, since they teach most."""
    bank = load_bank("held-out")
    asked = trials(bank, scenes=SCENES, seed=SEED)
    outcomes = []
    for number, outcome in enumerate(answers(checkpoint, asked, bank), 1):
        outcomes.append(outcome)
        if number % 500 == 0:
            print(f"{number}/{len(asked)} questions, {share(outcomes):.1%} right", file=sys.stderr, flush=True)
    for outcome in [outcome for outcome in outcomes if not outcome.right][:20]:
        question = outcome.question
        print(f"  {question.text!r}: {outcome.answer!r}, not {question.answer!r}", file=sys.stderr)
    return results(outcomes)


def main() -> None:
    """Measure a checkpoint; without arguments the bundled one."""
    parser = argparse.ArgumentParser(description="Measure a nano checkpoint on held-out digits.")
    parser.add_argument("checkpoint", nargs="?", type=Path, default=CHECKPOINT)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go (default: %(default)s)")
    arguments = parser.parse_args()
    text = measure(arguments.checkpoint)
    arguments.results.write_text(text, encoding="utf-8", newline="\n")
    print(text)


if __name__ == "__main__":
    main()
