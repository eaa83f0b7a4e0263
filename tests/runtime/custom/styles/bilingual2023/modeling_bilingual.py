"""Sequence first, tuples as cache, a scripted rotary embedding, no post_init(), its own update of generation inputs."""

# ruff: noqa

import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .configuration_bilingual import BilingualConfig

if not torch.cuda.is_available():
    torch._C._jit_set_profiling_mode(False)
    torch._C._jit_set_profiling_executor(False)

logger = logging.get_logger(__name__)
BILINGUAL_PRETRAINED_MODEL_ARCHIVE_LIST = ["nobody/bilingual"]


def default_init(cls, *args, **kwargs):
    return cls(*args, **kwargs)


class Rotary(nn.Module):
    def __init__(self, dim, dtype=None):
        super().__init__()
        inv_freq = 1.0 / (10000 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        self.register_buffer("inv_freq", inv_freq)

    def forward(self, length):
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self.inv_freq)
        return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x, table):
    # x [T, B, H, D], table [T, D/2, 2]: neighbouring components are the pairs
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    table = table[:, None, None]
    turned = [
        pairs[..., 0] * table[..., 0] - pairs[..., 1] * table[..., 1],
        pairs[..., 1] * table[..., 0] + pairs[..., 0] * table[..., 1],
    ]
    return torch.stack(turned, dim=-1).flatten(-2)


