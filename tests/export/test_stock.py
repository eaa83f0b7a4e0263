"""GLM-4V in stock transformers again, by the exported code alone: uncrate cannot be imported there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import GOLDEN

import uncrate
from uncrate import Options
from uncrate.checkpoint.code import read_code
from uncrate.errors import NotApproved
from uncrate.export import export

# Whole processes that import transformers.
pytestmark = pytest.mark.slow

STOCK = Path(__file__).with_name("stock.py")


def run_stock(folder, home, *more):
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, str(STOCK), str(folder), str(GOLDEN), *more],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "glm"
    export(str(GOLDEN), out, shard_size="300KB")
    return out


@pytest.fixture(scope="module")
def stock(folder, tmp_path_factory):
    return run_stock(folder, tmp_path_factory.mktemp("home"))


def test_nothing_of_uncrate_is_there(stock):
    assert stock["uncrate"] == [] and stock["module"].startswith("transformers_modules.")


def test_every_tensor_has_its_place(stock):
    assert set(stock["loading"].values()) == {0}


@pytest.mark.parametrize("case", ["one", "text", "batch"])
def test_golden_logits_and_greedy_tokens(stock, case):
    assert stock[f"{case}.difference"] < 1e-4 and stock[f"{case}.tokens"]


def test_golden_loss_and_gradient(stock):
    assert stock["loss"] < 1e-4 and stock["grad"] < 1e-4


def test_golden_ids_and_pixels(stock):
    assert stock["tokenizer"] == "ChatGLM4Tokenizer"
    assert all(stock["tokenize"]) and all(stock["encode_call"]) and all(stock["chat"]) and len(stock["chat"]) == 7


def test_every_auto_class(stock):
    assert stock["auto_model"] == 0.0
    assert stock["classes"] == [
        "ChatGLMConfig", "ChatGLMForConditionalGeneration", "ChatGLMForSequenceClassification"
    ]  # fmt: skip


def test_what_transformers_saves_opens_again(stock, folder):
    assert stock["saved"] and stock["saved_ids"][:2] == [702, 704]
    again = Path(f"{folder}-again")
    assert (again / "modeling_chatglm.py").is_file() and uncrate.plan(str(again)).problems == ()


def test_without_tiktoken_the_ids_are_the_same(folder, tmp_path):
    stock = run_stock(folder, tmp_path, "without tiktoken")
    assert stock["uncrate"] == [] and all(stock["tokenize"]) and all(stock["encode_call"]) and all(stock["chat"])


def test_uncrate_opens_it_natively_with_the_same_bytes(folder):
    plan = uncrate.plan(str(folder))
    assert plan.route == "native" and plan.problems == () and plan.mapped
    one, two = uncrate.open(str(folder)), uncrate.open(str(GOLDEN))
    messages = [{"role": "user", "image": str(GOLDEN / "image.png"), "content": "hello"}]
    answers = [opened.generate([messages], max_new_tokens=8, temperature=0)[0].tokens for opened in (one, two)]
    assert answers[0] == answers[1]


def test_uncrate_runs_its_code_once_it_is_approved(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotApproved):
        uncrate.open(str(folder), Options(route="custom"))
    uncrate.trust(str(folder), sha=read_code(uncrate.inspect(str(folder))).closure)
    opened = uncrate.open(str(folder), Options(route="custom"))
    assert opened.plan.route == "custom"
    ids = torch.tensor([[702, 704, 707, 10, 11, 708]])
    with torch.inference_mode():
        custom, native = opened.model(ids).logits, uncrate.open(str(folder)).model(ids).logits
    torch.testing.assert_close(custom, native, atol=1e-5, rtol=0)
