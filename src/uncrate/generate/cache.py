"""The KV cache: one block of memory a layer for keys and one for values, reserved once, written in place.

Axes in names: L layers, B batch, G key and value heads, S key positions, D channels a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uncrate.errors import DoesNotFit
from uncrate.show import size_text


class KVCache:
    """Keys and values of all positions so far, [L][B, G, S, D], and which positions are real.

    `length` positions are filled of `capacity`. A forward pass first calls `extend` with its own mask, then `update`
    once a layer.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        groups: int,
        capacity: int,
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, batch, groups, capacity, channels)
        try:
            self.keys = torch.empty(shape, dtype=dtype, device=device)
            self.values = torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError as error:  # torch has no type of its own for a CPU that is out of memory
            size = size_text(2 * math.prod(shape) * dtype.itemsize)
            raise DoesNotFit(
                f"keys and values of {capacity:,} positions take {size}, which {device} has not free",
                next="lower max_new_tokens, or answer fewer conversations at once",
            ) from error
        self.capacity = capacity
        self.length = 0
        self._start = 0
        self._mask: Tensor | None = None

    def extend(self, mask_BE: Tensor | None, batch: int, queries: int) -> tuple[Tensor | None, int]:
        """Make room for `queries` positions; returns the mask over all key positions [B, S] (None: all real) and S."""
        self._start, self.length = self.length, self.length + queries
        if self.length > self.capacity:
            raise DoesNotFit(f"{self.length} positions do not fit in a cache of {self.capacity}")
        if mask_BE is None and self._mask is None:
            return None, self.length
        device = self.keys.device
        before = torch.ones(batch, self._start, dtype=torch.bool, device=device) if self._mask is None else self._mask
        added = torch.ones(batch, queries, dtype=torch.bool, device=device) if mask_BE is None else mask_BE.bool()
        self._mask = torch.cat((before, added), dim=1)
        return self._mask, self.length

    def update(self, k_BGTD: Tensor, v_BGTD: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write this pass's keys and values of one layer; returns views of all filled positions."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys[:, :, self._start : self.length] = k_BGTD
        values[:, :, self._start : self.length] = v_BGTD
        return keys[:, :, : self.length], values[:, :, : self.length]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all batch rows but `rows` (indices [R]), in that order: finished rows stop costing time."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        if self._mask is not None:
            self._mask = self._mask[rows]
