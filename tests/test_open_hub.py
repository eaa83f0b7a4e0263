"""Opening from a hub: everything at one commit, weights fetched once with a line for each, offline from the cache."""

from __future__ import annotations

import logging

import pytest
from tiny import GOLDEN

import uncrate
from uncrate.errors import HubError

NAMES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "model.safetensors.index.json",
)
MESSAGES = [{"role": "user", "image": str(GOLDEN / "image.png"), "content": "描述这张图片"}]


def golden_files():
    paths = [GOLDEN / name for name in NAMES] + sorted(GOLDEN.glob("model-*.safetensors"))
    return {path.name: path.read_bytes() for path in paths}


def test_open_from_a_hub_equals_the_folder(hub, caplog, monkeypatch):
    files = golden_files()
    first = hub.commit("someone/tiny-glm4v", files)
    plan = uncrate.plan("someone/tiny-glm4v")
    assert plan.manifest.commit == first and plan.problems == ()
    hub.commit("someone/tiny-glm4v", {"config.json": b"{}"})  # main moves on between the plan and the load
    from uncrate.open import carry_out

    with caplog.at_level(logging.INFO, logger="uncrate"):
        opened = carry_out(plan)
    assert sum("downloading" in line for line in caplog.messages) == 4
    wanted = uncrate.open(str(GOLDEN)).generate([MESSAGES], max_new_tokens=8, temperature=0)[0]
    assert opened.generate([MESSAGES], max_new_tokens=8, temperature=0)[0].tokens == wanted.tokens
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = uncrate.open(f"someone/tiny-glm4v@{first}")
    assert again.plan.manifest.commit == first
    with pytest.raises(HubError):
        uncrate.open("someone/never-seen")
