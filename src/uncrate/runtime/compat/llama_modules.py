"""Llama attention and rotary embeddings with the module names, signatures and results of transformers 4.4x.

B batch, T new positions, S all positions, H heads, K key heads, D head size.
"""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type"

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def default_rope_parameters(
    config: Any = None, device: Any = None, seq_len: int | None = None, layer_type: str | None = None, **old: Any
) -> tuple[Tensor, float]:
    """Return the inverse frequencies [D/2] of plain rotary embeddings and the factor 1.0.

    From a config, or from `base` and `dim` given as keywords.
    """
    if old:
        base, dim = old["base"], old["dim"]
    else:
        base = getattr(config, "rope_theta", 10000.0)
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dim = int(size * getattr(config, "partial_rotary_factor", 1.0))
    steps = torch.arange(0, dim, 2, dtype=torch.int64).to(device=device, dtype=torch.float)
    return 1.0 / (base ** (steps / dim)), 1.0


class LlamaRotaryEmbedding(nn.Module):
    """Rotary embeddings, made from (dim, max_position_embeddings, base) or from a config.

    forward(x, position_ids [B, T]) gives cos and sin [B, T, D]; forward(x, seq_len=n), of 4.37 and before, [n, D].
    """

    def __init__(
        self,
        dim: Any = None,
        max_position_embeddings: int = 2048,
        base: float = 10000,
        device: Any = None,
        scaling_factor: float = 1.0,
        rope_type: str = "default",
        config: Any = None,
    ) -> None:
        super().__init__()
        if dim is not None and not isinstance(dim, int):
            dim, config = None, dim
        self.config, self.scaling_factor, self.rope_type = config, scaling_factor, rope_type
        self.attention_scaling = 1.0
        if config is not None:
            max_position_embeddings = config.max_position_embeddings
            inv_freq, self.attention_scaling = _from_config(config, device)
            self.dim, self.base = 2 * inv_freq.shape[0], getattr(config, "rope_theta", base)
        else:
            inv_freq, _ = default_rope_parameters(device=device, base=base, dim=dim)
            self.dim, self.base = dim, base
        self.max_position_embeddings = self.max_seq_len_cached = self.original_max_seq_len = max_position_embeddings
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.original_inv_freq = self.inv_freq

    def frequencies(self, length: int, device: Any) -> Tensor:
        """Return the inverse frequencies [D/2] to use for sequences of this length."""
        return self.inv_freq.to(device)

    def positions(self, position_ids: Tensor) -> Tensor:
        """Return positions as they enter the angle."""
        return position_ids.float()

    @torch.no_grad()
    def forward(
        self, x: Tensor, position_ids: Tensor | int | None = None, seq_len: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return cos and sin in x's dtype."""
        if isinstance(position_ids, Tensor):
            length = seq_len if seq_len is not None else int(position_ids.max()) + 1
            where = self.positions(position_ids)
        else:
            length = position_ids or seq_len or x.shape[-2]
            where = self.positions(torch.arange(length, device=x.device))
        angles = where[..., None] * self.frequencies(length, x.device)
        both = torch.cat([angles, angles], dim=-1)
        return (both.cos() * self.attention_scaling).to(x.dtype), (both.sin() * self.attention_scaling).to(x.dtype)


def _from_config(config: Any, device: Any) -> tuple[Tensor, float]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("default", "mrope", None) or kind not in ROPE_INIT_FUNCTIONS:
        return default_rope_parameters(config, device)
    inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](config, device)
    return inv_freq, factor


class LlamaLinearScalingRotaryEmbedding(LlamaRotaryEmbedding):
    """Positions divided by a factor."""

    def positions(self, position_ids: Tensor) -> Tensor:
        return position_ids.float() / self.scaling_factor


class LlamaDynamicNTKScalingRotaryEmbedding(LlamaRotaryEmbedding):
    """A base that grows once a sequence is longer than the model was trained for."""

    def frequencies(self, length: int, device: Any) -> Tensor:
        if length <= self.max_position_embeddings:
            return self.inv_freq.to(device)
        grown = self.scaling_factor * length / self.max_position_embeddings - (self.scaling_factor - 1)
        base = self.base * grown ** (self.dim / (self.dim - 2))
        return default_rope_parameters(device=device, base=base, dim=self.dim)[0]


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def apply_rotary_pos_emb(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | int | None = None, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Rotate q [B, H, T, D] and k [B, K, T, D] by cos and sin [B, T, D], or [n, D] picked by position_ids [B, T]."""
    if isinstance(position_ids, Tensor) and cos.shape[:-1] != position_ids.shape:
        table_cos, table_sin = cos.reshape(-1, cos.shape[-1]), sin.reshape(-1, sin.shape[-1])
        cos, sin = table_cos[position_ids], table_sin[position_ids]
    elif isinstance(position_ids, int):
        unsqueeze_dim = position_ids
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin


class LlamaAttention(nn.Module):
    """Multi-head attention with grouped keys: returns (output [B, T, hidden], scores or None, the cache)."""

    def __init__(self, config: Any, layer_idx: int | None = None) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.hidden_size, self.num_heads = config.hidden_size, config.num_attention_heads
        self.head_dim = getattr(config, "head_dim", None) or self.hidden_size // self.num_heads
        self.num_key_value_heads = getattr(config, "num_key_value_heads", None) or self.num_heads
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.attention_dropout = getattr(config, "attention_dropout", 0.0)
        self.max_position_embeddings = config.max_position_embeddings
        self.rope_theta = getattr(config, "rope_theta", 10000.0)
        self.is_causal = True
        bias = bool(getattr(config, "attention_bias", False))
        self.q_proj = nn.Linear(self.hidden_size, self.num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(self.hidden_size, self.num_key_value_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(self.hidden_size, self.num_key_value_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, self.hidden_size, bias=bias)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_value: Any = None,
        output_attentions: bool = False,
        use_cache: bool = False,
        cache_position: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None, Any]:
        """attention_mask: [B, 1, T, S] numbers to add to the scores, or None for plain causal attention."""
        cache = past_key_value if past_key_value is not None else more.get("past_key_values")
        batch, length, _ = hidden_states.shape
        q = self.q_proj(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
        k = self.k_proj(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
        if position_embeddings is None:
            if position_ids is None:
                seen = cache.get_seq_length(self.layer_idx) if cache is not None else 0
                position_ids = torch.arange(seen, seen + length, device=q.device)[None]
            position_embeddings = self.rotary_emb(v, position_ids)
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        k = k.repeat_interleave(self.num_key_value_groups, dim=1)
        v = v.repeat_interleave(self.num_key_value_groups, dim=1)
        scores = q @ k.transpose(2, 3) / sqrt(self.head_dim)
        if attention_mask is not None and attention_mask.dim() == 4:
            scores = scores + attention_mask[..., : k.shape[-2]]
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        weights = F.dropout(weights, p=self.attention_dropout, training=self.training)
        output = (weights @ v).transpose(1, 2).reshape(batch, length, -1)
        return self.o_proj(output), weights if output_attentions else None, cache


ATTENTION_CLASSES = dict.fromkeys(("eager", "sdpa", "flash_attention_2"), LlamaAttention)
