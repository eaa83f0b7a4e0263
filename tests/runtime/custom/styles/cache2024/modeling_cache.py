"""Cache objects of 4.36 to 4.4x: from and to tuples, usable length, seen tokens; masks by transformers' own helper."""

# ruff: noqa

import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_attn_mask_utils import _prepare_4d_causal_attention_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_cache import CacheConfig


class Table(nn.Module):
    def __init__(self, dim, length, base=10000):
        super().__init__()
        inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.extend(length)

    def extend(self, length):
        self.longest = length
        angles = torch.outer(torch.arange(length, dtype=torch.int64).type_as(self.inv_freq), self.inv_freq)
        both = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos_cached", both.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin_cached", both.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, x, seq_len=None):
        if seq_len > self.longest:
            self.extend(seq_len)
        return self.cos_cached[:seq_len].to(x.dtype), self.sin_cached[:seq_len].to(x.dtype)


def turn(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class CacheAttention(nn.Module):
    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.heads, self.layer_idx = config.num_attention_heads, layer_idx
        self.size = config.hidden_size // self.heads
        self.turned = int(config.partial_rotary_factor * self.size)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.rotary_emb = Table(self.turned, 4)

    def forward(self, x, attention_mask, position_ids, past_key_value):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        total = k.shape[-2]
        if past_key_value is not None:
            total += past_key_value.get_usable_length(total, self.layer_idx)
        cos, sin = self.rotary_emb(v, seq_len=total)
        cos, sin = cos[position_ids].unsqueeze(1), sin[position_ids].unsqueeze(1)
        q = torch.cat((turn(q[..., : self.turned], cos, sin), q[..., self.turned :]), dim=-1)
        k = torch.cat((turn(k[..., : self.turned], cos, sin), k[..., self.turned :]), dim=-1)
        if past_key_value is not None:
            k, v = past_key_value.update(k, v, self.layer_idx, {"sin": sin, "cos": cos})
        scores = q @ k.transpose(2, 3) / math.sqrt(self.size)
        if attention_mask.size() != (batch, 1, length, total):
            raise ValueError(
                f"Attention mask should be of size {(batch, 1, length, total)}, but is {attention_mask.size()}"
            )
        out = ((scores + attention_mask).softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1)
        return self.dense(out), past_key_value


CACHE_ATTENTION_CLASSES = {"eager": CacheAttention}


class CachePreTrainedModel(PreTrainedModel):
    config_class = CacheConfig
    base_model_prefix = "model"
    _supports_cache_class = True
    _skip_keys_device_placement = "past_key_values"

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=self.config.initializer_range)


class CacheModel(CachePreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        kind = CACHE_ATTENTION_CLASSES[config._attn_implementation]
        self.layers = nn.ModuleList([kind(config, number) for number in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        batch, length = input_ids.shape
        seen = 0
        if use_cache:
            legacy = not isinstance(past_key_values, Cache)
            if legacy:
                past_key_values = DynamicCache.from_legacy_cache(past_key_values)
            seen = past_key_values.get_usable_length(length)
            assert past_key_values.get_max_length() is None and past_key_values.seen_tokens == seen
        if position_ids is None:
            position_ids = torch.arange(seen, length + seen, dtype=torch.long, device=input_ids.device).unsqueeze(0)
        x = self.embed_tokens(input_ids)
        mask = _prepare_4d_causal_attention_mask(attention_mask, (batch, length), x, seen)
        made = None
        for layer in self.layers:
            out, made = layer(self.norm(x), mask, position_ids, past_key_values if use_cache else None)
            x = x + out
        following = None
        if use_cache:
            following = made.to_legacy_cache() if legacy else made
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=following)


class CacheForCausalLM(CachePreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]

    def __init__(self, config):
        super().__init__(config)
        self.model = CacheModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        return_dict=None,
    ):
        out = self.model(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        return CausalLMOutputWithPast(
            logits=self.lm_head(out.last_hidden_state).float(), past_key_values=out.past_key_values
        )

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, inputs_embeds=None, **kwargs
    ):
        if past_key_values is not None:
            if isinstance(past_key_values, Cache):
                cache_length = past_key_values.get_seq_length()
                past_length = past_key_values.seen_tokens
                max_cache_length = past_key_values.get_max_length()
            else:
                cache_length = past_length = past_key_values[0][0].shape[2]
                max_cache_length = None
            if attention_mask is not None and attention_mask.shape[1] > input_ids.shape[1]:
                input_ids = input_ids[:, -(attention_mask.shape[1] - past_length) :]
            elif past_length < input_ids.shape[1]:
                input_ids = input_ids[:, past_length:]
            if max_cache_length is not None and cache_length + input_ids.shape[1] > max_cache_length:
                attention_mask = attention_mask[:, -max_cache_length:]
        position_ids = kwargs.get("position_ids")
        if attention_mask is not None and position_ids is None:
            position_ids = attention_mask.long().cumsum(-1) - 1
            position_ids.masked_fill_(attention_mask == 0, 1)
            if past_key_values:
                position_ids = position_ids[:, -input_ids.shape[1] :]
        return {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "attention_mask": attention_mask,
        }

    @staticmethod
    def _reorder_cache(past_key_values, beam_idx):
        if isinstance(past_key_values, Cache):
            past_key_values.reorder_cache(beam_idx)
            return past_key_values
        return tuple(tuple(past.index_select(0, beam_idx) for past in layer) for layer in past_key_values)
