"""One record, in whichever format it came, as messages; and what is wrong with them. No torch.

{"messages": [{"role", "content", "image"?, "metadata"?, "tools"?}, ...]}            GLM-4
{"conversations": [{"role", "content"}, ...]}, {"captions": [...]}                   CogVLM-SFT-311K
{"conversations": [{"from", "value"}, ...], "image"?: path, "tools"?, "system"?}     sharegpt, LLaVA
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uncrate.errors import DataError, MessageError, escape
from uncrate.models.chatglm.messages import Message, read_messages

Messages = list[dict[str, Any]]

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "observation",
    "tool": "observation",
    "function_response": "observation",
}
_MARKS = ("<image>\n", "\n<image>", "<image>")
_ASK = {"zh": "描述这张图片。", "en": "Describe this picture."}


def read_conversation(record: Any, folder: Path, where: str) -> tuple[Messages, tuple[Message, ...]]:
    """Return a record's messages as dicts (pictures as paths that can be opened from here) and checked.

    `folder` is what relative pictures are relative to; the working directory comes second, as in the old script.
    Raises DataError with `where` and the number of the message for a format nobody knows, an unknown role or key, a
    second picture, or roles in an order that cannot be trained.
    """
    messages = _find_messages(record, where)
    for message in messages:
        if isinstance(message.get("image"), str):
            message["image"] = _locate(message["image"], folder)
    try:
        checked = read_messages(messages)
    except MessageError as error:
        raise DataError(error.what, where=_join(where, error.where), why=error.why, next=error.next) from error
    _check_order(checked, where)
    return messages, checked


def _join(where: str, inside: str | None) -> str:
    return f"{where}: {inside}" if inside else where


def _find_messages(record: Any, where: str) -> Messages:
    if isinstance(record, list):
        record = {"messages": record}
    if not isinstance(record, Mapping):
        raise DataError(f"a record is an object with messages, and this is {type(record).__name__}", where=where)
    for key, read in (("messages", _plain), ("conversations", _spoken), ("captions", _captions)):
        if record.get(key) is not None:
            items = record[key]
            if not isinstance(items, Sequence) or isinstance(items, str):
                raise DataError(f"{key} is a list, not {type(items).__name__}", where=where)
            return _with_record_keys(read(items, record, where), record, where)
    raise DataError(
        "the record has no messages",
        where=where,
        why=f"its keys are {escape(', '.join(map(str, record)) or 'none')}",
        next='{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    )


def _plain(items: Sequence[Any], record: Mapping[str, Any], where: str) -> Messages:
    out = []
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise DataError(
                f"a message is an object with role and content, not {type(item).__name__}",
                where=f"{where}: messages[{index}]",
            )
        # Arrow-made files hold every key of every row: a null, or an empty picture or list of tools, is none.
        out.append({key: value for key, value in item.items() if value is not None and not _empty(key, value)})
    return out


def _empty(key: str, value: Any) -> bool:
    return key in ("image", "tools", "metadata") and value in ("", [], {})


def _spoken(items: Sequence[Any], record: Mapping[str, Any], where: str) -> Messages:
    if not any(isinstance(item, Mapping) and "from" in item for item in items):
        return _plain(items, record, where)
    out: Messages = []
    for index, item in enumerate(items):
        speaker = item.get("from") if isinstance(item, Mapping) else None
        if not isinstance(speaker, str) or speaker not in _SPEAKERS or not isinstance(item.get("value"), str):
            raise DataError(
                f"a turn is an object with from and value, and this is {escape(item)}",
                where=f"{where}: conversations[{index}]",
                why=f"from is one of {', '.join(_SPEAKERS)}",
            )
        out.append({"role": _SPEAKERS[speaker], "content": item["value"]})
    if isinstance(record.get("system"), str) and record["system"]:
        out.insert(0, {"role": "system", "content": record["system"]})
    return out


def _captions(items: Sequence[Any], record: Mapping[str, Any], where: str) -> Messages:
    texts = [item.get("content") for item in items if isinstance(item, Mapping)]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise DataError("captions hold one caption with content", where=where)
    language = "zh" if any("\u4e00" <= char <= "\u9fff" for char in texts[0]) else "en"
    return [{"role": "user", "content": _ASK[language]}, {"role": "assistant", "content": texts[0]}]


def _with_record_keys(messages: Messages, record: Mapping[str, Any], where: str) -> Messages:
    """Move a picture and tools that stand beside the messages into them."""
    pictures = record.get("images", record.get("image"))
    listed = [pictures] if isinstance(pictures, str) else list(pictures or ())
    if len(listed) > 1:
        raise DataError(
            f"the record has {len(listed)} pictures, and the model takes one picture a conversation",
            where=where,
            next="make a conversation for each picture",
        )
    if listed and listed[0]:
        first = next((message for message in messages if message.get("role") == "user"), None)
        if first is None:
            raise DataError("there is a picture and no message of the user to put it in", where=where)
        if first.get("image") not in (None, listed[0]):
            raise DataError("the record has a picture and so has its first question", where=where)
        first["image"] = listed[0]
        for message in messages:
            if isinstance(message.get("content"), str):
                for mark in _MARKS:
                    message["content"] = message["content"].replace(mark, "")
    tools = record.get("tools")
    if tools:
        messages = _with_tools(messages, tools, where)
    return messages


def _with_tools(messages: Messages, tools: Any, where: str) -> Messages:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"tools is not JSON: {escape(str(error))}", where=where) from error
    if messages and messages[0].get("role") == "system":
        messages[0].setdefault("tools", tools)
        return messages
    return [{"role": "system", "content": "", "tools": tools}, *messages]


def _locate(image: str, folder: Path) -> str:
    if not image or image[:5].lower() == "data:" or "://" in image[:12]:
        return image
    path = Path(image)
    beside = folder / path
    return str(beside if path.is_absolute() or beside.exists() or not path.exists() else path)


_FOLLOWS = {
    None: ("system", "user"),
    "system": ("system", "user"),
    "user": ("assistant",),
    "assistant": ("user", "observation", "assistant"),
    "observation": ("assistant",),
}


def _check_order(messages: tuple[Message, ...], where: str) -> None:
    before: str | None = None
    for index, message in enumerate(messages):
        if message.role not in _FOLLOWS[before]:
            due = " or ".join(_FOLLOWS[before])
            after = f"after '{before}'" if before else "at the start"
            raise DataError(
                f"a message of '{message.role}' {after}, where '{due}' is due",
                where=f"{where}: messages[{index}]",
                next="put the messages in order: system, then user and assistant in turn",
            )
        if message.image is not None and message.role != "user":
            raise DataError(f"a picture in a message of '{message.role}'", where=f"{where}: messages[{index}]")
        before = message.role
    if not any(message.role == "assistant" and message.content for message in messages):
        raise DataError("there is no answer of the assistant to learn", where=where)
