"""The tokenizer and the picture preparation of a ChatGLM checkpoint as one transformers processor."""

# transformers' own annotations are too narrow to override its methods by them.
# mypy: disable-error-code="override,misc,assignment,attr-defined,arg-type,return-value"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

from uncrate.errors import UsageError
from uncrate.models.chatglm.hf_tokenizer import ChatGLMTokenizer
from uncrate.models.chatglm.image import Picture, pixels


class ChatGLMProcessor(ProcessorMixin):
    """Texts, pictures and conversations to model inputs."""

    tokenizer: ChatGLMTokenizer

    def __init__(self, tokenizer: ChatGLMTokenizer, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["tokenizer"]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        if not isinstance(argument, ChatGLMTokenizer):
            raise UsageError(f"{argument_name} is a {type(argument).__name__}, a ChatGLMTokenizer is wanted")
        return PreTrainedTokenizerBase

    def __call__(
        self,
        images: Picture | Sequence[Picture] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: str | None = None,
        padding: bool | str = False,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Return input_ids, attention_mask and position_ids of texts, and `images` [N, 3, S, S] of pictures.

        Text alone holds no place for a picture: that is what `apply_chat_template` writes. Raises PictureError.
        """
        out = BatchEncoding({})
        if text is not None:
            out = self.tokenizer(text, return_tensors=return_tensors, padding=padding, **kwargs)
        if images is not None:
            listed = list(images) if isinstance(images, list | tuple) else [images]
            side = self.tokenizer.image_size
            if side is None:
                raise UsageError("this checkpoint takes no pictures", why="tokenizer_config.json has no image_size")
            stacked = np.stack([pixels(picture, side) for picture in listed])
            out["images"] = stacked
            if return_tensors == "pt":
                import torch

                out["images"] = torch.from_numpy(stacked)
        return out

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Return conversations as model inputs, pictures included; see the tokenizer's method."""
        return self.tokenizer.apply_chat_template(conversation, *args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return self.tokenizer.decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, "images"]

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save the tokenizer's files, which say all that the processor knows."""
        return self.tokenizer.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> ChatGLMProcessor:
        """Return the processor of a checkpoint folder."""
        return cls(ChatGLMTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs))
