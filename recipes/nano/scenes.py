"""Scenes: one to four real handwritten digits, each in its own colour, on a dark or light ground.

The digits are the 1,797 of scikit-learn's `load_digits`, 8x8 pixels with values from 0 to 16. They are split by
instance, so that no digit drawn in a held-out scene has ever been seen in training. A `Scene` is a value: drawing it
twice, at any size, gives the same picture. Lengths are fractions of the picture's side, so that one scene can be drawn
at the model's own size and larger.

Axes: N scenes, D digits, S side of the picture, P side of a digit's patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "held-out"]

LATTICE = 8  # digits stand in the middles of its inner squares, give or take
JITTER = 0.02
MIDDLE_SIZE = 0.30
SIZES = {0: (0.3, 0.3), 1: (0.27, 0.38), 2: (0.27, 0.36), 3: (0.27, 0.34), 4: (0.27, 0.33)}

HELD_OUT = 297  # of 1,797: about one digit in six
SPLIT_SEED = 1797


@dataclass(frozen=True)
class Colour:
    """A colour that a digit can have, with its name in both languages."""

    english: str
    chinese: str
    rgb: tuple[int, int, int]


COLOURS = (
    Colour("red", "红色", (225, 35, 40)),
    Colour("green", "绿色", (35, 165, 60)),
    Colour("blue", "蓝色", (45, 80, 230)),
    Colour("yellow", "黄色", (235, 210, 30)),
    Colour("orange", "橙色", (245, 130, 20)),
    Colour("purple", "紫色", (150, 45, 190)),
    Colour("white", "白色", (245, 245, 245)),
    Colour("black", "黑色", (15, 15, 15)),
)
WHITE, BLACK = 6, 7


@dataclass(frozen=True)
class Bank:
    """Handwritten digits of one split: `pixels` [n, 8, 8] float32 in 0..1, `labels` [n] int64."""

    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Digit:
    """One digit of a scene; `x`, `y` (centre) and `size` are fractions of the picture's side."""

    value: int
    colour: int
    instance: int
    x: float
    y: float
    size: float
    angle: float
    stretch: float
    gain: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """Digits from left to right on a plain ground."""

    digits: tuple[Digit, ...]
    ground: tuple[float, float, float]


