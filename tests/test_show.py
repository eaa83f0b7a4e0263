"""Sheets and tables: aligned by what a terminal shows, one line a row where nobody looks."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncrate import show


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 60 columns without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    return Terminal()


def test_off_a_terminal_every_row_is_one_line():
    rows = [("a", "x" * 300), ("longer", "y"), ("longer", "z")]
    assert show.sheet(rows, stream=io.StringIO()) == f"a       {'x' * 300}\nlonger  y\nlonger  z"


def test_on_a_terminal_values_wrap_under_themselves_and_labels_show_once(terminal):
    text = show.sheet([("why", "words " * 20), ("why", "again")], stream=terminal)
    lines = text.split("\n")
    assert all(len(line) <= 60 for line in lines) and lines[0].startswith("why  words")
    assert all(line.startswith("     ") for line in lines[1:]) and lines[-1] == "     again"


def test_chinese_counts_two_columns(terminal):
    assert show.width("数字abc") == 7
    text = show.sheet([("字", "四" * 60), ("abcd", "x")], stream=terminal)
    lines = text.split("\n")
    assert lines[0].startswith("字    四") and all(show.width(line) <= 60 for line in lines)


def test_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert show.sheet([("problem", "p")], stream=Terminal()) == "\033[31mproblem\033[0m  p"


@given(st.text(max_size=200), st.integers(min_value=2, max_value=50))
def test_wrapping_loses_only_spaces(text, limit):
    lines = show.wrap(text, limit)
    assert all(show.width(line) <= limit for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_table():
    text = show.table(("name", "size"), [("权重", "1"), ("b", "22")], stream=io.StringIO())
    assert text == "name  size\n权重  1\nb     22"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (9999, "9,999 bytes"),
        (12_300, "12.3 kB"),
        (3_200_000, "3.2 MB"),
        (18_800_000_000, "18.8 GB"),
        (2 * 10**15, "2,000.0 TB"),
    ],
)
def test_sizes(size, text):
    assert show.size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.123, "0.12 s"), (12.34, "12.3 s"), (200.2, "3 min 20 s")])
def test_seconds(seconds, text):
    assert show.seconds_text(seconds) == text


def test_an_answer_cannot_steer_a_terminal_and_reaches_a_file_as_it_is():
    said = "一\t二\n\x1b[31m\x07👍🏽\u200d"
    assert show.answer_text(said, Terminal()) == "一\t二\n[31m👍🏽\u200d"
    assert show.answer_text(said, io.StringIO()) == said


def test_a_closed_stream_is_no_terminal():
    stream = io.StringIO()
    stream.close()
    assert not show.is_terminal(stream)