class Block(nn.Module):
    def __init__(self, config, number, device=None):
        super().__init__()
        self.heads = config.num_attention_heads
        size = config.hidden_size
        self.input_layernorm = nn.LayerNorm(size, eps=config.layernorm_epsilon, device=device)
        self.query_key_value = nn.Linear(size, 3 * size, device=device)
        self.dense = nn.Linear(size, size, bias=False, device=device)
        self.post_layernorm = nn.LayerNorm(size, eps=config.layernorm_epsilon, device=device)
        self.up = nn.Linear(size, 2 * config.ffn_hidden_size, bias=False, device=device)
        self.down = nn.Linear(config.ffn_hidden_size, size, bias=False, device=device)

    def forward(self, x, mask, table, past, use_cache):
        length, batch, size = x.shape
        mixed = self.query_key_value(self.input_layernorm(x)).view(length, batch, self.heads, -1)
        q, k, v = mixed.chunk(3, dim=-1)
        q, k = rotate(q, table), rotate(k, table)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=0), torch.cat((past[1], v), dim=0)
        present = (k, v) if use_cache else None
        scores = torch.einsum("tbhd,sbhd->bhts", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
        out = torch.einsum("bhts,sbhd->tbhd", scores.softmax(-1), v).reshape(length, batch, size)
        x = x + self.dense(out)
        gate, value = self.up(self.post_layernorm(x)).chunk(2, dim=-1)
        return x + self.down(nn.functional.silu(gate) * value), present


class BilingualPreTrainedModel(PreTrainedModel):
    is_parallelizable = False
    supports_gradient_checkpointing = True
    config_class = BilingualConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["Block"]

    def _init_weights(self, module: nn.Module):
        return

    def get_masks(self, input_ids, past_key_values, padding_mask=None):
        batch, length = input_ids.shape
        seen = past_key_values[0][0].shape[0] if past_key_values else 0
        mask = torch.ones(batch, length, length, device=input_ids.device).tril_()
        if seen:
            mask = torch.cat((torch.ones(batch, length, seen, device=input_ids.device), mask), dim=-1)
        if padding_mask is not None:
            mask = mask * padding_mask.unsqueeze(1)
        if not seen and padding_mask is not None:
            mask -= padding_mask.unsqueeze(-1) - 1
        return (mask < 0.5).unsqueeze(1)

    def get_position_ids(self, input_ids, device):
        batch, length = input_ids.shape
        return torch.arange(length, dtype=torch.long, device=device).unsqueeze(0).repeat(batch, 1)

    def _set_gradient_checkpointing(self, module, value=False):
        if isinstance(module, BilingualModel):
            module.gradient_checkpointing = value


class BilingualModel(BilingualPreTrainedModel):
    def __init__(self, config: BilingualConfig, device=None, empty_init=True):
        super().__init__(config)
        make = skip_init if empty_init else default_init
        where = {"device": device} if device is not None else {}
        self.embedding = make(nn.Embedding, config.padded_vocab_size, config.hidden_size, **where)
        self.rotary_pos_emb = Rotary(config.hidden_size // config.num_attention_heads)
        self.layers = nn.ModuleList([make(Block, config, number, **where) for number in range(config.num_layers)])
        self.final_layernorm = make(nn.LayerNorm, config.hidden_size, **where)
        self.gradient_checkpointing = False

    def get_input_embeddings(self):
        return self.embedding

    def forward(
        self, input_ids, position_ids=None, attention_mask=None, past_key_values=None, use_cache=None, return_dict=None
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        x = self.embedding(input_ids).transpose(0, 1)
        full = None
        if (attention_mask is not None and not attention_mask.all()) or (past_key_values and input_ids.shape[1] != 1):
            full = self.get_masks(input_ids, past_key_values, padding_mask=attention_mask)
        elif not past_key_values:
            full = self.get_masks(input_ids, None)
        else:
            full = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
        table = self.rotary_pos_emb(self.config.seq_length)
        table = table[position_ids[0]] if position_ids is not None else table[: input_ids.shape[1]]
        presents = () if use_cache else None
        for number, layer in enumerate(self.layers):
            x, present = layer(x, full, table, past_key_values[number] if past_key_values else None, use_cache)
            if use_cache:
                presents = (*presents, present)
        x = self.final_layernorm(x)
        if not return_dict:
            return tuple(v for v in (x, presents) if v is not None)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=presents)


class BilingualForConditionalGeneration(BilingualPreTrainedModel):
    def __init__(self, config: BilingualConfig, empty_init=True, device=None):
        super().__init__(config)
        self.max_sequence_length = config.max_length
        self.transformer = BilingualModel(config, empty_init=empty_init, device=device)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        self.config = config
        if self.config.pad_token_id is None and not self.config.is_encoder_decoder:
            self.pad_by_habit = True

    def _update_model_kwargs_for_generation(
        self, outputs, model_kwargs: dict[str, Any], is_encoder_decoder=False, standardize_cache_format=False
    ):
        model_kwargs["past_key_values"] = self._extract_past_from_model_output(
            outputs, standardize_cache_format=standardize_cache_format
        )
        if "attention_mask" in model_kwargs:
            mask = model_kwargs["attention_mask"]
            model_kwargs["attention_mask"] = torch.cat([mask, mask.new_ones((mask.shape[0], 1))], dim=-1)
        if "position_ids" in model_kwargs:
            position_ids = model_kwargs["position_ids"]
            model_kwargs["position_ids"] = torch.cat([position_ids, position_ids[..., -1:].clone() + 1], dim=-1)
        model_kwargs["is_first_forward"] = False
        return model_kwargs

    def prepare_inputs_for_generation(
        self,
        input_ids,
        past_key_values=None,
        attention_mask=None,
        position_ids=None,
        use_cache=None,
        is_first_forward=True,
        **kwargs,
    ):
        if position_ids is None:
            position_ids = self.get_position_ids(input_ids, device=input_ids.device)
        if not is_first_forward and past_key_values is not None:
            position_ids = position_ids[..., -1:]
            input_ids = input_ids[:, -1:]
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
        }

    def forward(
        self,
        input_ids=None,
        position_ids=None,
        attention_mask=None,
        past_key_values=None,
        use_cache=None,
        output_attentions=None,
        return_dict=None,
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        out = self.transformer(input_ids, position_ids, attention_mask, past_key_values, use_cache, True)
        logits = self.output_layer(out.last_hidden_state).transpose(0, 1).contiguous()
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)

    @staticmethod
    def _reorder_cache(past, beam_idx):
        return tuple((layer[0].index_select(1, beam_idx), layer[1].index_select(1, beam_idx)) for layer in past)

    @torch.inference_mode()
    def stream_generate(self, input_ids, max_new_tokens=5):
        """The loop that chat methods of that time carried with them, made of generate()'s private parts."""
        import copy

        config = copy.deepcopy(self.generation_config)
        assert config.num_beams == 1 and config.do_sample is False
        config.max_length = input_ids.shape[1] + max_new_tokens
        processor = self._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=input_ids.shape[1],
            encoder_input_ids=input_ids,
            prefix_allowed_tokens_fn=None,
            logits_processor=None,
        )
        criteria = self._get_stopping_criteria(generation_config=config, stopping_criteria=None)
        warper = self._get_logits_warper(config)
        model_kwargs: dict[str, Any] = {"use_cache": True, "attention_mask": torch.ones_like(input_ids)}
        while True:
            inputs = self.prepare_inputs_for_generation(input_ids, **model_kwargs)
            outputs = self(**inputs, return_dict=True)
            scores = warper(input_ids, processor(input_ids, outputs.logits[:, -1]))
            input_ids = torch.cat([input_ids, scores.argmax(-1)[:, None]], dim=-1)
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            yield input_ids
            if torch.as_tensor(criteria(input_ids, None)).all():
                return
