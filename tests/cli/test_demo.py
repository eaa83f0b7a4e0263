"""`uncrate demo`: right answers about the bundled picture, off a terminal as on one, and commands that can be typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from uncrate.cli import demo
from uncrate.cli.commands import COMMANDS


@pytest.fixture
def truth() -> dict[str, str]:
    """The right answers about the demo's picture, as they were written down when it was drawn."""
    asked = json.loads((demo.PICTURES / "questions.json").read_text(encoding="utf-8"))[demo.PICTURE.name]
    english = next(one["answer"] for one in asked if one["answer"].startswith("There "))
    chinese = next(one["answer"] for one in asked if re.match(r"有\d个数字：", one["answer"]))
    red, count = re.search(r"red (\d)", english), re.search(r"\d", english)
    assert red is not None and count is not None
    return dict(zip(demo.QUESTIONS, (red[1], count[0], english, chinese), strict=True))


def test_the_demo_answers_right_in_both_languages(cli, truth):
    done = cli("demo")
    assert done.code == 0 and done.err == "" and "\x1b" not in done.out
    for question in demo.QUESTIONS:
        found = re.search(rf"^  {re.escape(question)}  (.+?)  \(\d+\.\d\d s\)$", done.out, re.MULTILINE)
        assert found is not None and found[1] == truth[question], question
    assert any(question.isascii() for question in demo.QUESTIONS)
    assert not all(question.isascii() for question in demo.QUESTIONS)


def test_the_demo_says_what_the_checkpoint_is_and_what_to_type_next(cli):
    text = cli("demo").out
    for label in ("model", "weights", "route", "memory", "code that runs"):
        assert re.search(rf"^{label} ", text, re.MULTILINE)
    typed = re.findall(r"^  (?:\S*uncrate|python -m uncrate) (\w+)", text.split("\nnext\n")[1], re.MULTILINE)
    assert typed == ["chat", "chat", "plan", "doctor"] and set(typed) <= set(COMMANDS)


def test_a_path_is_as_short_as_it_can_be_typed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert demo.shown_path(tmp_path / "a" / "b.png") == "a/b.png"
    assert demo.shown_path(Path("/elsewhere/b.png")) == "/elsewhere/b.png"


def test_the_program_is_named_as_it_was_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv" / "bin" / "uncrate")])
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert demo.shown_program() == ".venv/bin/uncrate"
    monkeypatch.setattr("shutil.which", lambda _: str(tmp_path / ".venv" / "bin" / "uncrate"))
    assert demo.shown_program() == "uncrate"
    monkeypatch.setattr("sys.argv", ["/somewhere/uncrate/__main__.py"])
    assert demo.shown_program() == "python -m uncrate"
