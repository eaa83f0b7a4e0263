"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loras import write_lora
from tiny import GOLDEN

# Whole processes that import transformers.
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments, home):
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_merge(tmp_path):
    out = run("merge.py", write_lora(tmp_path / "lora", base="/gone"), tmp_path / "out", GOLDEN, home=tmp_path)
    assert "wrote 63 tensors, 5 of them changed" in out and "logits differ by" in out


def test_export(tmp_path):
    out = run("export.py", GOLDEN, tmp_path / "out", home=tmp_path)
    assert "modeling_chatglm.py" in out and "the same ids on 30" in out


def test_they_stay_short():
    for name in ("merge.py", "export.py"):
        assert len((EXAMPLES / name).read_text().splitlines()) <= 40
