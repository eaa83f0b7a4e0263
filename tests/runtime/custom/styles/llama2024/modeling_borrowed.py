"""Borrows transformers' Llama attention by the names of 4.4x, asks for cache_position, and subclasses LlamaConfig."""

# ruff: noqa

import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaFlashAttention2, LlamaSdpaAttention

KINDS = {"eager": LlamaAttention, "sdpa": LlamaSdpaAttention, "flash_attention_2": LlamaFlashAttention2}


class BorrowedConfig(LlamaConfig):
    model_type = "borrowed"

    def __init__(self, vocab_size=64, hidden_size=16, attn="eager", **kwargs):
        self.attn = attn
        given = {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        super().__init__(
            vocab_size=vocab_size, hidden_size=hidden_size, max_position_embeddings=64, **{**given, **kwargs}
        )


class BorrowedLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.self_attn = KINDS[config.attn](config, layer_idx)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, x, mask, position_ids, cache, use_cache, cache_position):
        out, weights, present = self.self_attn(
            hidden_states=self.norm(x),
            attention_mask=mask,
            position_ids=position_ids,
            past_key_value=cache,
            output_attentions=False,
            use_cache=use_cache,
            cache_position=cache_position,
        )
        assert weights is None and present is cache
        return x + out


class BorrowedForCausalLM(PreTrainedModel):
    config_class = BorrowedConfig
    base_model_prefix = "model"
    _supports_cache_class = True
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        assert config.rope_scaling is None and config.rope_theta
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([BorrowedLayer(config, number) for number in range(config.num_hidden_layers)])
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        cache_position=None,
        return_dict=None,
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        assert not isinstance(past_key_values, StaticCache)
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = input_ids.shape[1]
        if cache_position is None:
            cache_position = torch.arange(seen, seen + length, device=input_ids.device)
        if position_ids is None:
            position_ids = cache_position.unsqueeze(0)
        lowest = torch.finfo(self.dtype).min
        mask = torch.arange(seen + length)[None] > cache_position[:, None]
        mask = mask[None, None].expand(input_ids.shape[0], 1, -1, -1)
        if attention_mask is not None:
            mask = mask | (attention_mask[:, None, None, :] == 0)
        mask = torch.zeros(mask.shape, dtype=self.dtype).masked_fill(mask, lowest)
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x, mask, position_ids, past_key_values, use_cache, cache_position)
        return CausalLMOutputWithPast(logits=self.head(x), past_key_values=past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids,
        past_key_values=None,
        attention_mask=None,
        cache_position=None,
        position_ids=None,
        use_cache=True,
        **kwargs,
    ):
        if past_key_values is not None:
            assert isinstance(past_key_values, Cache)
            if input_ids.shape[1] != cache_position.shape[0]:
                input_ids = input_ids[:, cache_position]
        if attention_mask is not None and position_ids is None:
            position_ids = attention_mask.long().cumsum(-1) - 1
            position_ids.masked_fill_(attention_mask == 0, 1)
            if past_key_values:
                position_ids = position_ids[:, -input_ids.shape[1] :]
        return {
            "input_ids": input_ids.contiguous(),
            "position_ids": position_ids,
            "cache_position": cache_position,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "attention_mask": attention_mask,
        }
