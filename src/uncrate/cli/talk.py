"""The conversation at a terminal: a prompt, commands that start with a slash, answers as they come."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncrate import show
from uncrate.errors import MessageError, UncrateError, UsageError, escape

if TYPE_CHECKING:
    from uncrate.generate.options import Sampling
    from uncrate.opened import Opened
    from uncrate.opened_foreign import OpenedForeign

PROMPT = "> "
# Names that /set takes, and the field of Sampling behind each.
_INTEGERS = {"max_tokens": "max_new_tokens", "top_k": "top_k", "seed": "seed"}
_FLOATS = {"temperature": "temperature", "top_p": "top_p", "repetition_penalty": "repetition_penalty"}
SETTINGS = (*_FLOATS, *_INTEGERS, "system")
_CLEAR = "/clear starts a new conversation"


class _Leave(Exception):
    """The user has said goodbye."""


@dataclass(frozen=True)
class _Command:
    usage: str
    help: str
    run: Callable[[str], None]


class Talk:
    """One conversation with an opened checkpoint: its turns, its picture, and how answers are drawn."""

    def __init__(
        self, opened: Opened | OpenedForeign, sampling: Sampling, *, system: str | None, picture: str | None
    ) -> None:
        self.opened = opened
        self.sampling = sampling
        self.system = system
        self.turns: list[dict[str, Any]] = []
        self.picture = picture
        self.failed = False
        self._saved: set[Path] = set()
        self.commands = {
            "/image": _Command("/image PATH", "the next question is about this picture", self._image),
            "/clear": _Command("/clear", "start a new conversation", self._clear),
            "/set": _Command("/set [NAME VALUE]", f"show or change {', '.join(SETTINGS)}", self._set),
            "/save": _Command("/save FILE", "write the conversation as JSON", self._save),
            "/help": _Command("/help", "this list", self._help),
            "/exit": _Command("/exit", "leave (also exit, quit, Ctrl-D)", self._exit),
        }

    def run(self, seconds: float) -> int:
        """Talk until the user leaves. Off a terminal each line of stdin is one question; 1 if any of them failed."""
        plan = self.opened.plan
        where, memory = escape(str(plan.manifest.source)), show.size_text(plan.bytes)
        self._say(f"{where}: {plan.generation or plan.route}, {memory} {plan.dtype} on {plan.device.name}, ", end="")
        self._say(f"opened in {show.seconds_text(seconds)}. /help lists the commands, /exit leaves.")
        at_terminal = show.is_terminal(sys.stdin)
        read = _terminal_reader() if at_terminal else _line_reader
        while True:
            try:
                line = read()
                self._take(line)
            except (EOFError, _Leave):
                return 1 if self.failed and not at_terminal else 0
            except UncrateError as error:
                self.failed = True
                self._say(f"error: {show.harmless(str(error))}")

    def _take(self, line: str) -> None:
        text = line.strip()
        if not text:
            return
        if text in ("exit", "quit", "/quit"):
            raise _Leave
        # A question that begins with a slash can be asked by putting a space in front.
        if not line.startswith("/"):
            self._ask(text)
            return
        name, _, rest = text.partition(" ")
        command = self.commands.get(name)
        if command is None:
            near = get_close_matches(name, self.commands, n=1)
            raise UsageError(f"there is no command {escape(name)}", next=near[0] if near else "/help")
        command.run(rest.strip())

    def _ask(self, text: str) -> None:
        turn: dict[str, Any] = {"role": "user", "content": text}
        if self.picture is not None:
            turn["image"] = self.picture
        messages = [*self._system_turn(), *self.turns, turn]
        stream = self.opened.stream(messages, **asdict(self.sampling))
        try:
            for piece in stream:
                print(show.answer_text(piece, sys.stdout), end="", flush=True)
        except KeyboardInterrupt:
            # The first Ctrl-C stops the answer and keeps the talk; at the prompt it leaves.
            stream.close()
            print(flush=True)
            self._say("stopped; Ctrl-C again leaves")
        else:
            print(flush=True)
        answer = stream.result
        if answer.text or answer.finish_reason != "cancelled":
            self.turns += [turn, {"role": "assistant", "content": answer.text}]
            self.picture = None
        if answer.finish_reason == "length":
            self._say(
                f"cut off after {answer.completion_tokens} tokens; /set max_tokens {2 * answer.completion_tokens}"
            )

    def _system_turn(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _image(self, rest: str) -> None:
        if not rest:
            raise UsageError("/image needs a path", next="/image picture.png")
        if any("image" in turn for turn in self.turns):
            raise MessageError("the model takes one picture a conversation, and this one has its picture", next=_CLEAR)
        if self.turns:
            raise MessageError("a picture belongs to the first question of a conversation", next=_CLEAR)
        from uncrate.models.chatglm.image import open_picture

        path = str(Path(rest.strip("'\"")).expanduser().absolute())
        picture = open_picture(path)
        self.picture = path
        self._say(f"{escape(path, 400)}: {picture.width} x {picture.height}; now ask about it")

    def _clear(self, rest: str) -> None:
        self.turns, self.picture = [], None
        self._say("a new conversation")

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not name:
            self._say(show.sheet(list(self._settings().items()), stream=sys.stderr))
            return
        if name not in SETTINGS:
            near = get_close_matches(name, SETTINGS, n=1)
            why = f"there are {', '.join(SETTINGS)}"
            raise UsageError(
                f"there is no setting {escape(name)}", why=why, next=f"/set {near[0]} VALUE" if near else None
            )
        if name == "system":
            self.system = value.strip() or None
        else:
            self.sampling = replace(self.sampling, **_parse_setting(name, value.strip()))
        self._say(f"{name}: {escape(self._settings()[name])}")

    def _settings(self) -> dict[str, str]:
        values = {name: getattr(self.sampling, field) for name, field in (_FLOATS | _INTEGERS).items()}
        values["system"] = self.system
        return {name: "none" if value is None else str(value) for name, value in values.items()}

    def _save(self, rest: str) -> None:
        if not rest:
            raise UsageError("/save needs a file name", next="/save conversation.json")
        path = Path(rest).expanduser().resolve()
        if path.exists() and path not in self._saved:
            raise UsageError(
                "there is a file of that name already", where=escape(str(path), 400), next="/save OTHER-NAME"
            )
        document = {
            "schema": 1,
            "source": str(self.opened.plan.manifest.source),
            "commit": self.opened.plan.manifest.commit,
            "sampling": asdict(self.sampling),
            "messages": [*self._system_turn(), *self.turns],
        }
        write_whole(path, json.dumps(document, ensure_ascii=False, indent=2) + "\n")
        self._saved.add(path)
        self._say(f"saved {len(self.turns)} messages in {escape(str(path), 400)}")

    def _help(self, rest: str) -> None:
        rows = [(command.usage, command.help) for command in self.commands.values()]
        self._say(show.sheet(rows, stream=sys.stderr))

    def _exit(self, rest: str) -> None:
        raise _Leave

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=sys.stderr, flush=True)


def _parse_setting(name: str, value: str) -> dict[str, Any]:
    if name == "seed" and value == "none":
        return {"seed": None}
    try:
        return {_INTEGERS[name]: int(value)} if name in _INTEGERS else {_FLOATS[name]: float(value)}
    except ValueError as error:
        kind = "a whole number" if name in _INTEGERS else "a number"
        raise UsageError(f"{name} is {kind}, not {escape(repr(value))}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step: after a crash or on a full disk there is the old file or none, never half a file.

    Raises UncrateError where it cannot be written.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        what = f"it cannot be written: {error.strerror or error}"
        raise UncrateError(what, where=escape(str(path), 400), next="choose another place") from error


def _terminal_reader() -> Callable[[], str]:
    try:
        import readline  # noqa: F401 - importing it gives input() editing and a history of this talk
    except ImportError:
        return lambda: input(PROMPT)
    return lambda: input(PROMPT)


def _line_reader() -> str:
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", "replace")
