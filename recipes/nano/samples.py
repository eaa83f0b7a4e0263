"""The sample pictures that ship with the checkpoint: scenes of held-out digits, each with a red one, and questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from questions import LANGUAGES, ask, facts
from scenes import COLOURS, Scene, compose, draw, load_bank

SEED = 8  # of the first few, one whose digits a person reads without doubt
SIDE = 256
NAMES = {1: "one-digit.png", 2: "two-digits.png", 3: "three-digits.png", 4: "four-digits.png"}
RED = 0


def write_samples(folder: Path) -> None:
    """Draw the pictures into `folder`, with questions.json: picture to a list of question and answer."""
    folder.mkdir(parents=True, exist_ok=True)
    bank = load_bank("held-out")
    rng = np.random.default_rng(SEED)
    asked = {}
    for count, name in NAMES.items():
        scene = compose(rng, bank, count)
        while not _telling(scene):
            scene = compose(rng, bank, count)
        Image.fromarray(np.rint(draw([scene], bank, SIDE)[0]).astype(np.uint8)).save(folder / name, optimize=True)
        chosen = {}
        for fact in facts(scene):
            if (
                fact.topic in ("single", "describe", "how many", "at place", "colour at")
                or fact.english.get("colour") == COLOURS[RED].english
            ):
                for language in LANGUAGES:
                    question = ask(rng, fact, language, plainly=True)
                    chosen[fact.kind, language] = {"question": question.text, "answer": question.answer}
        asked[name] = list(chosen.values())
    text = json.dumps(asked, indent=1, ensure_ascii=False) + "\n"
    (folder / "questions.json").write_text(text, encoding="utf-8", newline="\n")


def _telling(scene: Scene) -> bool:
    """Whether a question about red, and about each digit by its value, has one answer."""
    values = [digit.value for digit in scene.digits]
    return len(set(values)) == len(values) and any(digit.colour == RED for digit in scene.digits)
