"""The ChatGLM models as transformers classes: generate, Trainer and PEFT over the native arithmetic.

Axes in names: B batch, T tokens, E positions after pictures are expanded, K classes, V words.
"""

# transformers' own annotations are too narrow to override its methods by them.
# mypy: disable-error-code="override,misc,assignment,attr-defined,arg-type,return-value"

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)

from uncrate.errors import UsageError
from uncrate.models.chatglm.expand import expand
from uncrate.models.chatglm.hf_base import ChatGLMPreTrainedModel
from uncrate.models.chatglm.hf_config import ChatGLMConfig
from uncrate.models.chatglm.model import IGNORED, class_loss, pool_last, token_loss


def _no_attentions(asked: bool | None) -> None:
    if asked:
        raise UsageError(
            "attention weights are not computed",
            why="scaled_dot_product_attention never forms them; the original code returned none either",
            next="leave output_attentions out",
        )


class ChatGLMModel(ChatGLMPreTrainedModel):
    """The decoder and the vision tower without a head on top: hidden states."""

    def __init__(self, config: ChatGLMConfig, empty_init: bool = True, device: torch.device | None = None) -> None:
        super().__init__(config, head=True)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Return hidden states [B, E, C] after the final norm; inputs as in ChatGLMForConditionalGeneration."""
        _no_attentions(output_attentions)
        passed = self.pass_through(
            input_ids,
            images=images,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=None,
            use_cache=use_cache,
            collect=_wanted(output_hidden_states, self.config),
        )
        output = BaseModelOutputWithPast(
            last_hidden_state=passed.hidden, past_key_values=passed.cache, hidden_states=passed.collected
        )
        return output if _dict(return_dict, self.config) else output.to_tuple()


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel, GenerationMixin):
    """The model that answers, with `generate`: greedy, sampling, beams, streamers, dynamic and static caches."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "transformer.output_layer.weight": "transformer.embedding.word_embeddings.weight"
    }

    def __init__(self, config: ChatGLMConfig, empty_init: bool = True, device: torch.device | None = None) -> None:
        super().__init__(config, head=True)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_last_logit: bool = False,
        *,
        logits_to_keep: int = 0,
        skip_logits: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits [B, E, V]; with `labels` [B, T] (-100 ignored) also the mean loss over labelled tokens.

        images: [N, 3, S, S], one for each row with a begin-of-image token. position_ids: [B, T], counted over tokens
        before expansion. attention_mask: [B, T]; with a filled cache [B, S] over all expanded positions. hidden_states
        (when asked for) end with what enters the final norm, as in the original. `logits_to_keep`: the last so many
        positions only; `return_last_logit` is the original's name for 1. `skip_logits`: the loss alone, which saves
        the largest tensor of training. `num_items_in_batch` divides the summed loss (Trainer). Raises PictureError,
        UsageError.
        """
        _no_attentions(output_attentions)
        passed = self.pass_through(
            input_ids,
            images=images,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            collect=_wanted(output_hidden_states, self.config),
        )
        head = self.transformer.output_layer
        loss = None
        if passed.embedded.labels is not None:
            loss = token_loss(passed.hidden, passed.embedded.labels, head)
            if num_items_in_batch is not None:
                counted = int((passed.embedded.labels[:, 1:] != IGNORED).sum())
                loss = loss * counted / num_items_in_batch
        keep = 1 if return_last_logit else logits_to_keep
        logits = None if skip_logits else head(passed.hidden[:, -keep:] if keep else passed.hidden)
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=passed.cache, hidden_states=passed.collected
        )
        return output if _dict(return_dict, self.config) else output.to_tuple()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool = False,
        images: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = True,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Any]:
        """Return what the next forward pass takes: new tokens alone, pictures in the first pass only, no labels.

        Everything follows from the whole `input_ids` and the cache's length; nothing is remembered in between. Behind
        a picture the mask is spread over expanded positions, the position ids are not.
        """
        past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        passed: dict[str, Any] = {
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
            "output_hidden_states": output_hidden_states,
            "output_attentions": output_attentions,
        }
        if not past:
            if inputs_embeds is not None and is_first_iteration:
                return {**passed, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
            return {
                **passed,
                "input_ids": input_ids,
                "images": images,
                "attention_mask": attention_mask,
                "position_ids": _last(position_ids, input_ids.shape[1]),
            }
        new = next_sequence_length or 1
        config = self.transformer.config
        has_picture = config.vision is not None and bool((input_ids == config.boi_token_id).any())
        if has_picture and inputs_embeds is None:
            whole = self._expanded_mask(input_ids, attention_mask)
            new = whole.shape[1] - past
            if not 0 < new <= input_ids.shape[1]:
                raise UsageError(
                    f"the cache holds {past} positions, the tokens and their pictures make {whole.shape[1]}",
                    next="give generate all tokens of the conversation, the cached ones included",
                )
            attention_mask = None if bool(whole.all()) else whole
            new_images = (input_ids[:, -new:] == config.boi_token_id).any()
            passed["images"] = images if bool(new_images) else None
        return {
            **passed,
            "input_ids": input_ids[:, -new:],
            "attention_mask": attention_mask,
            "position_ids": _last(position_ids, new),
        }

    def _expanded_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Spread a mask [B, T] over the positions that tokens and pictures take, [B, E]."""
        config = self.transformer.config
        assert config.vision is not None and config.boi_token_id is not None and config.eoi_token_id is not None
        rows = int((input_ids == config.boi_token_id).any(dim=1).sum())
        places = expand(input_ids, config.boi_token_id, config.eoi_token_id, rows, config.vision.image_tokens + 2)
        return places.gather(torch.ones_like(input_ids) if attention_mask is None else attention_mask, 0)

    def _prepare_attention_mask_for_generation(
        self, inputs_tensor: Tensor, generation_config: Any, model_kwargs: dict[str, Any]
    ) -> Tensor:
        """Infer a missing mask as transformers does, but from the padding in front alone.

        The token in the middle of a picture's three is the padding token.
        """
        mask: Tensor = super()._prepare_attention_mask_for_generation(inputs_tensor, generation_config, model_kwargs)
        return (mask.cumsum(dim=1) > 0).to(mask.dtype)

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """Make a static cache large enough for what pictures add: transformers counts tokens."""
        vision = self.transformer.config.vision
        if vision is not None and model_kwargs.get("images") is not None:
            max_cache_length += vision.image_tokens - 1
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )


