"""Causal masks as persistent buffers, head masks, pruning helpers, drop rates by .item(), a head that ties itself."""

# ruff: noqa

import math

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel, SequenceSummary, find_pruneable_heads_and_indices  # noqa: F401
from transformers.utils.model_parallel_utils import assert_device_map, get_device_map

from .configuration_headmask import HeadMaskConfig


def alibi_slopes(heads):
    return torch.tensor([2 ** (-8 * (number + 1) / heads) for number in range(heads)])


class HeadMaskAttention(nn.Module):
    def __init__(self, config, drop):
        super().__init__()
        length = config.max_position_embeddings
        self.register_buffer("bias", torch.tril(torch.ones(length, length, dtype=torch.bool))[None, None])
        self.register_buffer("masked_bias", torch.tensor(-1e9))
        self.heads, self.drop = config.num_attention_heads, drop
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)
        self.slopes = alibi_slopes(self.heads)
        self.use_alibi = config.alibi

    def forward(self, x, attention_mask=None, layer_past=None, head_mask=None, use_cache=False):
        batch, length, size = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if layer_past is not None:
            k, v = torch.cat((layer_past[0], k), dim=-2), torch.cat((layer_past[1], v), dim=-2)
        total = k.shape[-2]
        scores = q @ k.transpose(-1, -2) / math.sqrt(size // self.heads)
        if self.use_alibi:
            distance = torch.arange(total)[None, :] - torch.arange(total - length, total)[:, None]
            scores = scores + self.slopes[:, None, None] * distance
        scores = torch.where(self.bias[:, :, total - length : total, :total], scores, self.masked_bias.to(scores.dtype))
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = scores.softmax(-1)
        if head_mask is not None:
            weights = weights * head_mask
        out = (weights @ v).transpose(1, 2).reshape(batch, length, size)
        return self.out(out) * (1 - self.drop), (k, v) if use_cache else None


class HeadMaskPreTrainedModel(PreTrainedModel):
    config_class = HeadMaskConfig
    base_model_prefix = "transformer"
    is_parallelizable = True

    def __init__(self, *inputs, **kwargs):
        super().__init__(*inputs, **kwargs)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(mean=0.0, std=0.02)


class HeadMaskModel(HeadMaskPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        rates = [x.item() for x in torch.linspace(0, 0.2, config.n_layer)]
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList([HeadMaskAttention(config, rate) for rate in rates])
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.init_weights()

    def parallelize(self, device_map=None):
        self.device_map = get_device_map(len(self.h), range(1)) if device_map is None else device_map
        assert_device_map(self.device_map, len(self.h))

    def get_input_embeddings(self):
        return self.wte

    def forward(
        self, input_ids, past_key_values=None, attention_mask=None, position_ids=None, head_mask=None, use_cache=None
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        seen = past_key_values[0][0].size(-2) if past_key_values is not None else 0
        length = input_ids.shape[-1]
        if position_ids is None:
            position_ids = torch.arange(seen, seen + length, device=input_ids.device)[None]
        if attention_mask is not None:
            attention_mask = attention_mask.view(input_ids.shape[0], -1)[:, None, None, :].to(dtype=self.dtype)
            attention_mask = (1.0 - attention_mask) * -10000.0
        head_mask = self.get_head_mask(head_mask, self.config.n_layer)
        x = self.wte(input_ids) + self.wpe(position_ids)
        presents = () if use_cache else None
        for number, layer in enumerate(self.h):
            past = past_key_values[number] if past_key_values is not None else None
            out, present = layer(x, attention_mask, past, head_mask[number], use_cache)
            x = x + out
            if use_cache:
                presents = (*presents, present)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(x), past_key_values=presents)


class HeadMaskForCausalLM(HeadMaskPreTrainedModel):
    _keys_to_ignore_on_load_missing = [r"h\.\d+\.masked_bias", r"h\.\d+\.bias", r"lm_head.weight"]

    def __init__(self, config):
        super().__init__(config)
        self.transformer = HeadMaskModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    def get_output_embeddings(self):
        return self.lm_head

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        attention_mask = kwargs.get("attention_mask")
        position_ids = kwargs.get("position_ids")
        if attention_mask is not None and position_ids is None:
            position_ids = attention_mask.long().cumsum(-1) - 1
            position_ids.masked_fill_(attention_mask == 0, 1)
        if past_key_values:
            input_ids = input_ids[:, -1].unsqueeze(-1)
            position_ids = position_ids[:, -1].unsqueeze(-1) if position_ids is not None else None
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "position_ids": position_ids,
            "attention_mask": attention_mask,
        }

    def forward(
        self,
        input_ids=None,
        past_key_values=None,
        attention_mask=None,
        position_ids=None,
        head_mask=None,
        use_cache=None,
        return_dict=None,
    ):
        out = self.transformer(input_ids, past_key_values, attention_mask, position_ids, head_mask, use_cache)
        return CausalLMOutputWithPast(logits=self.lm_head(out.last_hidden_state), past_key_values=out.past_key_values)

    @staticmethod
    def _reorder_cache(past, beam_idx):
        return tuple(tuple(each.index_select(0, beam_idx) for each in layer) for layer in past)
