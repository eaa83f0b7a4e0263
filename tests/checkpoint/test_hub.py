"""The hub, with the real client against a hub of our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hubserver import HubServer

from uncrate.checkpoint.files import open_files
from uncrate.checkpoint.manifest import read_manifest
from uncrate.checkpoint.source import HubSource
from uncrate.errors import CheckpointError, HubError, SourceError, UsageError

GOLDEN = Path(__file__).parent.parent / "golden/data/glm4v-tiny"
REPO = "owner/glm4v-tiny"


@pytest.fixture
def golden(hub: HubServer) -> str:
    """The golden checkpoint as a repository; returns its commit."""
    return hub.commit(REPO, {path.name: path.read_bytes() for path in GOLDEN.iterdir()})


def test_a_hub_manifest_equals_the_folders(hub: HubServer, golden: str) -> None:
    manifest = read_manifest(REPO)
    local = read_manifest(GOLDEN)
    assert manifest.commit == golden
    assert manifest.weights == local.weights
    assert manifest.config == local.config
    assert manifest.json_files == local.json_files
    assert manifest.files == local.files
    assert str(manifest.source) == REPO


def test_inspect_downloads_no_weights(hub: HubServer, golden: str) -> None:
    read_manifest(REPO)
    for request in hub.requests:
        if request.path.endswith(".safetensors"):
            assert request.range is not None, request
            assert request.status == 206
    # A header and the first read, but never the file, once it is larger than the first read.
    for path in GOLDEN.glob("model-*.safetensors"):
        assert 0 < hub.sent(path.name) <= 128 << 10 < path.stat().st_size


def test_the_commit_is_pinned_once(hub: HubServer, golden: str) -> None:
    manifest = read_manifest(REPO)
    hub.commit(REPO, {"tokenizer.model": b"changed", "config.json": b"{}"})
    files = manifest.open()
    assert files.commit == golden
    assert files.read("tokenizer.model", 1 << 20) == (GOLDEN / "tokenizer.model").read_bytes()
    assert files.local("model-00001-of-00004.safetensors").read_bytes() == (
        GOLDEN / "model-00001-of-00004.safetensors"
    ).read_bytes()
    assert read_manifest(REPO).commit != golden
    assert read_manifest(f"{REPO}@{golden}").weights == manifest.weights