class ChatGLMForSequenceClassification(ChatGLMPreTrainedModel):
    """The decoder with a class head over the last real token of each row (the original pools the last row instead)."""

    def __init__(self, config: ChatGLMConfig, empty_init: bool = True, device: torch.device | None = None) -> None:
        super().__init__(config, head=False)
        typed = self.transformer.config
        self.num_labels = typed.num_labels
        self.dropout = nn.Dropout(typed.classifier_dropout or 0.0)
        self.classifier_head = nn.Linear(typed.hidden_size, typed.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
    ) -> SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Return class logits [B, K]; with `labels` [B] (or float [B, K]) also the mean loss."""
        _no_attentions(output_attentions)
        passed = self.pass_through(
            input_ids,
            images=images,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=None,
            use_cache=bool(use_cache),
            collect=_wanted(output_hidden_states, self.config),
        )
        logits = self.classifier_head(self.dropout(pool_last(passed.hidden, passed.embedded.mask)))
        loss = None
        if labels is not None:
            loss = class_loss(logits, labels)
            if num_items_in_batch is not None:
                loss = loss * len(logits) / num_items_in_batch
        output = SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, past_key_values=passed.cache, hidden_states=passed.collected
        )
        return output if _dict(return_dict, self.config) else output.to_tuple()


def _wanted(asked: bool | None, config: ChatGLMConfig) -> bool:
    return bool(config.output_hidden_states if asked is None else asked)


def _dict(asked: bool | None, config: ChatGLMConfig) -> bool:
    return bool(config.return_dict if asked is None else asked)


def _last(values_BT: Tensor | None, count: int) -> Tensor | None:
    return None if values_BT is None else values_BT[:, -count:]
