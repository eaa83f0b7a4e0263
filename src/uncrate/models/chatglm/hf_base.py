"""What all transformers classes of the ChatGLM family share: the native model inside, embeddings, caches.

Axes in names: B batch, T tokens, E positions after pictures are expanded, S key positions, C hidden size, V words.
"""

# transformers' own annotations are too narrow to override its methods by them.
# mypy: disable-error-code="override,misc,assignment,attr-defined,arg-type,return-value"

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, StaticCache

from uncrate.errors import UsageError
from uncrate.models.chatglm import model as native
from uncrate.models.chatglm.hf_config import ChatGLMConfig
from uncrate.models.chatglm.model import Embedded, attention_pattern
from uncrate.models.chatglm.vision import PatchEmbedding, VisionTower

# Set on a transformers cache, which is the request's own state: the position ids [B, 1] of the last tokens in it.
_LAST = "last_position_ids"


@dataclass(frozen=True)
class Passed:
    """One pass through the decoder: hidden states [B, E, C] after the final norm, the expanded inputs, the cache, and
    every block's input with what enters the final norm (None when not asked for).
    """

    hidden: Tensor
    embedded: Embedded
    cache: Cache | None
    collected: tuple[Tensor, ...] | None


class RotaryFrequencies(nn.Module):
    """`rotary_pos_emb.inv_freq`, which checkpoints hold beside their weights.

    The native model computes rotations from the config and never reads it; it stands here so that a saved folder has
    every tensor of the opened one.
    """

    inv_freq: Tensor

    def __init__(self, channels: int, rope_ratio: float, interpolated: bool) -> None:
        super().__init__()
        self.size, self.base = channels // 2, 10_000.0 * (1.0 if interpolated else rope_ratio)
        self.register_buffer("inv_freq", self.computed())

    def computed(self) -> Tensor:
        """Return the frequencies that the config implies, float32 [D / 4]."""
        return 1.0 / self.base ** (torch.arange(0, self.size, 2, dtype=torch.float32) / self.size)


