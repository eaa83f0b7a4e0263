"""The conversation: its commands, its turns, and what Ctrl-C and Ctrl-D do; with a model that says what it is told."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from types import SimpleNamespace
from typing import Any

import pytest

from uncrate.cli import talk
from uncrate.cli.talk import Talk, write_whole
from uncrate.errors import DoesNotFit, UncrateError
from uncrate.generate.options import Sampling


class FakeStream:
    """Pieces of an answer; an exception among them is raised in its place."""

    def __init__(self, pieces: list[Any]) -> None:
        self.pieces = iter(pieces)
        self.said = ""
        self.closed = False
        self.reason = "cancelled"

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> str:
        piece = next(self.pieces, None)
        if piece is None:
            self.reason = "stop"
            raise StopIteration
        if isinstance(piece, BaseException):
            raise piece
        self.said += piece
        return piece

    def close(self) -> None:
        self.closed = True

    @property
    def result(self) -> Any:
        return SimpleNamespace(text=self.said, finish_reason=self.reason, completion_tokens=len(self.said))


FAKE_PLAN = SimpleNamespace(
    manifest=SimpleNamespace(source="nano", commit=None),
    generation="GLM-4V",
    route="native",
    bytes=1000,
    dtype="float32",
    device=SimpleNamespace(name="cpu"),
)


@dataclass
class FakeOpened:
    """An opened checkpoint that records what it is asked and gives the answers it was made with."""

    answers: list[Any]
    asked: list[list[dict[str, Any]]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    plan: Any = field(default_factory=lambda: FAKE_PLAN)

    def stream(self, messages: list[dict[str, Any]], **settings: Any) -> FakeStream:
        answer = self.answers.pop(0)
        if isinstance(answer, UncrateError):
            raise answer
        self.asked.append(messages)
        self.settings.append(settings)
        self.streams.append(FakeStream(answer if isinstance(answer, list) else [answer]))
        return self.streams[-1]


@pytest.fixture
def converse(monkeypatch, capsys):
    """Type lines into a conversation off a terminal; returns exit code, stdout, stderr and the fake."""

    def run(lines: list[str], answers: list[Any] | None = None, **options: Any):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO("\n".join(lines).encode()), encoding="utf-8"))
        opened = FakeOpened(list(answers or []))
        settings = {"system": None, "picture": None} | options
        code = Talk(opened, Sampling(), **settings).run(1.0)  # type: ignore[arg-type]
        captured = capsys.readouterr()
        return code, captured.out, captured.err, opened

    return run


@pytest.fixture
def picture(golden):
    return f"{golden}/image.png"


def test_turns_go_with_every_question(converse):
    code, out, err, opened = converse(["你好", "", "and?"], [["he", "llo"], "more"])
    assert code == 0 and out == "hello\nmore\n"
    assert opened.asked[1] == [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and?"},
    ]
    assert (
        err == "nano: GLM-4V, 1,000 bytes float32 on cpu, opened in 1.00 s. /help lists the commands, /exit leaves.\n"
    )


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "/quit"])
def test_leaving(converse, word):
    code, _, _, opened = converse([word, "never asked"])
    assert code == 0 and opened.asked == []


def test_a_picture_belongs_to_the_first_question(converse, picture):
    code, _, err, opened = converse([f"/image {picture}", "what?", "and?"], ["one", "two"])
    assert code == 0 and "53 x 37; now ask about it" in err
    assert opened.asked[0][0]["image"] == picture
    assert [turn.get("image") for turn in opened.asked[1]] == [picture, None, None]


def test_a_second_picture_and_a_late_one_say_how_to_begin_again(converse, picture):
    code, _, err, _ = converse([f"/image {picture}", "what?", f"/image {picture}"], ["one"])
    assert code == 1 and "the model takes one picture a conversation" in err and "/clear" in err
    code, _, err, _ = converse(["what?", f"/image {picture}"], ["one"])
    assert code == 1 and "a picture belongs to the first question" in err and "/clear" in err


def test_clear_begins_again_with_another_picture(converse, picture):
    lines = [f"/image {picture}", "what?", "/clear", f"/image '{picture}'", "and this?"]
    code, _, _, opened = converse(lines, ["one", "two"])
    assert code == 0 and len(opened.asked[1]) == 1 and opened.asked[1][0]["image"] == picture


@pytest.mark.parametrize(("path", "message"), [("", "needs a path"), ("nowhere.png", "nowhere.png"), ("/etc", "/etc")])
def test_a_picture_that_is_none(converse, path, message):
    code, _, err, _ = converse([f"/image {path}"])
    assert code == 1 and message in err and "Traceback" not in err


def test_settings(converse):
    lines = [
        "/set temperature 0.5",
        "/set top_k 7",
        "/set max_tokens 9",
        "/set seed 3",
        "/set system 简短",
        "hi",
        "/set",
    ]
    code, _, err, opened = converse(lines, ["x"])
    assert code == 0
    chosen = opened.settings[0]
    assert (chosen["temperature"], chosen["top_k"], chosen["max_new_tokens"], chosen["seed"]) == (0.5, 7, 9, 3)
    assert opened.asked[0][0] == {"role": "system", "content": "简短"}
    assert "temperature         0.5" in err and "system              简短" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temprature 1", "next: /set temperature VALUE"),
        ("/set temperature warm", "temperature is a number, not 'warm'"),
        ("/set top_k 1.5", "top_k is a whole number, not '1.5'"),
        ("/set top_p 2", "top_p should be above 0, at most 1"),
        ("/imge x.png", "next: /image"),
        ("/zzz", "next: /help"),
        ("/save", "/save needs a file name"),
    ],
)
def test_mistakes_are_sentences_and_the_talk_goes_on(converse, line, message):
    code, out, err, _ = converse([line, "hi"], ["there"])
    assert code == 1 and message in err and out == "there\n"


def test_seed_can_be_taken_back(converse):
    _, _, _, opened = converse(["/set seed 3", "/set seed none", "hi"], ["x"])
    assert opened.settings[0]["seed"] is None


def test_a_question_may_begin_with_a_slash_after_a_space(converse):
    _, _, _, opened = converse([" /etc/hosts 是什么"], ["a file"])
    assert opened.asked[0][0]["content"] == "/etc/hosts 是什么"


def test_a_failed_question_is_not_remembered(converse):
    code, out, err, opened = converse(["long", "short"], [DoesNotFit("the prompt is too long"), "ok"])
    assert code == 1 and "the prompt is too long" in err and out == "ok\n"
    assert opened.asked == [[{"role": "user", "content": "short"}]]


def test_cut_off_says_how_to_get_more(converse, monkeypatch):
    monkeypatch.setattr(
        FakeStream,
        "result",
        property(lambda self: SimpleNamespace(text="x", finish_reason="length", completion_tokens=5)),
    )
    assert "cut off after 5 tokens; /set max_tokens 10" in converse(["hi"], ["x"])[2]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(converse):
    code, out, err, opened = converse(["tell me", "and?"], [["some", KeyboardInterrupt(), "never"], "more"])
    assert code == 0 and out == "some\nmore\n" and "stopped; Ctrl-C again leaves" in err
    assert opened.streams[0].closed and opened.asked[1][1] == {"role": "assistant", "content": "some"}


def test_ctrl_c_before_the_first_word_forgets_the_question(converse):
    _, _, _, opened = converse(["tell me", "and?"], [[KeyboardInterrupt()], "more"])
    assert opened.asked[1] == [{"role": "user", "content": "and?"}]


def test_save(converse, tmp_path, picture):
    file = tmp_path / "talk.json"
    lines = [f"/image {picture}", "几？", f"/save {file}", "and?", f"/save {file}"]
    code, _, err, _ = converse(lines, ["三", "x"], system="terse")
    document = json.loads(file.read_text(encoding="utf-8"))
    assert code == 0 and "saved 2 messages" in err and "saved 4 messages" in err
    assert set(document) == {"schema", "source", "commit", "sampling", "messages"} and document["schema"] == 1
    assert document["messages"][:3] == [
        {"role": "system", "content": "terse"},
        {"role": "user", "content": "几？", "image": picture},
        {"role": "assistant", "content": "三"},
    ]
    assert os.listdir(tmp_path) == ["talk.json"]


def test_save_never_replaces_a_file_that_it_did_not_write(converse, tmp_path):
    file = tmp_path / "precious.json"
    file.write_text("precious")
    code, _, err, _ = converse([f"/save {file}"])
    assert code == 1 and "there is a file of that name already" in err and file.read_text() == "precious"


def test_save_where_nothing_can_be_written(converse, tmp_path):
    code, _, err, _ = converse([f"/save {tmp_path}/no/such/folder/x.json"])
    assert code == 1 and "cannot be written" in err and "next:" in err


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "talk.json"
    file.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(talk.os, "replace", full)
    with pytest.raises(UncrateError, match="No space left on device"):
        write_whole(file, "new")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["talk.json"]


class Screen:
    """A process on a terminal of its own: type, wait for a text, look at what was shown."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.parent, child = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True
        )
        os.close(child)
        self.shown = ""

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} never came:\n{self.shown}"
            self.shown += os.read(self.parent, 65536).decode("utf-8", "replace")

    def type(self, line: str) -> None:
        self.shown = ""
        os.write(self.parent, line.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.parent)


def test_on_a_terminal(process_environment, golden):
    command = [sys.executable, "-m", "uncrate", "chat", golden, "--max-tokens", "4", "--greedy"]
    screen = Screen(command, process_environment | {"TERM": "xterm", "NO_COLOR": "1"})
    try:
        screen.wait_for("/exit leaves.")
        screen.wait_for(talk.PROMPT)
        screen.type("/set temperature 0\n")
        screen.wait_for("temperature: 0.0")
        screen.wait_for(talk.PROMPT)
        screen.type("hello\n")
        screen.wait_for("hello")
        # The first Ctrl-C may still meet the answer and only stop that; one at the prompt leaves.
        for _ in range(30):
            screen.process.send_signal(signal.SIGINT)
            time.sleep(1.0)
            if screen.process.poll() is not None:
                break
        assert screen.process.returncode == 130
    finally:
        screen.close()


def test_ctrl_d_leaves_a_terminal(process_environment, golden):
    screen = Screen([sys.executable, "-m", "uncrate", "chat", golden], process_environment | {"TERM": "dumb"})
    try:
        screen.wait_for(talk.PROMPT)
        screen.type("\x04")
        assert screen.process.wait(30) == 0
    finally:
        screen.close()
