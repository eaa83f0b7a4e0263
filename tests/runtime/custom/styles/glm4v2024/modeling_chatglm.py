"""GLM-4V's language model in its publisher's manner: module-level jit switches, skip_init, tuples, its own generation hooks."""

# ruff: noqa

import copy
import sys
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from torch.nn import CrossEntropyLoss
from torch.nn.utils import skip_init
from transformers.generation.logits_process import LogitsProcessor
from transformers.generation.utils import GenerationConfig, LogitsProcessorList, ModelOutput, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import is_torch_npu_available, logging

from .configuration_chatglm import ChatGLMConfig
from .visual import EVA2CLIPModel

if sys.platform != "darwin" and not is_torch_npu_available():
    torch._C._jit_set_profiling_mode(False)
    torch._C._jit_set_profiling_executor(False)
    torch._C._jit_override_can_fuse_on_cpu(True)
    torch._C._jit_override_can_fuse_on_gpu(True)

logger = logging.get_logger(__name__)


def default_init(cls, *args, **kwargs):
    return cls(*args, **kwargs)


class InvalidScoreLogitsProcessor(LogitsProcessor):
    def __call__(self, input_ids, scores):
        if torch.isnan(scores).any() or torch.isinf(scores).any():
            scores.zero_()
            scores[..., 5] = 5e4
        return scores


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, rope_ratio=1, original_impl=False, device=None, dtype=None):
        super().__init__()
        inv_freq = 1.0 / (10000 ** (torch.arange(0, dim, 2, device=device).to(dtype=dtype) / dim))
        self.register_buffer("inv_freq", inv_freq)
        self.dim = dim
        self.rope_ratio = rope_ratio

    def forward(self, max_seq_len, offset=0):
        base = 10000 * self.rope_ratio
        theta = 1.0 / (
            base ** (torch.arange(0, self.dim, 2, dtype=torch.float, device=self.inv_freq.device) / self.dim)
        )
        angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float, device=self.inv_freq.device), theta).float()
        return torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1).to(self.inv_freq.dtype)


@torch.jit.script
def apply_rotary_pos_emb(x: torch.Tensor, rope_cache: torch.Tensor) -> torch.Tensor:
    # x: [b, np, sq, hn]
    b, np, sq, hn = x.size(0), x.size(1), x.size(2), x.size(3)
    rot_dim = rope_cache.shape[-2] * 2
    x, x_pass = x[..., :rot_dim], x[..., rot_dim:]
    rope_cache = rope_cache[:, :sq]
    xshaped = x.reshape(b, np, sq, rot_dim // 2, 2)
    rope_cache = rope_cache.view(-1, 1, sq, xshaped.size(3), 2)
    x_out = torch.stack(
        [
            xshaped[..., 0] * rope_cache[..., 0] - xshaped[..., 1] * rope_cache[..., 1],
            xshaped[..., 1] * rope_cache[..., 0] + xshaped[..., 0] * rope_cache[..., 1],
        ],
        -1,
    )
    return torch.cat((x_out.flatten(3), x_pass), dim=-1)


class RMSNorm(torch.nn.Module):
    def __init__(self, normalized_shape, eps=1e-5, device=None, dtype=None, **kwargs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(normalized_shape, device=device, dtype=dtype))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor):
        input_dtype = hidden_states.dtype
        variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return (self.weight * (hidden_states * torch.rsqrt(variance + self.eps))).to(input_dtype)


def _config_to_kwargs(args):
    return {"dtype": args.torch_dtype}


