"""How tools are told to the model: a system prompt in GLM-4, plain JSON in ChatGLM3.

The sentences are the ones the models were trained on. They are part of the format, as a role token is, and another
wording would be another prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from uncrate.checkpoint.jsonfile import thaw
from uncrate.errors import MessageError, escape

BUILT_IN = {
    "python": (
        "当你向 `python` 发送包含 Python 代码的消息时，该代码将会在一个有状态的 Jupyter notebook 环境中执行。\n"
        "`python` 返回代码执行的输出，或在执行 60 秒后返回超时。\n"
        "`/mnt/data` 将会持久化存储你的文件。在此会话中，`python` 无法访问互联网。"
        "不要使用 `python` 进行任何网络请求或者在线 API 调用，这些在线内容的访问将不会成功。"
    ),
    "simple_browser": (
        "你可以使用 `simple_browser` 工具。该工具支持以下函数：\n"
        "`search(query: str, recency_days: int)`：使用搜索引擎进行查询并显示结果，"
        "可以使用 `recency_days` 参数控制搜索内容的时效性。\n"
        "`mclick(ids: list[int])`：获取一系列指定 id 的页面内容。每次调用时，须选择3-10个页面。"
        "选择多个角度的页面，同时尽可能选择可信任的信息来源。"
        "考虑到部分页面是无法加载的，你也可以多打开一些可能有用的页面而不用担心内容过多。\n"
        "`open_url(url: str)`：打开指定的 URL。\n\n"
        "使用 `【{引用 id}†{引用文本}】` 来引用内容。\n\n"
        "操作步骤：1. 使用 `search` 来获得信息列表; 2. 使用 `mclick` 来获取指定 ID 页面的内容; "
        "3. 根据获得的内容进行回复。在回复中应当引用信息来源。\n"
        " 如果用户提供了 URL，也可以用 `open_url` 直接打开页面。\n"
        "如果初次搜索结果没有找到合适的信息，也可以再次使用 `search` 进行搜索。"
    ),
    "cogview": (
        "如果用户的请求中包含了对图像的描述，你可以使用 `cogview` 来生成图像并展示给用户。"
        "你需要向 `cogview` 发送图像描述，规则：\n"
        "- 发送给 `cogview` 的消息必须使用英语。用户的中文描述必须完全翻译为英语。\n"
        "- 应当尽可能详细地描述图像生成的需求，需求描述约 100 英文单词。\n"
        "- 保持用户原始描述的意图。不要虚构内容或者没见过的人物。\n"
        "- 如无特殊说明，所在地为中国，持有中国立场并遵循中国社会主义价值观。"
    ),
}
_CALL = "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"


def tools_as_prompt(opening: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """Return GLM-4's system prompt for `tools` after its `opening`. Raises MessageError for an unknown tool."""
    out = opening
    for number, tool in enumerate(tools):
        where = f".tools[{number}]"
        kind = tool.get("type")
        if kind == "function":
            function = tool.get("function")
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise MessageError("a function tool has a 'function' with a 'name'", where=where)
            out += f"\n\n## {function['name']}\n\n{_as_json(function, where)}{_CALL}"
        elif isinstance(kind, str) and kind in BUILT_IN:
            out += f"\n\n## {kind}\n\n{BUILT_IN[kind]}"
        else:
            raise MessageError(
                f"a tool of type '{escape(kind)}' is unknown",
                where=where,
                why=f"the types are function, {', '.join(BUILT_IN)}",
                next="'python' may be what is meant" if kind == "code_interpreter" else None,
            )
    return out


def tools_as_json(role: str, content: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """Return ChatGLM3's system message: its content, and on the next line all tools as JSON."""
    if role != "system":
        raise MessageError("ChatGLM3 reads tools in a system message alone", where=".tools")
    return f"{content}\n{_as_json(list(tools), '.tools')}"


def _as_json(value: Any, where: str) -> str:
    try:
        return json.dumps(thaw(value), ensure_ascii=False, indent=4, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError("the tool cannot be written as JSON", where=where, why=escape(str(error))) from error
