"""How far the training is: a line that rewrites itself on a terminal, plain lines elsewhere, and a JSON log always."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

EVERY = 50


class Progress:
    """Counts steps and tells loss, speed and the time left, every fifty steps."""

    def __init__(self, done: int, total: int, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a" if done else "w", encoding="utf-8")
        self._first, self._done, self._total = done, done, total
        self._losses: list[float] = []
        self._started = time.monotonic()

    def step(self, loss: float, rate: float) -> None:
        """Count one step."""
        self._done += 1
        self._losses.append(loss)
        if self._done % EVERY and self._done != self._total:
            return
        mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        seconds = time.monotonic() - self._started
        each = seconds / (self._done - self._first)
        left = each * (self._total - self._done)
        filled = 24 * self._done // self._total
        bar = "█" * filled + "░" * (24 - filled)
        text = f"{bar} {self._done}/{self._total}  loss {mean:.4f}  {each:.2f} s/step  {left / 60:.0f} min left"
        if sys.stderr.isatty():
            print(f"\r{text}  ", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
        entry = {"step": self._done, "loss": round(mean, 5), "rate": round(rate, 7), "seconds": round(seconds, 1)}
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)
        self._log.close()