def load_bank(split: Split) -> Bank:
    """The digits of one split; the split is by digit instance and always the same.

    Needs scikit-learn, which carries the data in its own package: nothing is downloaded.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data.target))
    chosen = order[:HELD_OUT] if split == "held-out" else order[HELD_OUT:]
    return Bank((data.images[chosen] / 16.0).astype(np.float32), data.target[chosen].astype(np.int64))


def compose(rng: np.random.Generator, bank: Bank, count: int, freedom: float = 1.0) -> Scene:
    """A random scene of `count` digits of the bank: no two of one colour, none over another, no two in one column.

    With less `freedom` than 1, places and sizes vary less: what training begins with.
    """
    light = bool(rng.random() < 0.5)
    tint = rng.normal(0.0, 6.0, 3)
    level = rng.uniform(200.0, 255.0) if light else rng.uniform(0.0, 55.0)
    ground = np.clip(level + tint, 0.0, 255.0)
    palette = [index for index in range(len(COLOURS)) if index != (WHITE if light else BLACK)]
    colours = rng.choice(palette, size=count, replace=False)
    instances = rng.integers(0, len(bank.labels), size=count)
    places = sorted(_places(rng, count, freedom))
    digits = []
    for (x, y, size), colour, instance in zip(places, colours, instances, strict=True):
        rgb = np.clip(np.array(COLOURS[colour].rgb) + rng.normal(0.0, 9.0, 3), 0.0, 255.0)
        digits.append(
            Digit(
                value=int(bank.labels[instance]),
                colour=int(colour),
                instance=int(instance),
                x=x,
                y=y,
                size=size,
                angle=float(rng.normal(0.0, 0.10)),
                stretch=float(np.exp(rng.normal(0.0, 0.07))),
                gain=float(rng.uniform(1.0, 1.6)),
                rgb=(float(rgb[0]), float(rgb[1]), float(rgb[2])),
            )
        )
    return Scene(tuple(digits), (float(ground[0]), float(ground[1]), float(ground[2])))


def _places(rng: np.random.Generator, count: int, freedom: float) -> list[tuple[float, float, float]]:
    """Centres and sizes, by rejection: no digit over another, and each in its own column, so that an order is plain."""
    while True:
        squares = rng.integers(1, LATTICE - 1, size=(count, 2))
        across = np.abs(squares[:, None, 0] - squares[None, :, 0])
        down = np.abs(squares[:, None, 1] - squares[None, :, 1])
        apart = (across >= 1) & ((across >= 2) | (down >= 3))
        if (apart | np.eye(count, dtype=bool)).all():
            break
    centres = (squares + 0.5) / LATTICE + rng.uniform(-JITTER, JITTER, (count, 2)) * freedom
    sizes = MIDDLE_SIZE + (rng.uniform(*SIZES[count], count) - MIDDLE_SIZE) * freedom
    return [(float(x), float(y), float(size)) for (x, y), size in zip(centres, sizes, strict=True)]


def draw(scenes: list[Scene], bank: Bank, size: int) -> np.ndarray:
    """Pictures of the scenes, `size` pixels a side: [N, S, S, 3] float32 in 0..255."""
    pictures = np.empty((len(scenes), size, size, 3), dtype=np.float32)
    pictures[:] = np.array([scene.ground for scene in scenes], dtype=np.float32)[:, None, None, :]
    owners = [(row, digit) for row, scene in enumerate(scenes) for digit in scene.digits]
    if not owners:
        return pictures
    _paste(pictures, owners, bank)
    return pictures


def _paste(pictures: np.ndarray, owners: list[tuple[int, Digit]], bank: Bank) -> None:
    """Blend each (row, digit) into its picture, in place."""
    size = pictures.shape[1]
    side = int(np.ceil(max(digit.size for _, digit in owners) * size * 1.35)) + 2
    lefts = np.array([round(digit.x * size - side / 2) for _, digit in owners])
    tops = np.array([round(digit.y * size - side / 2) for _, digit in owners])
    ink = _ink([digit for _, digit in owners], bank, size, side, lefts, tops)
    for index, (row, digit) in enumerate(owners):
        left, top = int(lefts[index]), int(tops[index])
        ys, xs = slice(max(top, 0), min(top + side, size)), slice(max(left, 0), min(left + side, size))
        alpha = ink[index, ys.start - top : ys.stop - top, xs.start - left : xs.stop - left, None]
        target = pictures[row, ys, xs]
        target += alpha * (np.array(digit.rgb, dtype=np.float32) - target)


def _ink(digits: list[Digit], bank: Bank, size: int, side: int, lefts: np.ndarray, tops: np.ndarray) -> np.ndarray:
    """How much each pixel of a digit's patch is inked: [D, P, P] in 0..1, from the 8x8 digits, turned and scaled."""

    def per_digit(values: list[float]) -> np.ndarray:
        return np.array(values, dtype=np.float32)[:, None, None]

    column = np.arange(side, dtype=np.float32) + 0.5
    dx = column[None, None, :] + per_digit([left - d.x * size for left, d in zip(lefts, digits, strict=True)])
    dy = column[None, :, None] + per_digit([top - d.y * size for top, d in zip(tops, digits, strict=True)])
    across = per_digit([8.0 / (d.size * size) * d.stretch for d in digits])
    down = per_digit([8.0 / (d.size * size) / d.stretch for d in digits])
    cos, sin = per_digit([np.cos(d.angle) for d in digits]), per_digit([np.sin(d.angle) for d in digits])
    u = (cos * dx + sin * dy) * across + 4.5  # +4 to the middle of 8 cells, +1 for the border, -0.5 to cell centres
    v = (cos * dy - sin * dx) * down + 4.5
    np.clip(u, 0.0, 8.999, out=u)
    np.clip(v, 0.0, 8.999, out=v)
    iu, iv = u.astype(np.int32), v.astype(np.int32)
    u -= iu
    v -= iv
    padded = np.pad(bank.pixels[[d.instance for d in digits]], ((0, 0), (1, 1), (1, 1))).ravel()
    corner = iv * 10 + iu + (np.arange(len(digits), dtype=np.int32) * 100)[:, None, None]
    upper = padded[corner] * (1 - u) + padded[corner + 1] * u
    lower = padded[corner + 10] * (1 - u) + padded[corner + 11] * u
    ink = (upper * (1 - v) + lower * v) * per_digit([d.gain for d in digits])
    return np.clip(ink, 0.0, 1.0)


def roughen(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Training noise, in place of what resizing and saving do to pictures: some blurred a little, all with grain."""
    pictures = pictures.copy()
    some = np.flatnonzero(rng.random(len(pictures)) < 0.4)
    weight = rng.uniform(0.0, 0.25, len(some)).astype(np.float32)[:, None, None, None]
    wide = np.pad(pictures[some], ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    wide = (1 - 2 * weight) * wide[:, 1:-1] + weight * (wide[:, :-2] + wide[:, 2:])
    pictures[some] = (1 - 2 * weight) * wide[:, :, 1:-1] + weight * (wide[:, :, :-2] + wide[:, :, 2:])
    # The same grain on every picture of a batch, each in its own strength: fresh grain for each would cost more than
    # drawing does, and the next batch has another.
    grain = rng.standard_normal(pictures.shape[1:], dtype=np.float32)
    pictures += grain * rng.uniform(-5.0, 5.0, len(pictures)).astype(np.float32)[:, None, None, None]
    return np.clip(pictures, 0.0, 255.0, out=pictures)
