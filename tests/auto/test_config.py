"""AutoConfig, beside transformers where transformers still does it."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from uncrate.auto import AutoConfig
from uncrate.errors import CheckpointError, ConfigError, UsageError
from uncrate.models.chatglm.hf import ChatGLMConfig


@pytest.fixture
def llama(tmp_path):
    folder = tmp_path / "llama"
    transformers.LlamaConfig(hidden_size=16, num_attention_heads=2).save_pretrained(folder)
    return folder


def test_a_chatglm(golden):
    config = AutoConfig.from_pretrained(golden)
    assert isinstance(config, transformers.PretrainedConfig) and isinstance(config, ChatGLMConfig)
    assert config.num_layers == 3 and config.dtype == torch.float32
    assert config.name_or_path == str(golden)


@pytest.mark.parametrize("given", [{}, {"num_labels": 5}, {"hidden_size": 32, "output_hidden_states": True}], ids=str)
def test_attributes_are_set_and_the_rest_comes_back_as_in_transformers(llama, given):
    unknown = {"foo": 1, "bar": None}
    theirs, left = transformers.AutoConfig.from_pretrained(llama, **given, **unknown, return_unused_kwargs=True)
    ours, unused = AutoConfig.from_pretrained(llama, **given, **unknown, return_unused_kwargs=True)
    assert unused == left == unknown
    assert type(ours) is type(theirs) and ours.to_dict() == theirs.to_dict()


def test_attributes_of_a_chatglm(golden):
    config, unused = AutoConfig.from_pretrained(
        golden, num_layers=2, vocab_size=800, pre_seq_len=4, num_labels=7, foo=1, to_dict=3, return_unused_kwargs=True
    )
    assert (config.num_hidden_layers, config.padded_vocab_size, config.pre_seq_len, config.num_labels) == (2, 800, 4, 7)
    assert unused == {"foo": 1, "to_dict": 3}
    assert config.typed().num_layers == 2


def test_what_is_unknown_is_an_error_unless_it_is_asked_back(golden):
    with pytest.raises(UsageError, match="num_layer is not known; num_layers is"):
        AutoConfig.from_pretrained(golden, num_layer=2)


def test_a_missing_model_type_is_guessed_from_the_path_by_the_longest_name(llama, tmp_path):
    values = json.loads((llama / "config.json").read_text())
    del values["model_type"]
    folder = tmp_path / "my-distilbert-and-t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="Should have a `model_type`"):  # transformers 5 guesses no more
        transformers.AutoConfig.from_pretrained(folder)
    with pytest.warns(UserWarning, match="'distilbert' is guessed from the path"):
        ours = AutoConfig.from_pretrained(folder)
    assert type(ours) is transformers.DistilBertConfig


def test_no_model_type_and_nothing_to_guess_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text('{"a": 1}')
    with pytest.raises(ConfigError, match="no model_type, and no known one is part of the path"):
        AutoConfig.from_pretrained("./x")


def test_an_unknown_model_type_is_named_with_what_to_do(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "surely_unknown"}')
    with pytest.raises(ConfigError, match=r"'surely_unknown' is known to neither(?s:.)*next: uncrate plan"):
        AutoConfig.from_pretrained(tmp_path)


def test_no_config_at_all(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_folder_needs_its_dot_and_the_error_says_so(monkeypatch, golden, copied):
    monkeypatch.chdir(copied.parent)
    with pytest.raises(UsageError, match=r"a folder named copied is here(?s:.)*write ./copied"):
        AutoConfig.from_pretrained("copied")
    assert AutoConfig.from_pretrained("./copied").to_diff_dict() == AutoConfig.from_pretrained(golden).to_diff_dict()


def test_the_path_of_the_file_itself_is_its_folders(golden, llama):
    assert AutoConfig.from_pretrained(golden / "config.json").to_dict() == AutoConfig.from_pretrained(golden).to_dict()
    with pytest.raises(UsageError, match=r"generation_config\.json is a file"):
        AutoConfig.from_pretrained(golden / "generation_config.json")


def test_it_is_not_built_itself():
    with pytest.raises(UsageError, match="not built itself"):
        AutoConfig()
