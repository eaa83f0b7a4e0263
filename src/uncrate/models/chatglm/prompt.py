"""From a conversation to the ids that the model was trained on, and from several to one batch.

    [{"role": "user", "image": "cat.png", "content": "描述这张图片"}]
    [gMASK] <sop> <|user|> \\n <|begin_of_image|> <|endoftext|> <|end_of_image|> 描述这张图片 <|assistant|>

The three ids around <|endoftext|> are replaced by the picture's vectors inside the model. Text is never searched for
special tokens: what a user types cannot become one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uncrate.errors import MessageError, UsageError
from uncrate.models.chatglm.image import Picture, pixels
from uncrate.models.chatglm.messages import Message, read_messages
from uncrate.models.chatglm.tokens import Tokenizer, encodable
from uncrate.models.chatglm.tools import tools_as_json, tools_as_prompt

if TYPE_CHECKING:
    import torch

IMAGE_TOKENS = ("<|begin_of_image|>", "<|endoftext|>", "<|end_of_image|>")


@dataclass(frozen=True)
class Span:
    """Where one message stands in the ids: its role token at `start`, its own text in [body, end)."""

    role: str
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class Encoded:
    """One conversation as ids. `image` is as it was given, opened only by `batch`; `image_position` is where
    <|begin_of_image|> stands. `spans` are empty for ChatGLM2, whose prompt is one text without role tokens.
    """

    ids: list[int]
    image: Picture | None
    image_position: int | None
    spans: tuple[Span, ...]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    generation_prompt: bool = True,
    local_files: bool = True,
    pictures: bool | None = None,
) -> Encoded:
    """Return the ids of one conversation in the layout of the tokenizer's model.

    `generation_prompt` ends it with <|assistant|>, for an answer. `local_files=False` refuses paths as pictures.
    `pictures` says whether the model takes one, None: what the tokenizer says. Raises MessageError.
    """
    read = read_messages(messages, local_files=local_files)
    takes = tokenizer.takes_pictures if pictures is None else pictures
    for index, message in enumerate(read):
        if message.image is not None and not takes:
            raise MessageError(
                "this model takes no pictures",
                where=f"messages[{index}]",
                next="leave the image out, or open a GLM-4V checkpoint",
            )
    if tokenizer.layout == "chatglm2":
        return _encode_rounds(tokenizer, read, generation_prompt)
    return _encode_roles(tokenizer, read, generation_prompt)


def _encode_roles(tokenizer: Tokenizer, messages: tuple[Message, ...], generation_prompt: bool) -> Encoded:
    """GLM-4 and ChatGLM3: every message is its role token, metadata and a line end, and its text."""
    ids = list(tokenizer.prefix)
    spans: list[Span] = []
    image: Picture | None = None
    position: int | None = None

    def put(role: str, metadata: str, content: str, picture: Picture | None) -> None:
        nonlocal image, position
        start = len(ids)
        # Head and text are encoded apart: no pair merges across the border.
        ids.extend((tokenizer.special(f"<|{role}|>"), *tokenizer.encode_text(f"{metadata}\n")))
        body = len(ids)
        if picture is not None:
            image, position = picture, body
            ids.extend(tokenizer.special(name) for name in IMAGE_TOKENS)
        ids.extend(tokenizer.encode_text(content))
        spans.append(Span(role=role, start=start, body=body, end=len(ids)))

    for index, message in enumerate(messages):
        content = message.content
        try:
            if tokenizer.layout == "chatglm3":
                if message.tools:
                    content = tools_as_json(message.role, content, message.tools)
                put(message.role, message.metadata, content, message.image)
                continue
            if message.tools:
                put("system", "", tools_as_prompt(tokenizer.tool_opening, message.tools), None)
            # As in the original: a message of nothing leaves no trace.
            if content or message.image is not None:
                put(message.role, message.metadata, content, message.image)
        except MessageError as error:
            raise _placed(error, index) from error
    if generation_prompt:
        ids.append(tokenizer.special("<|assistant|>"))
    return Encoded(ids=ids, image=image, image_position=position, spans=tuple(spans))


def _encode_rounds(tokenizer: Tokenizer, messages: tuple[Message, ...], generation_prompt: bool) -> Encoded:
    """ChatGLM2: numbered rounds of question and answer in one text."""
    rounds: list[str] = []
    for index, message in enumerate(messages):
        wanted = ("user", "assistant")[index % 2]
        if message.role != wanted or message.tools or message.metadata:
            raise MessageError(
                f"this is a message of '{message.role}', where one of '{wanted}' is due"
                if message.role != wanted
                else "ChatGLM2 knows neither tools nor metadata",
                where=f"messages[{index}]",
                why="ChatGLM2's prompt is questions of user and answers of assistant in turn, and nothing else",
            )
        try:
            encodable(message.content)
        except MessageError as error:
            raise _placed(error, index) from error
        if wanted == "user":
            rounds.append(f"[Round {index // 2 + 1}]\n\n问：{message.content}")
        else:
            rounds[-1] += f"\n\n答：{message.content}"
    open_question = len(messages) % 2 == 1
    if generation_prompt and not open_question:
        raise MessageError(
            "the conversation ends with an answer, so there is nothing to answer",
            where=f"messages[{len(messages) - 1}]",
        )
    text = "\n\n".join(rounds) + ("\n\n答：" if generation_prompt else "")
    return Encoded(ids=[*tokenizer.prefix, *tokenizer.encode_text(text)], image=None, image_position=None, spans=())


def _placed(error: MessageError, index: int) -> MessageError:
    place = f"messages[{index}]"
    inside = error.where if error.where and error.where != "tokenizer" else ""
    return MessageError(error.what, where=place + inside, why=error.why, next=error.next)


def batch(
    encoded: Sequence[Encoded],
    tokenizer: Tokenizer,
    image_size: int | None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """Return what the model takes: `input_ids`, `attention_mask`, `position_ids`, int64 [B, T], padded on the left.

    Position ids count real tokens from 0 and are 0 in the padding. `images` [N, 3, S, S] in `dtype` (float32) is there
    when a row has a picture, and holds one for each such row, in the order of rows: the model finds the rows by
    <|begin_of_image|>. Raises PictureError for a picture that cannot be opened.
    """
    import torch

    if not encoded:
        raise UsageError("a batch of no conversations", next="give at least one")
    longest = max(len(row.ids) for row in encoded)
    ids_BT = torch.full((len(encoded), longest), tokenizer.pad_id, dtype=torch.int64)
    mask_BT = torch.zeros((len(encoded), longest), dtype=torch.int64)
    position_BT = torch.zeros((len(encoded), longest), dtype=torch.int64)
    for index, row in enumerate(encoded):
        start = longest - len(row.ids)
        ids_BT[index, start:] = torch.tensor(row.ids, dtype=torch.int64)
        mask_BT[index, start:] = 1
        position_BT[index, start:] = torch.arange(len(row.ids))
    out = {"input_ids": ids_BT, "attention_mask": mask_BT, "position_ids": position_BT}
    pictures = [row.image for row in encoded if row.image is not None]
    if pictures:
        side = image_size or tokenizer.image_size
        if side is None:
            raise UsageError(
                "the size of pictures is unknown", why="neither image_size nor the tokenizer's files give it"
            )
        out["images"] = torch.stack([torch.from_numpy(pixels(picture, side)) for picture in pictures])
    return {name: tensor.to(device=device, dtype=dtype if name == "images" else None) for name, tensor in out.items()}


def describe(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return `ids` as text in which special tokens show by name: what the model sees, for a person to check."""
    return tokenizer.describe(ids)
