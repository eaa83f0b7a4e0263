"""The golden checkpoint, and an empty home for locks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
PARTS = ("*.json", "*.safetensors", "tokenizer.model")


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN_FOLDER


@pytest.fixture(scope="session")
def expected() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN_FOLDER / "expected.safetensors")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the golden checkpoint that a test may change."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for part in PARTS:
        for file in GOLDEN_FOLDER.glob(part):
            if file.name not in ("cases.json", "expected.safetensors"):
                shutil.copy(file, folder)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's uncrate folder is empty: nothing is approved."""
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def inputs(expected: dict[str, torch.Tensor], case: str) -> dict[str, torch.Tensor]:
    names = ("input_ids", "images", "attention_mask", "position_ids")
    return {name: expected[f"{case}.{name}"] for name in names if f"{case}.{name}" in expected}


@pytest.fixture(scope="session")
def one(expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs of the golden case with one picture."""
    return inputs(expected, "one")
