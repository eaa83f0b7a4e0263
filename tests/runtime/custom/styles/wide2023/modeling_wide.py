"""Masks from transformers' private helpers, rotary tables cached as attributes, tuples as cache, tied keys as a list."""

# ruff: noqa

import math
from typing import TYPE_CHECKING, Optional

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.bart.modeling_bart import _expand_mask, _make_causal_mask
from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS
from transformers.utils import (
    add_start_docstrings,
    add_start_docstrings_to_model_forward,
    is_flash_attn_available,
    is_torch_fx_available,
    logging,
    replace_return_docstrings,
)

from .configuration_wide import WideConfig

if TYPE_CHECKING:
    from nowhere import Tokenizer

try:
    from flash_attn.flash_attn_interface import flash_attn_func
except ImportError:
    flash_attn_func = None

if is_flash_attn_available() or is_torch_fx_available():
    raise RuntimeError("neither is here")

logger = logging.get_logger(__name__)


class WideNorm(nn.Module):
    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


ALL_LAYERNORM_LAYERS.append(WideNorm)


class WideRotary(nn.Module):
    def __init__(self, dim, length, base):
        super().__init__()
        self.inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim))
        angles = torch.outer(torch.arange(length).float(), self.inv_freq)
        self.cos_cached = torch.cat((angles, angles), dim=-1).cos()
        self.sin_cached = torch.cat((angles, angles), dim=-1).sin()


class ScaledRotary(WideRotary):
    def __init__(self, dim, length, base, factor):
        super().__init__(dim, length, base)
        angles = torch.outer(torch.arange(length).float() / factor, self.inv_freq)
        self.register_buffer("cos_cached_scaled", torch.cat((angles, angles), dim=-1).cos(), persistent=False)
        self.cos_cached = self.cos_cached_scaled
        self.sin_cached = torch.cat((angles, angles), dim=-1).sin()


def turn(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class WideAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.size = config.hidden_size // self.heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        if config.rope_scaling is None:
            self.rotary = WideRotary(self.size, config.max_position_embeddings, config.rope_theta)
        elif config.rope_scaling["type"] == "linear":
            factor = config.rope_scaling["factor"]
            self.rotary = ScaledRotary(self.size, config.max_position_embeddings, config.rope_theta, factor)
        else:
            raise ValueError(f"Unknown RoPE scaling {config.rope_scaling}")

    def forward(self, x, attention_mask, position_ids, past_key_value, use_cache):
        batch, length, _ = x.shape
        packed = self.W_pack(x).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        q, k, v = packed[0], packed[1], packed[2]
        cos, sin = self.rotary.cos_cached[position_ids][:, None], self.rotary.sin_cached[position_ids][:, None]
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        if past_key_value is not None:
            k, v = torch.cat([past_key_value[0], k], dim=2), torch.cat([past_key_value[1], v], dim=2)
        present = (k, v) if use_cache else None
        scores = q @ k.transpose(2, 3) / math.sqrt(self.size) + attention_mask
        out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1)
        return self.o_proj(out), present


class WideLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = WideAttention(config)
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act = ACT2FN["silu"]
        self.input_layernorm = WideNorm(config.hidden_size)
        self.post_layernorm = WideNorm(config.hidden_size)

    def forward(self, x, *inputs):
        out, present = self.self_attn(self.input_layernorm(x), *inputs)
        x = x + out
        return x + self.down(self.act(self.gate(self.post_layernorm(x)))), present


@add_start_docstrings("The bare model", "WIDE_START_DOCSTRING")
class WidePreTrainedModel(PreTrainedModel):
    config_class = WideConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["WideLayer"]
    _keys_to_ignore_on_load_unexpected = [r"decoder\.version"]
    tokenizer: Optional["Tokenizer"]

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(mean=0.0, std=0.02)

    def _set_gradient_checkpointing(self, module, value=False):
        if isinstance(module, WideModel):
            module.gradient_checkpointing = value


class WideModel(WidePreTrainedModel):
    def __init__(self, config: WideConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList([WideLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = WideNorm(config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    @add_start_docstrings_to_model_forward("WIDE_INPUTS_DOCSTRING")
    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        x = self.embed_tokens(input_ids)
        batch, length = input_ids.shape
        seen = past_key_values[0][0].shape[2] if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(seen, seen + length, device=x.device)[None].expand(batch, -1)
        if attention_mask is None:
            attention_mask = torch.ones((batch, seen + length), dtype=torch.bool, device=x.device)
        combined = None
        if length > 1:
            combined = _make_causal_mask((batch, length), x.dtype, device=x.device, past_key_values_length=seen)
        expanded = _expand_mask(attention_mask, x.dtype, tgt_len=length)
        combined = expanded if combined is None else expanded + combined
        combined = combined.clamp(min=torch.finfo(x.dtype).min)
        presents = () if use_cache else None
        for number, layer in enumerate(self.layers):
            past = past_key_values[number] if past_key_values is not None else None
            x, present = layer(x, combined, position_ids, past, use_cache)
            if use_cache:
                presents += (present,)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=presents)


class WideForCausalLM(WidePreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]

    def __init__(self, config, *model_args, **model_kwargs):
        super().__init__(config, *model_args, **model_kwargs)
        self.model = WideModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, new_embeddings):
        self.lm_head = new_embeddings

    @replace_return_docstrings(output_type=CausalLMOutputWithPast, config_class="WideConfig")
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        return_dict=None,
    ):
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        out = self.model(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        logits = self.lm_head(out.last_hidden_state)
        if not return_dict:
            return (logits, out.past_key_values)
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, inputs_embeds=None, **kwargs
    ):
        if past_key_values:
            input_ids = input_ids[:, -1:]
        position_ids = kwargs.get("position_ids")
        if attention_mask is not None and position_ids is None:
            position_ids = attention_mask.long().cumsum(-1) - 1
            position_ids.masked_fill_(attention_mask == 0, 1)
            if past_key_values:
                position_ids = position_ids[:, -1].unsqueeze(-1)
        return {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "attention_mask": attention_mask.to(attention_mask.dtype),
        }

    @staticmethod
    def _reorder_cache(past_key_values, beam_idx):
        return tuple(tuple(past.index_select(0, beam_idx) for past in layer) for layer in past_key_values)
