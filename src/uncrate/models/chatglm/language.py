"""The ChatGLM decoder: embedding, rotary grouped-query attention, SwiGLU, one block, the stack.

Axes in names: B batch, T query positions, S key positions, H query heads, G key and value heads, D channels a head, C
hidden size.
Module names are the checkpoint's own, so weights are assigned without renaming.
Source: the architecture published with THUDM/chatglm2-6b, chatglm3-6b, glm-4-9b and glm-4v-9b.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uncrate.families.chatglm import ChatGLMConfig


class KeyValueStore(Protocol):
    """What attention needs of a cache: append this layer's keys and values, get all of them back."""

    def update(self, k_BGTD: Tensor, v_BGTD: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]: ...


class RMSNorm(nn.Module):
    """Root mean square norm, computed in float32; [..., C] to [..., C]."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * (x * scale)).to(x.dtype)


def build_norm(config: ChatGLMConfig) -> nn.Module:
    """Return the norm that the config names: RMSNorm or LayerNorm over the hidden size."""
    if config.rmsnorm:
        return RMSNorm(config.hidden_size, config.layernorm_epsilon)
    return nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)


def rotary_table(config: ChatGLMConfig, position_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return cosines and sines [B, T, 1, D/4, 2] for positions [B, T]; computed in float32, rounded to `dtype` as the
    original's cache is.

    Half of each head's channels turn, in pairs, so D/4 frequencies. `rope_ratio` multiplies the base, but divides the
    positions in ChatGLM2-6B-32K.
    """
    size = config.kv_channels // 2
    positions = position_ids.float()
    base = 10_000.0
    if config.positions_interpolated:
        positions = positions / config.rope_ratio
    else:
        base = base * config.rope_ratio
    exponent = torch.arange(0, size, 2, dtype=torch.float32, device=position_ids.device) / size
    angle = positions[..., None] * (1.0 / base**exponent)
    return torch.stack((angle.cos(), angle.sin()), dim=-1)[:, :, None].to(dtype)


