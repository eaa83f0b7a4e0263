"""Chat messages, checked once and brought to one form: our own dicts and OpenAI's lists of parts."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from uncrate.errors import MessageError, escape
from uncrate.models.chatglm.image import MAX_FILE_BYTES, Picture

ROLES = ("system", "user", "assistant", "observation")
KEYS = ("role", "content", "image", "metadata", "tools")

_NEAREST_ROLE = {
    "tool": "observation",
    "function": "observation",
    "developer": "system",
    "human": "user",
    "bot": "assistant",
}
_NEAREST_KEY = {
    "images": "image",
    "text": "content",
    "tool_calls": "metadata",
    "name": "metadata",
    "from": "role",
    "value": "content",
}
_DATA_URL = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[\w.+-]+)*(?P<coded>;base64)?,", re.IGNORECASE)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True)
class Message:
    """One message of a chat: `image` is not opened yet; `tools` stand as they were given."""

    role: str
    content: str
    image: Picture | None = None
    metadata: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()


def read_messages(messages: Sequence[Mapping[str, Any]], *, local_files: bool = True) -> tuple[Message, ...]:
    """Return the messages of one conversation, checked. Raises MessageError with the number of the message at fault.

    A message is a dict with `role` (system, user, assistant, observation) and `content`, a text or a list of OpenAI's
    parts, and where it applies `image`, `metadata`, `tools`. At most one picture a conversation. With
    `local_files=False` a picture cannot be a path: for messages that came over a network.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise MessageError(
            f"a conversation is a list of messages, not {type(messages).__name__}",
            next='[{"role": "user", "content": "..."}]',
        )
    if not messages:
        raise MessageError("the conversation is empty", next='[{"role": "user", "content": "..."}]')
    out: list[Message] = []
    pictured: int | None = None
    for index, raw in enumerate(messages):
        where = f"messages[{index}]"
        message = _read_message(raw, where, local_files)
        if message.image is not None:
            if pictured is not None:
                raise _too_many(where, f"messages[{pictured}] has one already")
            pictured = index
        out.append(message)
    return tuple(out)


def _too_many(where: str, why: str) -> MessageError:
    return MessageError(
        "the model takes one picture a conversation, and this is a second one",
        where=where,
        why=why,
        next="start a new conversation for another picture",
    )


def _read_message(raw: Any, where: str, local_files: bool) -> Message:
    if not isinstance(raw, Mapping):
        raise MessageError(f"a message is a dict with role and content, not {type(raw).__name__}", where=where)
    for key in raw:
        if key not in KEYS:
            near = _NEAREST_KEY.get(key) if isinstance(key, str) else None
            raise MessageError(
                f"the key '{escape(key)}' is unknown",
                where=where,
                why=f"a message has {', '.join(KEYS)}",
                next=f"'{near}' may be what is meant" if near else None,
            )
    role = raw.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = _NEAREST_ROLE.get(role) if isinstance(role, str) else None
        raise MessageError(
            "the message has no role" if role is None else f"the role '{escape(role)}' is unknown",
            where=where,
            why=f"the roles are {', '.join(ROLES)}",
            next=f"'{near}' may be what is meant" if near else None,
        )
    content, image = _read_content(raw.get("content"), where, local_files)
    if raw.get("image") is not None:
        if image is not None:
            raise _too_many(where, "its content has one already")
        image = _read_image(raw["image"], f"{where}.image", local_files)
    metadata = raw.get("metadata")
    if metadata is not None and not isinstance(metadata, str):
        raise MessageError(f"metadata is a text, not {type(metadata).__name__}", where=where)
    tools = _read_tools(raw.get("tools"), where)
    if raw.get("content") is None and image is None and not tools:
        raise MessageError("the message has no content", where=where, why="it has no picture and no tools either")
    return Message(role=role, content=content, image=image, metadata=metadata or "", tools=tools)


def _read_content(content: Any, where: str, local_files: bool) -> tuple[str, Picture | None]:
    """Return the text and the picture of a content. Texts of several parts are put on lines of their own."""
    if content is None or isinstance(content, str):
        return content or "", None
    if not isinstance(content, (list, tuple)):
        raise MessageError(f"content is a text or a list of parts, not {type(content).__name__}", where=where)
    texts: list[str] = []
    image: Picture | None = None
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise MessageError("a text part has a text", where=place)
            texts.append(part["text"])
        elif kind in ("image_url", "image"):
            if image is not None:
                raise _too_many(place, "the same message has one already")
            image = _read_image(_part_image(part), place, local_files)
        else:
            shown = escape(kind) if isinstance(part, Mapping) else type(part).__name__
            raise MessageError(
                f"a part of type '{shown}' is unknown", where=place, why="types are text, image_url, image"
            )
    return "\n".join(texts), image


def _part_image(part: Mapping[str, Any]) -> Any:
    """Return what {"type":"image","image":X}, {"type":"image_url","image_url":{"url":X}} and relatives point to."""
    value = (
        part.get("image_url")
        if part["type"] == "image_url"
        else next((part[k] for k in ("image", "url", "path") if k in part), None)
    )
    return value.get("url") if isinstance(value, Mapping) else value


def _read_image(value: Any, where: str, local_files: bool) -> Picture:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (Image.Image, np.ndarray)):
        return value
    if isinstance(value, str) and value[:5].lower() == "data:":
        return _data_url(value, where)
    if isinstance(value, str) and value[:7].lower() == "file://":
        value = unquote(value[7:].removeprefix("localhost"))
    if isinstance(value, str) and (found := _SCHEME.match(value)):
        raise MessageError(
            f"a picture at a {escape(found[0])} address is not fetched",
            where=where,
            why="a conversation never reaches out to the network",
            next="download it and give its path, or send it as a data: URL",
        )
    if not isinstance(value, (str, PathLike)) or not str(value):
        raise MessageError(
            f"a picture cannot be {escape(value) if value is None or value == '' else type(value).__name__}",
            where=where,
            why="it is a path, the bytes of a file, a PIL image, an array or a data: URL",
        )
    if not local_files:
        raise MessageError(
            "a picture cannot be a path here",
            where=where,
            why="paths of this machine are closed to requests",
            next="send a data: URL",
        )
    return value


def _data_url(url: str, where: str) -> bytes:
    head = _DATA_URL.match(url[:256])
    if head is None or not (head["kind"] or "").lower().startswith("image/"):
        raise MessageError(
            f"the data: URL '{escape(url, 40)}' is not a picture's",
            where=where,
            next="data:image/png;base64,... is expected",
        )
    body = url[head.end() :]
    if len(body) > MAX_FILE_BYTES:
        raise MessageError(f"the data: URL is larger than {MAX_FILE_BYTES >> 20} MiB", where=where)
    try:
        # Some clients break base64 into lines or use its URL alphabet.
        packed = "".join(unquote(body).split()).translate(str.maketrans("-_", "+/"))
        return (
            base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
            if head["coded"]
            else unquote(body).encode("latin-1")
        )
    except (binascii.Error, ValueError) as error:
        raise MessageError("the data: URL is not base64", where=where, why=escape(str(error))) from error


def _read_tools(tools: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, (list, tuple)):
        raise MessageError(f"tools is a list, not {type(tools).__name__}", where=where)
    for number, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise MessageError(f"a tool is a dict, not {type(tool).__name__}", where=f"{where}.tools[{number}]")
    return tuple(tools)
