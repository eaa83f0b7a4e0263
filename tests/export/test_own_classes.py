"""A user's own classes: registered, saved as with transformers, opened by stock transformers and, approved, by us."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import GOLDEN

import uncrate
from uncrate.checkpoint.code import read_code
from uncrate.errors import NotApproved

# Whole processes that import transformers.
pytestmark = pytest.mark.slow

MODEL = """
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .helper import scale


class MyConfig(PretrainedConfig):
    model_type = "mine"

    def __init__(self, width=8, words=32, **kwargs):
        self.width = width
        self.words = words
        super().__init__(**kwargs)


class MyModel(PreTrainedModel):
    config_class = MyConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.words, config.width)
        self.head = nn.Linear(config.width, config.words)
        self.post_init()

    def forward(self, input_ids, **kwargs):
        return CausalLMOutput(logits=self.head(scale(self.embed(input_ids))))
"""
HELPER = "def scale(x):\n    return x * 2\n"
IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A folder that plain transformers saved of registered classes, and the model's logits."""
    package = f"own_{abs(hash(str(tmp_path)))}"
    folder = tmp_path / "code" / package
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "my_model.py").write_text(MODEL)
    (folder / "helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    module = importlib.import_module(f"{package}.my_model")
    module.MyConfig.register_for_auto_class()
    module.MyModel.register_for_auto_class("AutoModelForCausalLM")
    torch.manual_seed(0)
    model = module.MyModel(module.MyConfig()).eval()
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "saved", model(IDS).logits.detach()


def approve(folder):
    closure = read_code(uncrate.inspect(str(folder))).closure
    uncrate.trust(str(folder), sha=closure)
    return closure


def in_stock(folder, home):
    code = (
        "import sys; sys.modules['uncrate'] = None\n"
        "import torch\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "print(model(torch.tensor([[1, 2, 3]])).logits.tolist())"
    )
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=home, env=environment
    )
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


def test_saved_approved_opened_saved_again(saved, tmp_path):
    from uncrate.auto import AutoModelForCausalLM

    folder, logits = saved
    with pytest.raises(NotApproved):
        AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=True)
    closure = approve(folder)
    model = AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=True)
    assert torch.equal(model(IDS).logits, logits)
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "my_model.py").read_text() == MODEL
    assert (tmp_path / "again" / "helper.py").read_text() == HELPER
    assert read_code(uncrate.inspect(str(tmp_path / "again"))).closure == closure, "approved once is approved here"
    reopened = AutoModelForCausalLM.from_pretrained(str(tmp_path / "again"), trust_remote_code=True)
    assert torch.equal(reopened(IDS).logits, logits)
    torch.testing.assert_close(in_stock(tmp_path / "again", tmp_path), logits)


def test_register_for_auto_class_on_approved_classes(saved, tmp_path):
    from uncrate.auto import AutoModelForCausalLM

    folder, _ = saved
    approve(folder)
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    type(model).register_for_auto_class("AutoModel")
    model.save_pretrained(tmp_path / "again")
    auto_map = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == auto_map["AutoModelForCausalLM"] == "my_model.MyModel"
    assert (tmp_path / "again" / "helper.py").is_file()


def test_open_save_keeps_code_as_well(saved, tmp_path):
    folder, logits = saved
    approve(folder)
    opened = uncrate.open(str(folder))
    assert opened.plan.route == "custom"
    opened.model.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(in_stock(tmp_path / "again", tmp_path), logits)


def test_our_own_classes_registered_need_uncrate_beside_transformers(tmp_path, monkeypatch):
    """register_for_auto_class writes thin files that import uncrate; add_code writes those that do not."""
    import transformers

    from uncrate.auto import AutoModelForCausalLM, AutoTokenizer
    from uncrate.export import add_code

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(str(GOLDEN)), AutoTokenizer.from_pretrained(str(GOLDEN))
    names = {type(model): "AutoModelForCausalLM", type(model.config): "AutoConfig", type(tokenizer): "AutoTokenizer"}
    for cls, name in names.items():
        monkeypatch.setattr(cls, "_auto_class", cls.__dict__.get("_auto_class"), raising=False)
        cls.register_for_auto_class(name)
    for kept in (model, tokenizer):
        kept.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "saved"), trust_remote_code=True)
    assert torch.equal(again(IDS).logits, model(IDS).logits) and type(again).__module__.endswith("hf_model")
    ids = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"), trust_remote_code=True)("你好")[
        "input_ids"
    ]
    assert ids == tokenizer("你好")["input_ids"]
    assert "modeling_chatglm.py" in add_code(tmp_path / "saved")
    torch.testing.assert_close(in_stock(tmp_path / "saved", tmp_path), model(IDS).logits)