def rotate(x_BTHD: Tensor, table_BT1F2: Tensor) -> Tensor:
    """Turn even and odd channels of the first half of each head by their position's angle; the second half passes."""
    turned, passed = x_BTHD.chunk(2, dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table_BT1F2.unbind(-1)
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return torch.cat((pairs.flatten(-2), passed), dim=-1)


def attend(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention with grouped heads; `mask` is bool [B, 1, T, S], or None for plain causal.

    One query position (decode) folds a group's query heads into the position axis, so keys and values are read once
    instead of once a head.
    """
    heads, groups, length = q_BHTD.shape[1], k_BGSD.shape[1], q_BHTD.shape[2]
    if length == 1 and heads != groups:
        folded = F.scaled_dot_product_attention(
            q_BHTD.view(-1, groups, heads // groups, q_BHTD.shape[-1]), k_BGSD, v_BGSD, mask, dropout
        )
        return folded.reshape(q_BHTD.shape)
    causal = mask is None and length > 1
    return F.scaled_dot_product_attention(
        q_BHTD, k_BGSD, v_BGSD, mask, dropout, is_causal=causal, enable_gqa=heads != groups
    )


class SelfAttention(nn.Module):
    """Grouped-query attention over a causal sequence; [B, T, C] to [B, T, C]."""

    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.heads, self.groups, self.channels = config.num_attention_heads, config.kv_groups, config.kv_channels
        self.interleaved = not config.multi_query_attention
        self.dropout = config.attention_dropout
        qkv_bias = config.add_bias_linear or config.add_qkv_bias
        self.query_key_value = nn.Linear(config.hidden_size, config.qkv_size, bias=qkv_bias)
        self.dense = nn.Linear(config.attention_size, config.hidden_size, bias=config.add_bias_linear)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut the joint projection into q [B, T, H, D] and k, v [B, T, G, D]."""
        if self.interleaved:  # without groups the file keeps q, k, v of one head side by side
            q, k, v = qkv.unflatten(-1, (self.heads, 3 * self.channels)).chunk(3, dim=-1)
            return q, k, v
        shared = self.groups * self.channels
        q, k, v = qkv.split((self.heads * self.channels, shared, shared), dim=-1)
        return tuple(part.unflatten(-1, (-1, self.channels)) for part in (q, k, v))  # type: ignore[return-value]

    def forward(
        self, x: Tensor, table: Tensor, mask: Tensor | None, cache: KeyValueStore | None, prefix: Tensor | None
    ) -> Tensor:
        q, k, v = self.split(self.query_key_value(x))
        q, k, v = rotate(q, table).transpose(1, 2), rotate(k, table).transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        if prefix is not None:  # trained keys and values that every position may see, never rotated
            k, v = torch.cat((prefix[0], k), dim=2), torch.cat((prefix[1], v), dim=2)
        y = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.dense(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU feed-forward; gate and value come from one projection."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=config.add_bias_linear)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=config.add_bias_linear)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(F.silu(gate) * value)


class GLMBlock(nn.Module):
    """Norm, attention, residual, norm, feed-forward, residual."""

    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.residual_after_norm = config.apply_residual_connection_post_layernorm
        self.hidden_dropout = config.hidden_dropout
        self.input_layernorm = build_norm(config)
        self.self_attention = SelfAttention(config, layer_idx)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, table: Tensor, mask: Tensor | None, cache: KeyValueStore | None, prefix: Tensor | None
    ) -> Tensor:
        # Residuals may run in float32 (fp32_residual_connection) over half-precision weights.
        dtype = table.dtype
        normed = self.input_layernorm(x).to(dtype)
        y = self.self_attention(normed, table, mask, cache, prefix)
        x = (normed if self.residual_after_norm else x) + F.dropout(y, self.hidden_dropout, self.training)
        normed = self.post_attention_layernorm(x).to(dtype)
        y = self.mlp(normed)
        return (normed if self.residual_after_norm else x) + F.dropout(y, self.hidden_dropout, self.training)


class GLMTransformer(nn.Module):
    """The stack of blocks and the final norm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GLMBlock(config, index) for index in range(config.num_layers))
        if config.post_layer_norm:
            self.final_layernorm = build_norm(config)
        self.gradient_checkpointing = False
        self.checkpoint = partial(checkpoint, use_reentrant=False)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None,
        cache: KeyValueStore | None,
        prefixes: Tensor | None,
        collected: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states [B, T, C]; `collected` receives what enters each block, and last what enters the final norm."""
        for index, layer in enumerate(self.layers):
            prefix = None if prefixes is None else prefixes[index]
            if collected is not None:
                collected.append(x)
            if self.gradient_checkpointing and self.training:
                x = self.checkpoint(layer, x, table, mask, cache, prefix)
            else:
                x = layer(x, table, mask, cache, prefix)
        if collected is not None:
            collected.append(x)
        return self.final_layernorm(x).to(table.dtype) if hasattr(self, "final_layernorm") else x


class PrefixEncoder(nn.Module):
    """P-tuning v2: `pre_seq_len` trained key and value positions for every layer.

    Returns [L, 2, B, G, P, D], P = pre_seq_len.
    """

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        assert config.pre_seq_len is not None
        self.shape = (config.pre_seq_len, config.num_layers, 2, config.kv_groups, config.kv_channels)
        width = config.num_layers * config.kv_channels * config.kv_groups * 2
        self.embedding = nn.Embedding(config.pre_seq_len, width)
        if config.prefix_projection:
            self.trans = nn.Sequential(
                nn.Linear(width, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, width)
            )

    def forward(self, batch: int) -> Tensor:
        width = self.embedding.weight
        flat = self.trans(width) if hasattr(self, "trans") else width
        prefix = F.dropout(flat, 0.1, self.training).view(self.shape).permute(1, 2, 3, 0, 4)
        return prefix[:, :, None].expand(-1, -1, batch, -1, -1, -1)


class Embedding(nn.Module):
    """Word embeddings, under the checkpoint's name."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.fp32_residual = config.fp32_residual_connection

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.word_embeddings(input_ids)
        return x.float() if self.fp32_residual else x
