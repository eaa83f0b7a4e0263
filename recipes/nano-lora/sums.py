"""The new kind of question: the sum of two digits, in English and Chinese, as jsonl and pictures.

    {"messages": [{"role": "user", "content": "What is the sum?", "image": "pictures/00017.png"},
                  {"role": "assistant", "content": "3 + 8 = 11"}]}

Digits of training scenes and of held-out scenes are different people's handwriting, as in recipes/nano.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nano"))

from scenes import Scene, Split, compose, draw, load_bank

ENGLISH = ("What is the sum of the digits?", "What is the sum?", "Add the digits.", "What do the digits add up to?")
CHINESE = ("数字之和是多少？", "两个数字的和是几？", "把数字加起来。", "数字加起来是多少？")
SIDE = 64
AT_ONCE = 256


def answer(scene: Scene) -> str:
    """The sum written out, from left to right: the model reads two digits, as it can, and adds what it has written."""
    left, right = (digit.value for digit in scene.digits)
    return f"{left} + {right} = {left + right}"


def write_sums(folder: Path, name: str, split: Split, *, count: int, seed: int) -> Path:
    """Draw `count` scenes of two digits of a split into `folder`, each with one question; returns the jsonl."""
    bank = load_bank(split)
    rng = np.random.default_rng(seed)
    pictures = folder / f"{name}-pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = []
    for start in range(0, count, AT_ONCE):
        scenes = [compose(rng, bank, 2) for _ in range(min(AT_ONCE, count - start))]
        drawn = np.rint(draw(scenes, bank, SIDE)).clip(0, 255).astype(np.uint8)
        for number, (scene, picture) in enumerate(zip(scenes, drawn, strict=True), start):
            path = pictures / f"{number:05}.png"
            Image.fromarray(picture).save(path)
            options = (ENGLISH, CHINESE)[number % 2]
            ask = {
                "role": "user",
                "content": options[int(rng.integers(len(options)))],
                "image": str(path.relative_to(folder)),
            }
            record = {"messages": [ask, {"role": "assistant", "content": answer(scene)}]}
            lines.append(json.dumps(record, ensure_ascii=False))
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
