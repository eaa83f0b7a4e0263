"""The READMEs' sessions are real: each command shown is run, and prints what is shown."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from uncrate import devices
from uncrate.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "README.zh.md")
# Figures that differ from run to run: seconds, and the paths of whoever runs it.
VARYING = re.compile(r"\d+\.\d+ s\b|\d+ min \d+ s")


def blocks(page: str, language: str) -> list[str]:
    """The fenced code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def sessions(page: str) -> list[tuple[str, str]]:
    """Every command of a page's `console` blocks with the output that is shown under it."""
    found = []
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append((command, shown))
    return found


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the clone, on the CPU, as the READMEs do."""
    cpu = devices.read_devices()[-1:]
    monkeypatch.setattr(devices, "read_devices", lambda: cpu)
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("UNCRATE_HOME", raising=False)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("on_a_cpu")
def test_sessions_are_real(page, capsys):
    shown_sessions = sessions(page)
    assert shown_sessions, "a README shows a session before it explains"
    for command, shown in shown_sessions:
        program, *arguments = shlex.split(command)
        assert program == "uncrate"
        assert main(arguments) == 0, command
        printed = capsys.readouterr().out
        assert VARYING.sub("... s", printed.strip()) == VARYING.sub("... s", shown.strip()), command


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("on_a_cpu")
def test_the_python_example_runs(page, capsys):
    (example,) = blocks(page, "python")
    exec(compile(example, page, "exec"), {})
    answers = capsys.readouterr().out
    first, streamed = answers.split("\n", 1)
    assert first and first == streamed.strip()


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_the_measured_one(page):
    tool = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))
    (shown,) = tool["TABLE"].findall((ROOT / page).read_text(encoding="utf-8"))
    assert shown == tool["table"](tool["PAGES"].index(page)), "run: python benchmarks/readme.py"
