"""Two ways to run a command: in this process, and as a process of its own, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from uncrate.cli.main import main

GOLDEN = Path(__file__).parent.parent / "golden" / "data" / "glm4v-tiny"
SOURCE = Path(__file__).parent.parent.parent / "src"


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def golden() -> str:
    """WHERE of the golden checkpoint."""
    return str(GOLDEN)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run one command line in this process."""

    def run(*arguments: str, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def process_environment(tmp_path: Path) -> dict[str, str]:
    """What a process is started with: this source, an empty home, no hub beyond a closed port."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        "HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }
    return environment


@pytest.fixture
def process(process_environment: dict[str, str], tmp_path: Path) -> Callable[..., Result]:
    """Run one command line as a process; `environment` is added to the usual one."""

    def run(*arguments: str, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "uncrate", *arguments],
            input=stdin,
            capture_output=True,
            env=process_environment | (environment or {}),
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    return run
