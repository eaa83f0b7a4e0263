"""The attention masks of `transformers.modeling_attn_mask_utils`, on their way out of transformers and warning at
every call.

Masks in: 1 for "look here", [B, S]. Masks out: [B, 1, T, S], zeros and lowest numbers, to add to scores.
"""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uncrate.runtime.compat.hooks import Hooks
from uncrate.runtime.compat.torch_helpers import _expand_mask, _make_causal_mask

MODULE = "transformers.modeling_attn_mask_utils"


@dataclass
class AttentionMaskConverter:
    """Makes masks of one kind: causal or not, with a window or without."""

    is_causal: bool
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        if self.sliding_window is not None and self.sliding_window <= 0:
            raise ValueError(f"sliding_window is {self.sliding_window}; a positive number is expected")

    def to_causal_4d(
        self, batch_size: int, query_length: int, key_value_length: int, dtype: torch.dtype, device: Any = "cpu"
    ) -> Tensor | None:
        """Return the causal mask alone, None where one position sees everything."""
        if not self.is_causal:
            raise ValueError("this converter is not causal")
        if query_length == 1 and self.sliding_window is None:
            return None
        past = key_value_length - query_length
        return _make_causal_mask((batch_size, query_length), dtype, device, past, self.sliding_window)

    def to_4d(
        self, attention_mask_2d: Tensor, query_length: int, dtype: torch.dtype, key_value_length: int | None = None
    ) -> Tensor:
        """Return a padding mask, with the causal one in it where this converter is causal."""
        padding = _expand_mask(attention_mask_2d, dtype, tgt_len=query_length)
        if not self.is_causal:
            if self.sliding_window is not None:
                raise NotImplementedError("a window is for causal masks only")
            return padding
        if query_length > 1 and key_value_length is None:
            raise ValueError("a causal mask needs key_value_length")
        length = key_value_length if key_value_length is not None else attention_mask_2d.shape[1]
        causal = self.to_causal_4d(attention_mask_2d.shape[0], query_length, length, dtype, attention_mask_2d.device)
        return padding if causal is None else causal.masked_fill(padding.bool(), torch.finfo(dtype).min)

    @staticmethod
    def _make_causal_mask(
        input_ids_shape: Any,
        dtype: torch.dtype,
        device: Any,
        past_key_values_length: int = 0,
        sliding_window: int | None = None,
    ) -> Tensor:
        return _make_causal_mask(input_ids_shape, dtype, device, past_key_values_length, sliding_window)

    @staticmethod
    def _expand_mask(mask: Tensor, dtype: torch.dtype, tgt_len: int | None = None) -> Tensor:
        return _expand_mask(mask, dtype, tgt_len)

    @staticmethod
    def _unmask_unattended(expanded_mask: Tensor, *args: Any, min_dtype: float | None = None, **kwargs: Any) -> Tensor:
        """Return the mask with rows that see nothing made to see everything, as fused kernels want it."""
        if min_dtype is None:
            min_dtype = args[-1] if args and isinstance(args[-1], float) else torch.finfo(expanded_mask.dtype).min
        return expanded_mask.mul(~torch.all(expanded_mask == min_dtype, dim=-1, keepdim=True))

    @staticmethod
    def _ignore_causal_mask_sdpa(
        attention_mask: Tensor | None,
        inputs_embeds: Tensor,
        past_key_values_length: int,
        sliding_window: int | None = None,
        is_training: bool = False,
    ) -> bool:
        """Whether the fused attention's own causal flag says all that the mask would."""
        query = inputs_embeds.shape[1]
        length = query + past_key_values_length
        square = query in (1, length) and (sliding_window is None or length < sliding_window)
        tracing = torch.jit.is_tracing() or isinstance(inputs_embeds, torch.fx.Proxy)
        if attention_mask is None:
            return square and (is_training or not tracing)
        return square and attention_mask.dim() == 2 and not tracing and bool(torch.all(attention_mask == 1))


def _prepare_4d_causal_attention_mask(
    attention_mask: Tensor | None,
    input_shape: Any,
    inputs_embeds: Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> Tensor | None:
    """Return the causal mask of T new positions, combined with a padding mask."""
    batch, query = input_shape[0], input_shape[-1]
    length, dtype = query + past_key_values_length, inputs_embeds.dtype
    converter = AttentionMaskConverter(True, sliding_window)
    if attention_mask is None:
        return converter.to_causal_4d(batch, query, length, dtype, inputs_embeds.device)
    if attention_mask.dim() == 2:
        return converter.to_4d(attention_mask, query, dtype, length)
    if tuple(attention_mask.shape) != (batch, 1, query, length):
        raise ValueError(
            f"the mask has the shape {tuple(attention_mask.shape)}; {(batch, 1, query, length)} is expected"
        )
    inverted = 1.0 - attention_mask
    return inverted.masked_fill(inverted.to(torch.bool), torch.finfo(dtype).min)


def _prepare_4d_causal_attention_mask_for_sdpa(
    attention_mask: Tensor | None,
    input_shape: Any,
    inputs_embeds: Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> Tensor | None:
    """Return the same, None where the fused attention's causal flag suffices."""
    past = past_key_values_length
    if AttentionMaskConverter._ignore_causal_mask_sdpa(attention_mask, inputs_embeds, past, sliding_window):
        return None
    if attention_mask is not None and attention_mask.dim() == 4:
        mask: Tensor | None = attention_mask
    else:
        mask = _prepare_4d_causal_attention_mask(attention_mask, input_shape, inputs_embeds, past, sliding_window)
    if attention_mask is not None and mask is not None and mask.device.type in ("cuda", "xpu"):
        return AttentionMaskConverter._unmask_unattended(mask)
    return mask


def _prepare_4d_attention_mask(mask: Tensor, dtype: torch.dtype, tgt_len: int | None = None) -> Tensor:
    """Return a padding mask for T positions."""
    return _expand_mask(mask, dtype, tgt_len)


def _prepare_4d_attention_mask_for_sdpa(mask: Tensor, dtype: torch.dtype, tgt_len: int | None = None) -> Tensor | None:
    """Return a padding mask for T positions, None when nothing is padded."""
    return None if not torch.jit.is_tracing() and bool(torch.all(mask == 1)) else _expand_mask(mask, dtype, tgt_len)


def _create_4d_causal_attention_mask(
    input_shape: Any,
    dtype: torch.dtype,
    device: Any,
    past_key_values_length: int = 0,
    sliding_window: int | None = None,
) -> Tensor | None:
    """Return the causal mask alone."""
    batch, query = input_shape[0], input_shape[-1]
    converter = AttentionMaskConverter(True, sliding_window)
    return converter.to_causal_4d(batch, query, query + past_key_values_length, dtype, device)


GIVEN_BACK = (
    AttentionMaskConverter,
    _prepare_4d_causal_attention_mask,
    _prepare_4d_causal_attention_mask_for_sdpa,
    _prepare_4d_attention_mask,
    _prepare_4d_attention_mask_for_sdpa,
    _create_4d_causal_attention_mask,
)


def mask_helpers(hooks: Hooks) -> None:
    """Serve the mask helpers from here, with or without the module in transformers."""
    table = {own.__name__: (lambda own=own: own) for own in GIVEN_BACK}
    hooks.modules[MODULE] = table
    for name, factory in table.items():
        hooks.replace[(MODULE, name)] = lambda real, factory=factory: factory()
        hooks.add_names("", **{name: factory})
