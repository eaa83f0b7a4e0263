"""Teach the vision tower to look: at each image position, which digit's middle is here, in which colour, and where.

Answers alone teach it too, but late: a wrong "7" does not say where to look. So training begins with this, and keeps it
beside the answers. The head that reads the positions is left behind; it is no part of the checkpoint.

Axes: N pictures, G image positions a side, C hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scenes import COLOURS, Scene
from torch import Tensor, nn

NO_DIGIT, NO_COLOUR = 10, len(COLOURS)
SIDES, MOST_DIGITS = 4, 4
EMPTY_WEIGHT = 0.2  # most positions hold no digit's middle


class Reader(nn.Module):
    """Reads a digit, a colour and an offset off each of the tower's image positions."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.head = nn.Linear(hidden, NO_DIGIT + 1 + NO_COLOUR + 1 + 2)
        self.order = nn.Linear(hidden, SIDES * MOST_DIGITS)

    def forward(self, vectors: Tensor, scenes: list[Scene], *, order: bool = False) -> Tensor:
        """The loss, a scalar, of reading `scenes` off the tower's `vectors` [N, G * G + 2, C], ends included.

        With `order` also which digit is the first, second, ... from the left, the right, the top and the bottom.
        """
        read = self.head(vectors[:, 1:-1]).float().flatten(0, 1)
        digits, colours, offsets = targets(scenes, round((vectors.shape[1] - 2) ** 0.5))
        here = digits != NO_DIGIT
        weight = torch.where(here, 1.0, EMPTY_WEIGHT)
        weight = weight / weight.sum()
        digit, colour, offset = read.split((NO_DIGIT + 1, NO_COLOUR + 1, 2), dim=-1)
        loss = (F.cross_entropy(digit, digits, reduction="none") * weight).sum()
        loss = loss + (F.cross_entropy(colour, colours, reduction="none") * weight).sum()
        loss = loss + ((offset - offsets) ** 2)[here].sum() / here.sum().clamp(min=1)
        if order and bool(here.any()):
            ranked = self.order(vectors[:, 1:-1]).float().flatten(0, 1)[here].view(-1, MOST_DIGITS)
            loss = loss + F.cross_entropy(ranked, ranks(scenes, round((vectors.shape[1] - 2) ** 0.5))[here].flatten())
        return loss


def targets(scenes: list[Scene], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Digit and colour [N * G * G] int64 of each position, and the middle's offset in it [N * G * G, 2] float32."""
    digits = np.full((len(scenes), side, side), NO_DIGIT)
    colours = np.full((len(scenes), side, side), NO_COLOUR)
    offsets = np.zeros((len(scenes), side, side, 2), dtype=np.float32)
    for row, scene in enumerate(scenes):
        for digit in scene.digits:
            across, down = min(int(digit.x * side), side - 1), min(int(digit.y * side), side - 1)
            digits[row, down, across], colours[row, down, across] = digit.value, digit.colour
            offsets[row, down, across] = digit.x * side - across, digit.y * side - down
    return tuple(torch.from_numpy(values) for values in (digits.ravel(), colours.ravel(), offsets.reshape(-1, 2)))


def ranks(scenes: list[Scene], side: int) -> Tensor:
    """For each position [N * G * G, 4] int64 how many digits come before its own from left, right, top and bottom."""
    found = np.zeros((len(scenes), side, side, SIDES), dtype=np.int64)
    for row, scene in enumerate(scenes):
        for digit in scene.digits:
            across, down = min(int(digit.x * side), side - 1), min(int(digit.y * side), side - 1)
            found[row, down, across] = (
                sum(other.x < digit.x for other in scene.digits),
                sum(other.x > digit.x for other in scene.digits),
                sum(other.y < digit.y for other in scene.digits),
                sum(other.y > digit.y for other in scene.digits),
            )
    return torch.from_numpy(found.reshape(-1, SIDES))


def waves(grid: int, hidden: int) -> Tensor:
    """First position vectors [grid * grid, hidden]: sines and cosines across and down, so near places are alike."""
    frequencies = torch.exp(torch.linspace(np.log(0.15), np.log(3.0), hidden // 4))
    angles = torch.arange(grid).float()[:, None] * frequencies
    line = torch.cat((angles.sin(), angles.cos()), dim=1)
    rows, columns = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return 0.7 * torch.cat((rows, columns), dim=-1).reshape(grid * grid, -1)
