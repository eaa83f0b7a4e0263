"""`uncrate demo`: what the bundled checkpoint is, and what it answers about a picture, in English and Chinese."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from uncrate import show
from uncrate.cli.sampling import Flags
from uncrate.cli.waiting import waiting
from uncrate.open import inspect, open, plan

WHERE = "nano"
PICTURES = Path(__file__).parent.parent / "nano" / "pictures"
PICTURE = PICTURES / "three-digits.png"
QUESTIONS = ("What digit is red?", "有几个数字？", "Describe the picture.", "描述这张图片。")
_SHOWN = ("model", "weights", "tokenizer", "code", "route", "memory", "code that runs")


def command() -> int:
    """Open nano and ask it about a picture.

    Shows what the bundled checkpoint is, and its answers in English and Chinese.
    """
    on = show.colours(sys.stdout)
    print(show.paint("what is there, and what will be done", show.BOLD, on))
    rows = [*inspect(WHERE).sheet(), *plan(WHERE).sheet()]
    print(show.sheet([row for row in rows if row[0] in _SHOWN], stream=sys.stdout), flush=True)
    start = time.perf_counter()
    with waiting("opening nano"):
        opened = open(WHERE)
    took = show.seconds_text(time.perf_counter() - start)
    print(show.paint(f"\nopened in {took}; asked about {shown_path(PICTURE)}", show.BOLD, on), flush=True)
    greedy = asdict(Flags(greedy=True, max_tokens=64).over(opened.sampling))
    for question in QUESTIONS:
        start = time.perf_counter()
        (answer,) = opened.generate([[{"role": "user", "image": str(PICTURE), "content": question}]], **greedy)
        took = show.seconds_text(time.perf_counter() - start)
        said = show.paint(show.answer_text(answer.text, sys.stdout), show.GREEN, on)
        print(f"  {question}  {said}  {show.paint(f'({took})', show.DIM, on)}", flush=True)
    print(show.paint("\nnext", show.BOLD, on))
    program = shown_program()
    for arguments, purpose in (
        (f'chat nano -p "{QUESTIONS[0]}" -i {shown_path(PICTURE)}', "one question, the answer alone"),
        ("chat nano", "a conversation; /image PATH gives it a picture"),
        ("plan ./your-checkpoint", "what would be done with a checkpoint of yours"),
        ("doctor", "what this machine has"),
    ):
        print(f"  {program} {arguments}\n      {show.paint(purpose, show.DIM, on)}")
    return 0


def shown_program() -> str:
    """Return how this program is started from here: by its name where the shell finds it, else by its path."""
    started = Path(sys.argv[0])
    if started.name != "uncrate":
        return "python -m uncrate"
    found = shutil.which("uncrate")
    return "uncrate" if found and Path(found).resolve() == started.resolve() else shown_path(started.absolute())


def shown_path(path: Path) -> str:
    """Return a path as short as it can be typed from the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
