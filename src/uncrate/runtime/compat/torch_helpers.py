"""Small functions that transformers offered until 4.x and old modelling code still calls; written from their
contracts."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

# Answered under these names wherever in transformers old code looks for them.
GIVEN_BACK = (
    "_make_causal_mask",
    "_expand_mask",
    "find_pruneable_heads_and_indices",
    "prune_linear_layer",
    "prune_conv1d_layer",
    "prune_layer",
    "top_k_top_p_filtering",
    "assert_device_map",
    "get_device_map",
    "SequenceSummary",
    "isin_mps_friendly",
    "torch_int_div",
    "create_position_ids_from_input_ids",
)


def _make_causal_mask(
    input_ids_shape: Any,
    dtype: torch.dtype = torch.float32,
    device: Any = None,
    past_key_values_length: int = 0,
    sliding_window: int | None = None,
) -> Tensor:
    """Return [B, 1, T, past + T]: 0 where a position may look, the lowest number elsewhere; bool for bloom's own
    dtype."""
    if isinstance(dtype, torch.device):
        # Bloom's variant: (shape, device, past_key_values_length) -> bool, true where hidden.
        past, where = (int(device or 0) if not isinstance(device, torch.device) else past_key_values_length), dtype
        return _hidden(input_ids_shape, where, past)
    hidden = _hidden(input_ids_shape, device, past_key_values_length, sliding_window)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, torch.finfo(dtype).min)


def _hidden(shape: Any, device: Any, past: int, window: int | None = None) -> Tensor:
    batch, length = shape
    query = torch.arange(length, device=device)[:, None] + past
    key = torch.arange(past + length, device=device)[None, :]
    hidden = key > query
    if window is not None:
        hidden = hidden | (key < query - window)
    return hidden[None, None].expand(batch, 1, length, past + length)


def _expand_mask(mask: Tensor, dtype: torch.dtype | int | None = torch.float32, tgt_len: int | None = None) -> Tensor:
    """Return [B, 1, T, S] to add to scores for a padding mask [B, S]; bool (true where hidden) for bloom's variant."""
    if isinstance(dtype, int) or (dtype is None and mask.dtype == torch.bool):
        length = dtype or mask.shape[1]
        return ~(mask[:, None, None, :].to(torch.bool)).expand(mask.shape[0], 1, length, mask.shape[1])
    assert isinstance(dtype, torch.dtype)
    batch, source = mask.shape
    inverted = 1.0 - mask[:, None, None, :].expand(batch, 1, tgt_len or source, source).to(dtype)
    return inverted.masked_fill(inverted.to(torch.bool), torch.finfo(dtype).min)


def find_pruneable_heads_and_indices(
    heads: Any, n_heads: int, head_size: int, already_pruned_heads: set[int]
) -> tuple[set[int], Tensor]:
    """Return the heads still to prune and the rows [K] that stay."""
    remaining = set(heads) - already_pruned_heads
    keep = torch.ones(n_heads, head_size, dtype=torch.bool)
    for head in remaining:
        keep[head - sum(1 for gone in already_pruned_heads if gone < head)] = False
    return remaining, torch.arange(n_heads * head_size)[keep.view(-1)].long()


def prune_linear_layer(layer: nn.Linear, index: Tensor, dim: int = 0) -> nn.Linear:
    """Return a linear layer that keeps the rows (dim 0) or columns (dim 1) of `index`."""
    weight = layer.weight.index_select(dim, index.to(layer.weight.device)).detach().clone()
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None).to(weight.device, weight.dtype)
    made.weight = nn.Parameter(weight)
    if layer.bias is not None:
        made.bias = nn.Parameter((layer.bias if dim == 1 else layer.bias[index]).detach().clone())
    return made


def prune_conv1d_layer(layer: Any, index: Tensor, dim: int = 1) -> Any:
    """Return a GPT-2 style Conv1D that keeps the columns (dim 1) or rows (dim 0) of `index`."""
    from transformers.pytorch_utils import Conv1D

    weight = layer.weight.index_select(dim, index.to(layer.weight.device)).detach().clone()
    made = Conv1D(weight.shape[1], weight.shape[0]).to(weight.device, weight.dtype)
    made.weight = nn.Parameter(weight)
    made.bias = nn.Parameter((layer.bias if dim == 0 else layer.bias[index]).detach().clone())
    return made


