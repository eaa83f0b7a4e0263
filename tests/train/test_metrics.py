"""Metrics against numbers known by hand, and the names of GLM-4's script."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import uncrate.train
from uncrate.errors import RecipeError, UsageError
from uncrate.train.answers import read_sampling
from uncrate.train.metrics import OLD_NAMES, measure, rouge_l

TINY = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"


def longest_common(one: str, other: str) -> int:
    """The slow oracle: try every subsequence, by recursion."""
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + longest_common(one[1:], other[1:])
    return max(longest_common(one[1:], other), longest_common(one, other[1:]))


@given(st.text("abc", min_size=1, max_size=7), st.text("abc", min_size=1, max_size=7))
@settings(max_examples=100, deadline=None)
def test_rouge_l_is_the_longest_common_subsequence(one, other):
    assert rouge_l(list(one), list(other)) == pytest.approx(2 * longest_common(one, other) / (len(one) + len(other)))


def test_right_answers_are_100_and_wrong_ones_0():
    perfect = measure(["两个数字", "a red seven"], ["两个数字", "a red seven"])
    assert perfect == {"exact": 100.0, "bleu": 100.0, "rouge_l": 100.0}
    assert measure(["一"], ["two words"]) == {"exact": 0.0, "bleu": 0.0, "rouge_l": 0.0}
    assert measure([], []) == {}
    half = measure(["有两个", ""], ["有三个", "x"])
    assert half["exact"] == 0.0 and half["rouge_l"] == pytest.approx(100 * (2 / 3) / 2, abs=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_the_old_numbers_have_the_old_names():
    numbers = measure(["图中有两个数字", "完全不同"], ["图中有两个数字", "什么"], old=True)
    assert set(OLD_NAMES) < set(numbers)
    assert numbers["rouge-l"] == pytest.approx(50.0, abs=1e-3) and 49 < numbers["bleu-4"] <= 60


def test_evaluation_is_greedy_unless_it_samples():
    assert read_sampling({}, 7).greedy and read_sampling({}, 7).max_new_tokens == 7
    assert read_sampling({"max_new_tokens": 3, "temperature": 0.5}, 7).greedy
    drawn = read_sampling({"do_sample": True, "temperature": 0.5, "top_p": 0.8}, 7)
    assert not drawn.greedy and drawn.temperature == 0.5 and drawn.top_p == 0.8
    for bad in ({"num_beams": 2}, {"typical_p": 0.3}, {"do_sample": True, "top_p": 3.0}):
        with pytest.raises(RecipeError):
            read_sampling(bad, 7)


# PEFT asks a transformers model by a name that transformers deprecated.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_the_names_of_the_old_script(data, capsys):
    from peft import LoraConfig

    tokenizer, model = uncrate.train.load_tokenizer_and_model(
        str(TINY), LoraConfig(r=4, target_modules=["query_key_value"], task_type="CAUSAL_LM"), device="cpu"
    )
    assert "trainable params: 3,840" in capsys.readouterr().out
    assert next(model.parameters()).dtype.itemsize == 2 and not model.config.use_cache
    manager = uncrate.train.DataManager(data, uncrate.train.DataConfig(train_file="train.jsonl", val_file="dev.jsonl"))
    limits = {"tokenizer": tokenizer, "max_input_length": 64, "max_output_length": 32}
    train = manager.get_dataset("train", functools.partial(uncrate.train.process_batch, **limits), batched=True)
    assert len(train) == 20 and set(train[0]) == {"input_ids", "attention_mask", "position_ids", "labels", "images"}
    assert len(train[0]["input_ids"]) == len(train[0]["labels"]) and len(train[:3]) == 3
    pairs = manager.get_dataset("validation", functools.partial(uncrate.train.process_batch_eval, **limits))
    assert len(list(pairs)) == 3 and pairs[1]["output_ids"][-1] == tokenizer.convert_tokens_to_ids("<|user|>")
    assert manager.get_dataset("test", None) is None
    with pytest.raises(UsageError):
        manager.get_dataset("train", batched=False)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        uncrate.train.other  # noqa: B018


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_compute_metrics_takes_padded_ids():
    from uncrate.models.chatglm.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(TINY)
    ids = tokenizer.encode_text("two words")
    padded = np.array([[*ids, -100, -100]])
    assert uncrate.train.compute_metrics((padded, padded), tokenizer)["exact"] == 100.0
