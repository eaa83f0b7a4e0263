"""The transformers configuration keeps every key of config.json, and the native config is read from it."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
from transformers import DynamicCache, GenerationConfig, PretrainedConfig

from uncrate.errors import ConfigError
from uncrate.families.chatglm import read_config
from uncrate.models.chatglm.hf import ChatGLMConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"


@pytest.fixture
def stored():
    return json.loads((GOLDEN / "config.json").read_text())


def saved(config, folder):
    config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def test_a_round_trip_keeps_every_key_and_value(stored, tmp_path):
    again = saved(ChatGLMConfig(**copy.deepcopy(stored)), tmp_path)
    assert again.keys() == stored.keys()
    assert {key for key in stored if again[key] != stored[key]} <= {"transformers_version"}
    assert ChatGLMConfig.from_pretrained(tmp_path).typed() == read_config(stored)


@pytest.mark.parametrize(
    "extra",
    [
        {"nobody_knows": {"nested": [1, None]}},
        {"temperature": 0.7, "max_length": 99, "num_beams": 2},
        {"output_hidden_states": False, "return_dict": True, "num_labels": 2, "chunk_size_feed_forward": 0},
        {"dtype": "float32"},
        {"use_cache": False},
        {"vocab_size": 5, "num_hidden_layers": 3},
        {"pre_seq_len": None, "classifier_dropout": None, "rope_ratio": 500},
    ],
)
def test_keys_that_transformers_drops_or_renames_survive(stored, extra, tmp_path):
    values = {**stored, **extra}
    again = saved(ChatGLMConfig(**copy.deepcopy(values)), tmp_path)
    assert again.keys() == values.keys()
    assert {key: again[key] for key in extra} == extra
    again = saved(ChatGLMConfig.from_pretrained(tmp_path), tmp_path)
    assert again.keys() == values.keys()


def test_generation_values_in_config_json_reach_generation(stored):
    generation = GenerationConfig.from_model_config(ChatGLMConfig(**stored, max_length=99))
    assert generation.max_length == 99
    assert generation.eos_token_id == stored["eos_token_id"]


def test_the_checkpoints_own_name_of_a_size_decides(stored):
    config = ChatGLMConfig(**{**stored, "vocab_size": 5})
    assert config.vocab_size == config.padded_vocab_size == stored["padded_vocab_size"]


def test_transformers_names_are_the_same_facts(stored):
    config = ChatGLMConfig(**stored)
    assert isinstance(config, PretrainedConfig)
    assert (config.num_hidden_layers, config.vocab_size, config.head_dim) == (3, 768, 16)
    assert config.num_key_value_heads == 2
    assert len(DynamicCache(config=config).layers) == 3
    config.vocab_size = 800
    assert config.typed().padded_vocab_size == 800


def test_a_missing_size_is_an_error_with_its_name():
    with pytest.raises(ConfigError, match=r"/num_layers: missing(?s:.)*/hidden_size: missing"):
        ChatGLMConfig().typed()


def test_it_copies_and_pickles(stored):
    config = ChatGLMConfig(**stored, other=1)
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config and again.to_diff_dict() == config.to_diff_dict()