class SelfAttention(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, layer_number, device=None):
        super().__init__()
        self.layer_number = max(1, layer_number)
        self.heads, self.groups, self.size = (
            config.num_attention_heads,
            config.multi_query_group_num,
            config.kv_channels,
        )
        self.projection_size = self.heads * self.size
        self.qkv_hidden_size = self.projection_size + 2 * self.size * self.groups
        bias = config.add_bias_linear or config.add_qkv_bias
        more = _config_to_kwargs(config)
        self.query_key_value = nn.Linear(config.hidden_size, self.qkv_hidden_size, bias=bias, device=device, **more)
        self.dense = nn.Linear(
            self.projection_size, config.hidden_size, bias=config.add_bias_linear, device=device, **more
        )

    def forward(self, hidden_states, attention_mask, rotary_pos_emb, kv_cache=None, use_cache=True):
        batch, length, _ = hidden_states.shape
        shared = self.groups * self.size
        q, k, v = self.query_key_value(hidden_states).split([self.projection_size, shared, shared], dim=-1)
        q = apply_rotary_pos_emb(q.view(batch, length, self.heads, self.size).transpose(1, 2), rotary_pos_emb)
        k = apply_rotary_pos_emb(k.view(batch, length, self.groups, self.size).transpose(1, 2), rotary_pos_emb)
        v = v.view(batch, length, self.groups, self.size).transpose(1, 2)
        if kv_cache is not None:
            k, v = torch.cat((kv_cache[0], k), dim=2), torch.cat((kv_cache[1], v), dim=2)
        kv_cache = (k, v) if use_cache else None
        many = self.heads // self.groups
        k = k.unsqueeze(2).expand(-1, -1, many, -1, -1).reshape(batch, self.heads, -1, self.size)
        v = v.unsqueeze(2).expand(-1, -1, many, -1, -1).reshape(batch, self.heads, -1, self.size)
        if attention_mask is None and q.shape[2] == k.shape[2]:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            out = F.scaled_dot_product_attention(q, k, v, None if attention_mask is None else ~attention_mask)
        return self.dense(out.transpose(1, 2).reshape(batch, length, -1)), kv_cache


class MLP(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, device=None):
        super().__init__()
        more = {"bias": config.add_bias_linear, "device": device, **_config_to_kwargs(config)}
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.ffn_hidden_size * 2, **more)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, **more)

    def forward(self, hidden_states):
        gate, value = torch.chunk(self.dense_h_to_4h(hidden_states), 2, dim=-1)
        return self.dense_4h_to_h(F.silu(gate) * value)


class GLMBlock(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, layer_number, device=None):
        super().__init__()
        kind = RMSNorm if config.rmsnorm else nn.LayerNorm
        more = {"eps": config.layernorm_epsilon, "device": device, "dtype": config.torch_dtype}
        self.input_layernorm = kind(config.hidden_size, **more)
        self.self_attention = SelfAttention(config, layer_number, device=device)
        self.post_attention_layernorm = kind(config.hidden_size, **more)
        self.mlp = MLP(config, device=device)

    def forward(self, hidden_states, attention_mask, rotary_pos_emb, kv_cache=None, use_cache=True):
        out, kv_cache = self.self_attention(
            self.input_layernorm(hidden_states), attention_mask, rotary_pos_emb, kv_cache, use_cache
        )
        hidden_states = hidden_states + out
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), kv_cache


class GLMTransformer(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, device=None):
        super().__init__()
        self.num_layers = config.num_layers
        self.layers = torch.nn.ModuleList([GLMBlock(config, i + 1, device=device) for i in range(self.num_layers)])
        kind = RMSNorm if config.rmsnorm else nn.LayerNorm
        self.final_layernorm = kind(
            config.hidden_size, eps=config.layernorm_epsilon, device=device, dtype=config.torch_dtype
        )

    def forward(self, hidden_states, attention_mask, rotary_pos_emb, kv_caches=None, use_cache: bool | None = True):
        if not kv_caches:
            kv_caches = [None for _ in range(self.num_layers)]
        presents = () if use_cache else None
        for index, layer in enumerate(self.layers):
            hidden_states, kv_cache = layer(hidden_states, attention_mask, rotary_pos_emb, kv_caches[index], use_cache)
            if use_cache:
                presents = (*presents, kv_cache)
        return self.final_layernorm(hidden_states), presents


class ChatGLMPreTrainedModel(PreTrainedModel):
    is_parallelizable = False
    supports_gradient_checkpointing = True
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["GLMBlock"]

    def _init_weights(self, module: nn.Module):
        return

    def get_masks(self, input_embeds, past_key_values, padding_mask=None):
        batch, length, _ = input_embeds.shape
        full = torch.ones(batch, length, length, device=input_embeds.device)
        full.tril_()
        past_length = past_key_values[0][0].shape[2] if past_key_values else 0
        if past_length:
            full = torch.cat((torch.ones(batch, length, past_length, device=input_embeds.device), full), dim=-1)
        if padding_mask is not None:
            full = full * padding_mask.unsqueeze(1)
        if not past_length and padding_mask is not None:
            full -= padding_mask.unsqueeze(-1) - 1
        return (full < 0.5).bool().unsqueeze_(1)

    def get_position_ids(self, input_ids, device):
        batch, length = input_ids.shape
        return torch.arange(length, dtype=torch.long, device=device).unsqueeze(0).repeat(batch, 1)

    def get_multimodal_position_ids(self, input_ids, device):
        batch, length = input_ids.shape
        return torch.arange(length, dtype=torch.long, device=device).unsqueeze(0).repeat(batch, 1)


