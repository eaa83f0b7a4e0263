"""Chat methods of the transformers tokenizer: messages with pictures to model inputs, by the native prompt."""

# transformers' own annotations are too narrow to override its methods by them.
# mypy: disable-error-code="override,misc,assignment,attr-defined,arg-type,return-value"

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import BatchEncoding
from transformers.utils import PaddingStrategy, get_json_schema

from uncrate.errors import UsageError
from uncrate.models.chatglm.image import pixels
from uncrate.models.chatglm.prompt import IMAGE_TOKENS, Encoded, encode_chat

if TYPE_CHECKING:
    from uncrate.models.chatglm.tokens import Tokenizer

Messages = Sequence[Mapping[str, Any]]


class ChatMethods:
    """`apply_chat_template` over the model's own chat layout, which no template text can change."""

    native: Tokenizer
    image_size: int | None
    padding_side: str

    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        *,
        padding_side: str | None = None,
    ) -> Any:
        """Return a conversation, or a list of them, as model inputs: input_ids, attention_mask, position_ids, images.

        Messages have role and content, and where it applies image (a path, PIL image, bytes or array), metadata,
        tools. `tokenize=False` gives the prompt as text, special tokens by name, and as in the original without the
        picture's three tokens; `return_dict=False` gives the ids alone.
        Several conversations of different length need `padding`. Raises MessageError, PictureError, UsageError.
        """
        self._refuse(documents=documents, chat_template=chat_template)
        if continue_final_message and add_generation_prompt:
            raise UsageError("continue_final_message and add_generation_prompt exclude each other")
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        rows: Sequence[Any] = conversation if several else [conversation]
        encoded = [
            encode_chat(self.native, _with_tools(row, tools), generation_prompt=add_generation_prompt) for row in rows
        ]
        if not tokenize:
            texts = [self.native.decode(_without_picture(row)) for row in encoded]
            return texts if several else texts[0]
        out = self._rows(encoded, max_length if truncation else None)
        if return_assistant_tokens_mask:
            out["assistant_masks"] = [_assistant_mask(row) for row in encoded]
        # As in transformers: tensors of rows that differ in length need padding to be asked for.
        side = padding_side or self.padding_side
        if padding is not False and side == "right" and add_generation_prompt:
            raise UsageError(
                "padding on the right cannot be generated behind",
                why="the answer would follow the padding, not the question",
                next='use padding_side="left", or leave add_generation_prompt out',
            )
        inputs = self._finish(out, several, padding, max_length, return_tensors, side, tokenizer_kwargs or {})
        pictures = [row.image for row in encoded if row.image is not None]
        if not return_dict:
            return inputs["input_ids"]
        if pictures:
            inputs["images"] = self._images(pictures, return_tensors)
        return inputs

    def build_single_message(
        self, role: str, metadata: str | None, message: str, tokenize: bool = True, message_prefix: str | None = None
    ) -> list[int] | str:
        """Return one message as ids or as text, by the original code's name and arguments.

        `message_prefix` names special tokens to stand before the message, as "<|begin_of_image|>...".
        """
        head = f"{metadata or ''}\n"
        if not tokenize:
            return f"<|{role}|>{head}{message}"
        ids = [self.native.special(f"<|{role}|>"), *self.native.encode_text(head)]
        if message_prefix is not None:
            ids += self.text_ids(message_prefix, split_special_tokens=False)  # type: ignore[attr-defined]
        return [*ids, *self.native.encode_text(message)]

    def get_command(self, token: str) -> int:
        """Return the id of a special token, by the name that ChatGLM3's code has for it. Raises TokenizerError."""
        return self.native.special(token)

    def _rows(self, encoded: list[Encoded], longest: int | None) -> dict[str, list[list[int]]]:
        rows = []
        for row in encoded:
            if longest is not None and len(row.ids) > longest and row.image_position is not None:
                raise UsageError(
                    f"a conversation with a picture has {len(row.ids)} tokens and would be cut at {longest}",
                    why="a cut could go through the picture's tokens",
                    next="shorten the messages, or give a larger max_length",
                )
            rows.append(row.ids[:longest])
        return {"input_ids": rows}

    def _finish(
        self,
        out: dict[str, list[list[int]]],
        several: bool,
        padding: bool | str | PaddingStrategy,
        max_length: int | None,
        return_tensors: str | None,
        side: str,
        more: Mapping[str, Any],
    ) -> BatchEncoding:
        # transformers warns that padding apart from encoding is slow with *its* fast tokenizers.
        masks = out.pop("assistant_masks", None)
        padded = self.pad(  # type: ignore[attr-defined]
            BatchEncoding(out),
            padding=padding,
            max_length=max_length,
            padding_side=side,
            pad_to_multiple_of=more.get("pad_to_multiple_of"),
        )
        fields: dict[str, Any] = dict(padded)
        if masks is not None:
            width = [len(ids) for ids in fields["input_ids"]]
            fields["assistant_masks"] = [_fill(mask, size, side) for mask, size in zip(masks, width, strict=True)]
        if not several and return_tensors is None:
            fields = {name: value[0] for name, value in fields.items()}
        return BatchEncoding(fields, tensor_type=return_tensors)

    def _images(self, pictures: Sequence[Any], return_tensors: str | None) -> Any:
        side = self.image_size
        if side is None:
            raise UsageError("the size of pictures is unknown", why="tokenizer_config.json has no image_size")
        stacked = np.stack([pixels(picture, side) for picture in pictures])
        if return_tensors == "np":
            return stacked
        import torch

        return torch.from_numpy(stacked)

    @staticmethod
    def _refuse(**given: Any) -> None:
        why = {
            "documents": ("the model's prompt has no place for documents", "write them into a message"),
            "chat_template": (
                "the chat layout is the model's own and is not replaced by a template",
                "leave chat_template out, or build the ids yourself",
            ),
        }
        for name, value in given.items():
            if value is not None:
                what, next_step = why[name]
                raise UsageError(f"{name}: {what}", next=next_step)


def _with_tools(messages: Messages, tools: Sequence[Any] | None) -> Messages:
    """Put tools that were given beside the messages into a system message in front."""
    if not tools:
        return messages
    described = [get_json_schema(tool) if callable(tool) else tool for tool in tools]
    first = messages[0] if messages else {}
    if first.get("role") == "system":
        return [{**first, "tools": [*(first.get("tools") or ()), *described]}, *messages[1:]]
    return [{"role": "system", "content": "", "tools": described}, *messages]


def _without_picture(row: Encoded) -> list[int]:
    if row.image_position is None:
        return row.ids
    return [*row.ids[: row.image_position], *row.ids[row.image_position + len(IMAGE_TOKENS) :]]


def _assistant_mask(row: Encoded) -> list[int]:
    mask = [0] * len(row.ids)
    for span in row.spans:
        if span.role == "assistant":
            mask[span.body : span.end] = [1] * (span.end - span.body)
    return mask


def _fill(mask: list[int], size: int, side: str) -> list[int]:
    added = [0] * (size - len(mask))
    return [*mask[:size], *added] if side == "right" else [*added, *mask[:size]]