class ChatGLMPreTrainedModel(PreTrainedModel):
    """Common ground of the ChatGLM classes: `transformer` is the native model, under the checkpoint's own names.

    `attn_implementation` may be "eager" or "sdpa"; both run the native scaled_dot_product_attention.
    """

    config_class = ChatGLMConfig
    config: ChatGLMConfig
    base_model_prefix = "transformer"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the loss may be divided by Trainer's num_items_in_batch
    # A picture's vectors leave the tower on one device: it is placed as one unit.
    _no_split_modules: ClassVar[list[str]] = ["GLMBlock", "VisionTower", "Embedding", "PrefixEncoder"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"rotary_pos_emb\.inv_freq"]

    transformer: native.ChatGLMModel

    def __init__(self, config: ChatGLMConfig, *, head: bool) -> None:
        super().__init__(config)
        typed = config.typed()
        self.transformer = native.ChatGLMModel(typed, head=head)
        self.transformer.rotary_pos_emb = RotaryFrequencies(
            typed.kv_channels, typed.rope_ratio, typed.positions_interpolated
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.embedding.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.embedding.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module | None:
        return getattr(self.transformer, "output_layer", None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.transformer.output_layer = new_embeddings

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Change the number of words; embedding, output layer and both configs follow."""
        embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.transformer.config = replace(self.transformer.config, padded_vocab_size=embedding.num_embeddings)
        return embedding

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        own: list[Tensor] = []
        if isinstance(module, PatchEmbedding):
            own = [module.cls_embedding]
        elif isinstance(module, VisionTower):
            own = [module.boi, module.eoi]
        elif isinstance(module, RotaryFrequencies) and not getattr(module.inv_freq, "_is_hf_initialized", False):
            module.inv_freq.copy_(module.computed())
        for parameter in own:
            if not getattr(parameter, "_is_hf_initialized", False):
                nn.init.normal_(parameter, std=0.02)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, every_n_layers: int = 1
    ) -> None:
        """Switch checkpointing of every block in both towers. It is always the non-reentrant kind.

        The re-entrant kind gives no gradient where no input needs one, which is every first block of the vision tower
        under LoRA.
        """
        if every_n_layers != 1:
            raise UsageError("ChatGLM checkpoints every block or none", next="leave every_n_layers out")
        chosen = gradient_checkpointing_func
        if isinstance(chosen, functools.partial) and chosen.keywords.get("use_reentrant"):
            warnings.warn("use_reentrant=True becomes False: it would lose the vision tower's gradients", stacklevel=3)
            chosen = functools.partial(chosen.func, *chosen.args, **{**chosen.keywords, "use_reentrant": False})
        elif not isinstance(chosen, functools.partial):
            chosen = functools.partial(chosen, use_reentrant=False)
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = enable
                module.checkpoint = chosen

    def pass_through(
        self,
        input_ids: Tensor | None,
        *,
        images: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        inputs_embeds: Tensor | None,
        labels: Tensor | None,
        use_cache: bool | None,
        collect: bool,
    ) -> Passed:
        """Embed, expand pictures, and run the decoder over a transformers cache.

        `attention_mask` is [B, T] for these tokens, or, with a filled cache, [B, S] over all expanded positions.
        """
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = _checked_cache(past_key_values)
        if use_cache and cache is None and not (self.training and self.is_activation_checkpointing):
            cache = DynamicCache(config=self.config)
        past = int(cache.get_seq_length()) if cache is not None else 0
        key_mask = attention_mask if past and attention_mask is not None else None
        if position_ids is None and past:
            position_ids = _next_positions(cache, past, input_ids if input_ids is not None else inputs_embeds)
        embedded = self._embed(
            input_ids,
            inputs_embeds,
            images=images,
            attention_mask=None if past else attention_mask,
            position_ids=position_ids,
            labels=labels,
        )
        pattern = _pattern(self.transformer, embedded, key_mask, cache, past)
        collected: list[Tensor] | None = [] if collect else None
        hidden = self.transformer.run(embedded, pattern, cache, collected)
        if cache is not None:
            setattr(cache, _LAST, embedded.position_ids[:, -1:])
        return Passed(hidden, embedded, cache, None if collected is None else tuple(collected))

    def _embed(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        *,
        images: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        labels: Tensor | None,
    ) -> Embedded:
        if (input_ids is None) == (inputs_embeds is None):
            raise UsageError("give either input_ids or inputs_embeds", next="leave one of them out")
        if input_ids is not None:
            return self.transformer.embed(
                input_ids, images=images, attention_mask=attention_mask, position_ids=position_ids, labels=labels
            )
        assert inputs_embeds is not None
        if images is not None:
            raise UsageError("pictures find their place by input_ids, not by inputs_embeds", next="give input_ids")
        if position_ids is None:
            ones = inputs_embeds.new_ones(inputs_embeds.shape[:2]) if attention_mask is None else attention_mask
            position_ids = (ones.long().cumsum(1) - 1).clamp(min=0)
        return Embedded(inputs_embeds, position_ids, attention_mask, labels)


def _checked_cache(past_key_values: object) -> Cache | None:
    if past_key_values is None or isinstance(past_key_values, Cache):
        return past_key_values
    raise UsageError(
        f"past_key_values is a {type(past_key_values).__name__}, a transformers Cache is wanted",
        why="tuples of tensors ended with transformers 5",
        next="give None, DynamicCache(config=model.config) or what the last forward returned",
    )


def _next_positions(cache: Cache | None, past: int, tokens: Tensor | None) -> Tensor:
    """Positions of new tokens where the caller gave none: counted on from the last one that the cache has seen.

    They cannot be counted from the cache's length: a picture's positions share one position id.
    """
    assert tokens is not None
    step = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    last = getattr(cache, _LAST, None)
    if last is None or last.shape[0] not in (1, tokens.shape[0]):
        return (past - 1 + step).expand(tokens.shape[0], -1)
    return last + step


def _pattern(
    model: native.ChatGLMModel, embedded: Embedded, key_mask: Tensor | None, cache: Cache | None, past: int
) -> Tensor | None:
    """Which keys each query may see: bool [B or 1, 1, E, S], None where plain causal says the same."""
    queries = embedded.x.shape[1]
    keys = past + queries
    mask = embedded.mask if not past else key_mask
    if mask is not None and mask.ndim != 2:
        raise UsageError(f"attention_mask has {mask.ndim} axes, [batch, tokens] is wanted")
    if past and mask is not None and mask.shape[1] != keys:
        if mask.shape[1] != queries:
            raise UsageError(
                f"attention_mask has {mask.shape[1]} positions; {past} are in the cache and {queries} are new",
                why="a picture takes more positions than its tokens, and once in the cache the mask counts them",
                next=f"give a mask of {keys} positions, of the {queries} new ones, or none",
            )
        mask = F.pad(mask, (past, 0), value=1)
    if mask is not None and bool(mask.all()):
        mask = None
    prefix = model.config.pre_seq_len or 0
    spare = 0
    if isinstance(cache, StaticCache):
        spare = int(cache.get_mask_sizes(queries, 0)[0]) - keys
        if spare < 0:
            raise UsageError(
                f"{keys} positions do not fit in a static cache of {keys + spare}",
                why="a picture takes more positions than its three tokens",
                next="make the cache larger, or leave it to generate(cache_implementation='static')",
            )
    if spare and mask is None:
        mask = torch.ones(1, keys, dtype=torch.bool, device=embedded.x.device)
    pattern = attention_pattern(mask, queries, keys, prefix, embedded.x.device)
    return F.pad(pattern, (0, spare), value=False) if spare and pattern is not None else pattern