class Embedding(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, device=None):
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.padded_vocab_size, config.hidden_size, dtype=config.torch_dtype, device=device
        )

    def forward(self, input_ids):
        return self.word_embeddings(input_ids)


def is_empty(images_list: list[list[torch.Tensor]] | None):
    if images_list is None or len(images_list) == 0:
        return True
    return all(image_list is None for image_list in images_list)


class ChatGLMModel(ChatGLMPreTrainedModel):
    def __init__(self, config: ChatGLMConfig, device=None, empty_init=True):
        super().__init__(config)
        init_method = skip_init if empty_init else default_init
        init_kwargs = {} if device is None else {"device": device}
        self.embedding = init_method(Embedding, config, **init_kwargs)
        self.num_layers = config.num_layers
        self.multi_query_group_num = config.multi_query_group_num
        self.kv_channels = config.kv_channels
        self.seq_length = config.seq_length
        rotary_dim = (
            config.hidden_size // config.num_attention_heads if config.kv_channels is None else config.kv_channels
        )
        self.rotary_pos_emb = RotaryEmbedding(
            rotary_dim // 2, rope_ratio=config.rope_ratio, device=device, dtype=config.torch_dtype
        )
        self.encoder = init_method(GLMTransformer, config, **init_kwargs)
        self.output_layer = init_method(
            nn.Linear, config.hidden_size, config.padded_vocab_size, bias=False, dtype=config.torch_dtype, **init_kwargs
        )
        self.vision = EVA2CLIPModel(config)

    def get_input_embeddings(self):
        return self.embedding.word_embeddings

    def set_input_embeddings(self, value):
        self.embedding.word_embeddings = value

    def forward(
        self,
        input_ids: torch.LongTensor = None,
        images: torch.Tensor = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.BoolTensor | None = None,
        past_key_values: tuple | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ):
        if past_key_values is None and not is_empty(images):
            image_size, patch_size = self.config.vision_config["image_size"], self.config.vision_config["patch_size"]
            num_patches = (image_size // patch_size // 2) ** 2
            inputs_embeds = self.embedding(input_ids)
            images_features = self.vision(images.to(dtype=inputs_embeds.dtype))
            new_embeds, new_positions = [], []
            for i in range(len(input_ids)):
                ids = input_ids[i].tolist()
                boi, eoi = ids.index(self.config.boi_token_id), ids.index(self.config.eoi_token_id)
                assert eoi - boi == 2
                new_embeds.append(torch.cat((inputs_embeds[i, :boi], images_features[i], inputs_embeds[i, eoi + 1 :])))
                places = position_ids[i]
                new_positions.append(torch.cat((places[: boi + 1], places[boi + 1].repeat(num_patches), places[eoi:])))
            inputs_embeds, position_ids = torch.stack(new_embeds, dim=0), torch.stack(new_positions, dim=0)
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        seq_length = inputs_embeds.shape[1]
        full_attention_mask = None
        if (attention_mask is not None and not attention_mask.all()) or (past_key_values and seq_length != 1):
            if self.training:
                attention_mask = F.pad(attention_mask, (0, 0))
            full_attention_mask = self.get_masks(inputs_embeds, past_key_values, padding_mask=attention_mask)
        rotary_pos_emb = self.rotary_pos_emb(self.seq_length)
        rotary_pos_emb = rotary_pos_emb[position_ids] if position_ids is not None else rotary_pos_emb[None, :seq_length]
        hidden_states, presents = self.encoder(
            inputs_embeds,
            full_attention_mask,
            rotary_pos_emb=rotary_pos_emb,
            kv_caches=past_key_values,
            use_cache=use_cache,
        )
        if not return_dict:
            return tuple(v for v in (hidden_states, presents) if v is not None)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=presents)


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel):
    def __init__(self, config: ChatGLMConfig, empty_init=True, device=None):
        super().__init__(config)
        self.max_sequence_length = config.max_length
        self.transformer = ChatGLMModel(config, empty_init=empty_init, device=device)
        self.config = config

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False
    ) -> dict[str, Any]:
        cache_name, cache = self._extract_past_from_model_output(outputs)
        model_kwargs[cache_name] = cache
        if "attention_mask" in model_kwargs:
            mask = model_kwargs["attention_mask"]
            model_kwargs["attention_mask"] = torch.cat([mask, mask.new_ones((mask.shape[0], 1))], dim=-1)
        if "position_ids" in model_kwargs:
            position_ids = model_kwargs["position_ids"]
            new_position_id = position_ids[..., -1:].clone()
            new_position_id += 1
            model_kwargs["position_ids"] = torch.cat([position_ids, new_position_id], dim=-1)
        model_kwargs["is_first_forward"] = False
        return model_kwargs

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        images: torch.Tensor | None = None,
        past_key_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        is_first_forward: bool = True,
        **kwargs,
    ) -> dict:
        if position_ids is None:
            position_ids = self.get_position_ids(input_ids, device=input_ids.device)
        if attention_mask is not None and not is_empty(images):
            image_size, patch_size = self.config.vision_config["image_size"], self.config.vision_config["patch_size"]
            num_patches = (image_size // patch_size // 2) ** 2
            masks = []
            for i in range(len(input_ids)):
                ids = input_ids[i].tolist()
                boi, eoi = ids.index(self.config.boi_token_id), ids.index(self.config.eoi_token_id)
                assert eoi - boi == 2
                mask = attention_mask[i]
                masks.append(torch.cat((mask[: boi + 1], mask.new_ones(num_patches), mask[eoi:])))
            attention_mask = torch.stack(masks, dim=0)
        if not is_first_forward and past_key_values is not None:
            position_ids = position_ids[..., -1:]
            input_ids = input_ids[:, -1:]
        return {
            "input_ids": input_ids,
            "images": images,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
            "attention_mask": attention_mask,
            "return_last_logit": True,
            "use_cache": use_cache,
        }

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        images: list[list[torch.Tensor]] | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: tuple[torch.FloatTensor] | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_last_logit: bool | None = False,
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        out = self.transformer(
            input_ids=input_ids,
            images=images,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
        )
        hidden_states = out[0]
        if return_last_logit:
            hidden_states = hidden_states[:, -1:]
        lm_logits = self.transformer.output_layer(hidden_states)
        loss = None
        if labels is not None:
            loss = CrossEntropyLoss(ignore_index=-100)(lm_logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        if not return_dict:
            return (lm_logits, *out[1:])
        return CausalLMOutputWithPast(loss=loss, logits=lm_logits, past_key_values=out.past_key_values)

    @staticmethod
    def _reorder_cache(past, beam_idx: torch.LongTensor):
        return tuple(
            (
                layer[0].index_select(0, beam_idx.to(layer[0].device)),
                layer[1].index_select(0, beam_idx.to(layer[1].device)),
            )
            for layer in past
        )

    @torch.inference_mode()
    def stream_generate(self, input_ids, generation_config: GenerationConfig | None = None, images=None, **kwargs):
        if generation_config is None:
            generation_config = self.generation_config
        generation_config = copy.deepcopy(generation_config)
        model_kwargs = generation_config.update(**kwargs)
        model_kwargs["use_cache"] = generation_config.use_cache
        eos_token_id = generation_config.eos_token_id
        if isinstance(eos_token_id, int):
            eos_token_id = [eos_token_id]
        eos = torch.tensor(eos_token_id, device=input_ids.device)
        generation_config.max_length = generation_config.max_new_tokens + input_ids.shape[-1]
        processors = LogitsProcessorList([InvalidScoreLogitsProcessor()])
        processors = self._get_logits_processor(
            generation_config=generation_config,
            input_ids_seq_length=input_ids.shape[-1],
            encoder_input_ids=input_ids,
            prefix_allowed_tokens_fn=None,
            logits_processor=processors,
        )
        criteria = self._get_stopping_criteria(
            generation_config=generation_config, stopping_criteria=StoppingCriteriaList()
        )
        warper = self._get_logits_warper(generation_config)
        model_kwargs["images"] = images
        model_kwargs["attention_mask"] = torch.ones_like(input_ids)
        while True:
            inputs = self.prepare_inputs_for_generation(input_ids, **model_kwargs)
            outputs = self(**inputs, return_dict=True)
            scores = warper(input_ids, processors(input_ids, outputs.logits[:, -1, :]))
            if generation_config.do_sample:
                next_tokens = torch.multinomial(nn.functional.softmax(scores, dim=-1), num_samples=1).squeeze(1)
            else:
                next_tokens = torch.argmax(scores, dim=-1)
            input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)
            model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=False)
            yield input_ids
            if torch.isin(next_tokens, eos).all() or criteria(input_ids, scores).all():
                break
