"""A checkpoint's own classes through the drop-in names: the lock decides, `trust_remote_code` does not."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from uncrate.auto import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from uncrate.checkpoint.code import read_code
from uncrate.checkpoint.manifest import read_manifest
from uncrate.checkpoint.source import parse_source
from uncrate.errors import NotApproved, TokenizerError
from uncrate.trust.approve import approve

CONFIGURATION = """
from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own"

    def __init__(self, width=4, **kwargs):
        self.width = width
        super().__init__(**kwargs)
"""
MODELING = """
from pathlib import Path

import torch
from transformers import PreTrainedModel

from .configuration_own import OwnConfig

Path(__MARKER__).write_text("ran")


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(config.width, config.width)
        self.post_init()

    def forward(self, x):
        return self.layer(x)


class OwnHead(OwnModel):
    def forward(self, x):
        return -self.layer(x)
"""
TOKENIZATION = """
from pathlib import Path

from transformers import PreTrainedTokenizer

Path(__MARKER__).write_text("ran")


class OwnTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "vocab.txt"}

    def __init__(self, vocab_file, **kwargs):
        self.words = Path(vocab_file).read_text().split()
        super().__init__(**kwargs)

    vocab_size = property(lambda self: len(self.words))

    def get_vocab(self):
        return {word: index for index, word in enumerate(self.words)}

    def _tokenize(self, text, **kwargs):
        return text.split()

    def _convert_token_to_id(self, token):
        return self.words.index(token)
"""
CONFIG = {
    "model_type": "own",
    "width": 4,
    "auto_map": {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModel": "modeling_own.OwnModel",
        "AutoModelForCausalLM": "modeling_own.OwnHead",
    },
}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING.replace("__MARKER__", repr(str(tmp_path / "marker"))))
    (folder / "tokenization_own.py").write_text(TOKENIZATION.replace("__MARKER__", repr(str(tmp_path / "marker"))))
    own = {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}, "tokenizer_class": "OwnTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "vocab.txt").write_text("one two three")
    save_file({"layer.weight": torch.eye(4), "layer.bias": torch.zeros(4)}, folder / "model.safetensors")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return folder


def trust(folder):
    source = parse_source(folder)
    code = read_code(read_manifest(source))
    approve(code, sha=code.closure[:8], source=source)


@pytest.mark.parametrize("load", [AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer])
@pytest.mark.parametrize("given", [None, True, False])
def test_nothing_runs_that_nobody_approved(checkpoint, load, given, tmp_path):
    # Without its own code, there is no tokenizer that transformers could take instead.
    refused = TokenizerError if load is AutoTokenizer and given is False else NotApproved
    with pytest.raises(refused):
        load.from_pretrained(checkpoint, trust_remote_code=given)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("given", [None, True])
def test_approved_code_gives_the_class_that_was_asked_for(checkpoint, given):
    trust(checkpoint)
    x = torch.ones(1, 4)
    config, unused = AutoConfig.from_pretrained(checkpoint, trust_remote_code=given, foo=1, return_unused_kwargs=True)
    assert type(config).__name__ == "OwnConfig" and config.width == 4 and unused == {"foo": 1}
    plain = AutoModel.from_pretrained(checkpoint, trust_remote_code=given)
    head = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=given)
    assert (type(plain).__name__, type(head).__name__) == ("OwnModel", "OwnHead")
    assert torch.equal(plain(x), x) and torch.equal(head(x), -x)
    fresh = AutoModelForCausalLM.from_config(config)
    assert type(fresh) is type(head)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=given)
    assert type(tokenizer).__name__ == "OwnTokenizer" and tokenizer("two one")["input_ids"] == [1, 0]


def test_false_keeps_even_approved_code_from_running(checkpoint, tmp_path):
    trust(checkpoint)
    with pytest.raises(NotApproved, match="trust_remote_code=False"):
        AutoModel.from_pretrained(checkpoint, trust_remote_code=False)
    assert not (tmp_path / "marker").exists()


def test_changed_code_is_not_the_approved_code(checkpoint, tmp_path):
    trust(checkpoint)
    (checkpoint / "modeling_own.py").write_text((checkpoint / "modeling_own.py").read_text() + "\n# more\n")
    with pytest.raises(NotApproved):
        AutoModel.from_pretrained(checkpoint)
    assert not (tmp_path / "marker").exists()


def test_a_native_checkpoint_needs_no_code(copied, tmp_path):
    (copied / "modeling_chatglm.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    (copied / "tokenization_chatglm.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    for given in (None, True, False):
        AutoModelForCausalLM.from_pretrained(copied, trust_remote_code=given)
        AutoTokenizer.from_pretrained(copied, trust_remote_code=given)
    assert not (tmp_path / "marker").exists()
