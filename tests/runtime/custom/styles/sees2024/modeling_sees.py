"""An inner language model made by an Auto class, support flags as properties, a generate() that passes embeddings on."""

# ruff: noqa

import math

import torch
from torch import nn
from transformers import AutoModelForCausalLM, CLIPVisionModel, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_sees import SeesConfig, SeesTextConfig


class SeesBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, x, mask, past):
        batch, length, size = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores = q @ k.transpose(2, 3) / math.sqrt(size // self.heads) + mask
        return x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, size), (k, v)


class SeesTextPreTrainedModel(PreTrainedModel):
    config_class = SeesTextConfig
    base_model_prefix = "model"
    _supports_sdpa = True


class SeesTextForCausalLM(SeesTextPreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList([SeesBlock(config) for _ in range(config.num_hidden_layers)])
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        return_dict=None,
    ):
        x = inputs_embeds if inputs_embeds is not None else self.embed(input_ids)
        batch, length, _ = x.shape
        seen = past_key_values[0][0].shape[2] if past_key_values else 0
        hidden = torch.arange(seen + length)[None] > torch.arange(seen, seen + length)[:, None]
        hidden = hidden[None, None].expand(batch, 1, -1, -1)
        if attention_mask is not None:
            hidden = hidden | (attention_mask[:, None, None] == 0)
        mask = torch.zeros(hidden.shape, dtype=x.dtype).masked_fill(hidden, torch.finfo(x.dtype).min)
        presents = []
        for number, block in enumerate(self.blocks):
            x, present = block(x, mask, past_key_values[number] if past_key_values else None)
            presents.append(present)
        return CausalLMOutputWithPast(logits=self.lm_head(x), past_key_values=tuple(presents) if use_cache else None)

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, inputs_embeds=None, **kwargs
    ):
        if past_key_values is not None:
            input_ids = input_ids[:, -1:]
        made = (
            {"inputs_embeds": inputs_embeds}
            if inputs_embeds is not None and past_key_values is None
            else {"input_ids": input_ids}
        )
        made.update(past_key_values=past_key_values, use_cache=kwargs.get("use_cache"), attention_mask=attention_mask)
        return made

    @staticmethod
    def _reorder_cache(past_key_values, beam_idx):
        return tuple(tuple(past.index_select(0, beam_idx) for past in layer) for layer in past_key_values)


AutoModelForCausalLM.register(SeesTextConfig, SeesTextForCausalLM)


class SeesForConditionalGeneration(PreTrainedModel):
    config_class = SeesConfig
    _no_split_modules = ["CLIPEncoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = CLIPVisionModel(config.vision_config)
        self.projector = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config, trust_remote_code=True)
        self.post_init()

    @property
    def _supports_flash_attn_2(self):
        return self.language_model._supports_flash_attn_2

    @property
    def _supports_sdpa(self):
        return self.language_model._supports_sdpa

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def embed_all(self, input_ids, pixel_values):
        x = self.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return x
        seen = self.vision_tower(pixel_values).last_hidden_state
        return torch.cat([self.projector(seen), x], dim=1)

    def forward(self, input_ids=None, pixel_values=None, attention_mask=None, use_cache=None, return_dict=None):
        return self.language_model(inputs_embeds=self.embed_all(input_ids, pixel_values), use_cache=use_cache)

    def generate(self, input_ids, pixel_values=None, **kwargs):
        kwargs.pop("attention_mask", None) if pixel_values is not None else None
        embeds = self.embed_all(input_ids, pixel_values)
        out = self.language_model.generate(inputs_embeds=embeds, **kwargs)
        if not isinstance(out, torch.Tensor):
            out.sequences = torch.cat([input_ids, out.sequences], dim=-1)
            return out
        return torch.cat([input_ids, out], dim=-1)
