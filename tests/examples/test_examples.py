"""Every example fits on a page and runs as a user runs it."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "data" / "glm4v-tiny"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run an example as a script, in an empty folder; returns what it printed."""

    def as_script(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return str(capsys.readouterr().out)

    return as_script


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_is_at_most_forty_lines_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert text.startswith('"""') and re.search(rf"python (examples/)?{re.escape(path.name)}", text)


def test_open_and_ask(run):
    out = run("open_and_ask.py", str(GOLDEN), str(GOLDEN / "image.png"), "描述这张图片")
    assert re.search(r"route\s+native", out) and "描述这张图片" in out
    assert re.search(r"\(\d+ tokens, (stop|length)\)", out)


def test_drop_in_auto(run):
    assert run("drop_in_auto.py", str(GOLDEN), str(GOLDEN / "image.png")).strip()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")
def test_lora_adapter(run, tmp_path):
    out = run("lora_adapter.py", str(GOLDEN), "./adapter")
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", out)]
    assert "trainable params" in out and losses[-2] < losses[0]
    assert losses[-1] < losses[-2], "the adapter that was opened again is the trained one"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
