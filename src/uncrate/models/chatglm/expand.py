"""Where a picture's vectors go: three placeholder tokens become the tower's n + 2 vectors, without loops over rows.

    tokens     … <|begin_of_image|> <|endoftext|> <|end_of_image|> 描 述 …        T positions
    expanded   …  begin  image₁ … imageₙ  end                      描 述 …        E = T + n - 1 positions

Every expanded position names the token position it stands for, so embeddings, position ids, mask and labels are all one
gather: the n image positions share the placeholder's position id. A row without a picture in the same batch gets
n - 1 more padded positions on the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from uncrate.errors import PictureError


@dataclass(frozen=True)
class Expansion:
    """The map from expanded to token positions.

    `source` [B, E] holds token positions; `real` [B, E] is False on added padding; `vision` [B, E] indexes the
    flattened tower output [N * (n + 2)] and is -1 where a word stands; `inside` [B, E] marks the n image vectors.
    """

    source: Tensor
    real: Tensor
    vision: Tensor
    inside: Tensor

    def gather(self, values_BT: Tensor, fill: int) -> Tensor:
        """Spread [B, T] values over expanded positions; `fill` on added padding."""
        return torch.where(self.real, values_BT.gather(1, self.source), fill)


def expand(input_ids: Tensor, boi_token_id: int, eoi_token_id: int, pictures: int, vectors: int) -> Expansion:
    """Return the expansion of token ids [B, T] for `pictures` pictures of `vectors` vectors (n + 2) each.

    Raises PictureError where rows with a begin-of-image token and pictures differ in number, where a row has two, or
    where the end-of-image token does not stand two places after the begin.
    """
    begins = input_ids == boi_token_id
    has_image = begins.any(dim=1)
    _check(input_ids, begins, has_image, eoi_token_id, pictures)
    n = vectors - 2
    begin = begins.int().argmax(dim=1)
    # A row without a picture acts as if one had ended before its first expanded position.
    begin = torch.where(has_image, begin, -(n + 1))[:, None]
    place = torch.arange(input_ids.shape[1] + n - 1, device=input_ids.device)[None]
    offset = place - begin
    source = torch.where(offset <= 0, place, torch.where(offset <= n, begin + 1, place - (n - 1)))
    real = source >= 0
    held = has_image[:, None] & (offset >= 0) & (offset < vectors)
    row = (has_image.long().cumsum(0) - 1)[:, None]
    vision = torch.where(held, row * vectors + offset, -1)
    return Expansion(source.clamp(min=0), real, vision, held & (offset >= 1) & (offset <= n))


def _check(input_ids: Tensor, begins: Tensor, has_image: Tensor, eoi_token_id: int, pictures: int) -> None:
    rows = int(has_image.sum())
    if rows != pictures:
        raise PictureError(
            f"{pictures} pictures were given for {rows} rows with a begin-of-image token",
            next="give one picture for each row that has the three image tokens, in row order",
        )
    if int(begins.sum()) != rows:
        raise PictureError("a row has two begin-of-image tokens", why="the model takes one picture a conversation")
    ends = input_ids == eoi_token_id
    paired = begins[:, :-2] & ends[:, 2:]
    if int(paired.sum()) != rows:
        raise PictureError(
            "the end-of-image token does not stand two places after the begin-of-image token",
            why="the prompt was cut inside the picture, or its image tokens were written by hand",
        )
