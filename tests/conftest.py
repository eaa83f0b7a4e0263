"""Fixtures that every test may ask for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Two workers on two cores: threads of torch's own would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests are imported each by its own path; what they share is found here.
sys.path.insert(0, str(Path(__file__).parent))

from hubserver import HubServer

# The same examples on every machine, and no clock: a busy machine is no failure.
hypothesis.settings.register_profile("uncrate", deadline=None, derandomize=True)
hypothesis.settings.load_profile("uncrate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is quick first, so that a mistake shows in seconds; the order within each half stays."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub of our own on 127.0.0.1 and an empty cache, both named by the environment as a user would."""
    # The client reads the environment when it is imported: once, before this test changes it.
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "UNCRATE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