def prune_layer(layer: Any, index: Tensor, dim: int | None = None) -> Any:
    """Prune a linear layer or a Conv1D."""
    if isinstance(layer, nn.Linear):
        return prune_linear_layer(layer, index, 0 if dim is None else dim)
    return prune_conv1d_layer(layer, index, 1 if dim is None else dim)


def top_k_top_p_filtering(
    logits: Tensor, top_k: int = 0, top_p: float = 1.0, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1
) -> Tensor:
    """Return logits [B, V] with everything outside the top k and the nucleus p set to `filter_value`."""
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    no_ids: Any = None
    if top_k > 0:
        logits = TopKLogitsWarper(top_k, filter_value=filter_value, min_tokens_to_keep=min_tokens_to_keep)(
            no_ids, logits
        )
    if 0 <= top_p < 1.0:
        logits = TopPLogitsWarper(top_p, filter_value=filter_value, min_tokens_to_keep=min_tokens_to_keep)(
            no_ids, logits
        )
    return logits


def get_device_map(n_layers: int, devices: Any) -> dict[Any, list[int]]:
    """Return layer numbers by device, spread evenly in order."""
    devices = list(devices)
    share = ceil(n_layers / len(devices))
    return {device: list(range(n_layers))[at * share : (at + 1) * share] for at, device in enumerate(devices)}


def assert_device_map(device_map: dict[Any, list[int]], num_blocks: int) -> None:
    """Raise ValueError unless every block stands on exactly one device."""
    blocks = sorted(block for blocks in device_map.values() for block in blocks)
    if blocks != list(range(num_blocks)):
        raise ValueError(f"the device map places blocks {blocks}; each of 0 to {num_blocks - 1} once is expected")


def compute_effective_axis_dimension(dimension: int, fixed_dimension: int, num_token_to_add: int = 0) -> int:
    """Return a dummy axis length for exports."""
    return (fixed_dimension if dimension <= 0 else dimension) - num_token_to_add


def isin_mps_friendly(elements: Tensor, test_elements: Tensor | int) -> Tensor:
    """Return torch.isin."""
    return torch.isin(elements, torch.as_tensor(test_elements, device=elements.device))


def torch_int_div(tensor1: Any, tensor2: Any) -> Any:
    """Return the quotient rounded down."""
    return torch.div(tensor1, tensor2, rounding_mode="floor")


def create_position_ids_from_input_ids(input_ids: Tensor, padding_idx: int, past_key_values_length: int = 0) -> Tensor:
    """Return positions [B, T] that start after `padding_idx` and skip padding."""
    mask = input_ids.ne(padding_idx).int()
    positions = (torch.cumsum(mask, dim=1).type_as(mask) + past_key_values_length) * mask
    return positions.long() + padding_idx


class SequenceSummary(nn.Module):
    """One vector for a sequence: the state [B, T, D] at the last, the first, or the given position, or the mean."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.summary_type = getattr(config, "summary_type", "last")
        size = (
            getattr(config, "num_labels", 0) if getattr(config, "summary_proj_to_labels", False) else config.hidden_size
        )
        project = getattr(config, "summary_use_proj", False)
        self.summary: nn.Module = nn.Linear(config.hidden_size, size) if project else nn.Identity()
        tanh = getattr(config, "summary_activation", None) == "tanh"
        self.activation: nn.Module = nn.Tanh() if tanh else nn.Identity()
        first, last = getattr(config, "summary_first_dropout", 0), getattr(config, "summary_last_dropout", 0)
        self.first_dropout: nn.Module = nn.Dropout(first) if first else nn.Identity()
        self.last_dropout: nn.Module = nn.Dropout(last) if last else nn.Identity()

    def forward(self, hidden_states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """Return [B, D] (or [B, labels])."""
        if self.summary_type == "first":
            output = hidden_states[:, 0]
        elif self.summary_type == "mean":
            output = hidden_states.mean(dim=1)
        elif self.summary_type == "cls_index" and cls_index is not None:
            index = cls_index[..., None, None].expand(*cls_index.shape, 1, hidden_states.shape[-1])
            output = hidden_states.gather(-2, index).squeeze(-2)
        else:
            output = hidden_states[:, -1]
        return self.last_dropout(self.activation(self.summary(self.first_dropout(output))))
