"""The ChatGLM family as transformers classes: thin over the native modules, the same arithmetic and the same names.

For those who want `generate`, Trainer, PEFT or a pipeline. `uncrate.auto` opens them over the same road as
`uncrate.open`; nothing here is registered in transformers' own Auto classes.
"""

from __future__ import annotations

from uncrate.models.chatglm.hf_base import ChatGLMPreTrainedModel
from uncrate.models.chatglm.hf_config import ChatGLMConfig
from uncrate.models.chatglm.hf_model import (
    ChatGLMForConditionalGeneration,
    ChatGLMForSequenceClassification,
    ChatGLMModel,
)
from uncrate.models.chatglm.hf_processor import ChatGLMProcessor
from uncrate.models.chatglm.hf_tokenizer import ChatGLMTokenizer

__all__ = [
    "ChatGLMConfig",
    "ChatGLMForConditionalGeneration",
    "ChatGLMForSequenceClassification",
    "ChatGLMModel",
    "ChatGLMPreTrainedModel",
    "ChatGLMProcessor",
    "ChatGLMTokenizer",
]
