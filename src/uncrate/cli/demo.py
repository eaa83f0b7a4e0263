"""`uncrate demo`: what the bundled checkpoint is, and what it answers about a picture, in English and Chinese."""

from __future__ import annotations

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
PICTURE = "two.png"
QUESTIONS = ("What digit is red?", "有几个数字？", "左边的数字是几？", "How many digits are there?")
_SHOWN = ("model", "weights", "tokenizer", "code", "route", "memory", "code that runs")


def command() -> int:
    """Open nano and ask it about a picture.

    Shows what the bundled checkpoint is, and its answers in English and Chinese.
    """
    on = show.colours(sys.stdout)
    print(show.paint("what is there (uncrate inspect nano; uncrate plan nano)", show.BOLD, on))
    rows = [*inspect(WHERE).sheet(), *plan(WHERE).sheet()]
    print(show.sheet([row for row in rows if row[0] in _SHOWN], stream=sys.stdout), flush=True)
    start = time.perf_counter()
    with waiting("opening nano"):
        opened = open(WHERE)
    picture = PICTURES / PICTURE
    print(f"\nopened in {show.seconds_text(time.perf_counter() - start)}; asked about {picture}", flush=True)
    for question in QUESTIONS:
        start = time.perf_counter()
        messages = [{"role": "user", "image": str(picture), "content": question}]
        text = opened.generate([messages], **asdict(Flags(greedy=True, max_tokens=64).over(opened.sampling)))[0].text
        took = show.paint(f"({show.seconds_text(time.perf_counter() - start)})", show.DIM, on)
        print(f"  {question}  {show.paint(show.answer_text(text, sys.stdout), show.GREEN, on)}  {took}", flush=True)
    print(show.paint("\nnext", show.BOLD, on))
    print(f'  uncrate chat nano -p "{QUESTIONS[0]}" -i {picture}')
    print("  uncrate chat nano                 a conversation; /image PATH gives it a picture")
    print("  uncrate plan ./your-checkpoint    what would be done with a checkpoint of yours")
    print("  uncrate doctor                    what this machine has")
    return 0
