"""A user with an empty home and a project folder, and small checkpoints with code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from checkpoint.checkpoints import write

from uncrate.checkpoint.code import Code, read_code
from uncrate.checkpoint.manifest import read_manifest
from uncrate.checkpoint.source import Source, parse_source

CONFIG = {"auto_map": {"AutoModel": "modeling_x.XModel"}}
SOURCE = "from .helper import x\nclass XModel: pass\nclass Other: pass\n"
FILES: Mapping[str, Any] = {"config.json": CONFIG, "modeling_x.py": SOURCE, "helper.py": "x = 1\n"}

Make = Callable[..., tuple[Code, Source]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's uncrate folder, empty; the working directory is an empty project."""
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNCRATE_USER", "ada")
    (tmp_path / "project" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "inner")
    os.umask(0o022)
    return tmp_path / "home"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a checkpoint (FILES with changes; None leaves a file out) and return its code and source."""

    def build(name: str = "model", **changes: Any) -> tuple[Code, Source]:
        files = {**FILES, **{key.replace("__", "."): value for key, value in changes.items()}}
        folder = tmp_path / name
        write(folder, {key: value for key, value in files.items() if value is not None})
        source = parse_source(folder)
        return read_code(read_manifest(source)), source

    return build
