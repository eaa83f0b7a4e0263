"""How an answer is drawn: flags before the checkpoint's own settings before GLM-4's old demo's."""

from __future__ import annotations

import pytest

from uncrate.cli.sampling import Flags
from uncrate.errors import UsageError
from uncrate.generate.options import Sampling

DEMO = Sampling(max_new_tokens=1024, temperature=0.6, top_k=0, top_p=0.8, repetition_penalty=1.2)


def test_the_old_demo_where_nobody_says_anything():
    assert Flags().choose(None) == (DEMO, None)
    assert Flags().choose({"eos_token_id": [1]}) == (DEMO, None)


def test_the_checkpoint_comes_before_the_demo_and_flags_before_both():
    config = {"do_sample": True, "temperature": 0.9, "top_p": 0.7}
    chosen, remark = Flags(top_p=0.5, max_tokens=7, seed=3).choose(config)
    assert (chosen.temperature, chosen.top_p, chosen.max_new_tokens, chosen.seed, remark) == (0.9, 0.5, 7, 3, None)


def test_greedy_switches_all_off():
    config = {"do_sample": True, "temperature": 0.9, "top_k": 5, "repetition_penalty": 1.3}
    chosen, _ = Flags(greedy=True).choose(config)
    assert (chosen.temperature, chosen.top_k, chosen.top_p, chosen.repetition_penalty) == (0.0, 0, 1.0, 1.0)
    assert Flags(greedy=True, repetition_penalty=1.1).choose(config)[0].repetition_penalty == 1.1


@pytest.mark.parametrize("clash", [{"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 5}])
def test_greedy_and_drawing_contradict_each_other(clash):
    with pytest.raises(UsageError, match="--greedy draws nothing, so --"):
        Flags(greedy=True, **clash)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_tokens": 0}, {"seed": -1}]
)
def test_values_out_of_range_are_told_before_anything_is_opened(wrong):
    with pytest.raises(UsageError, match="should be"):
        Flags(**wrong)


def test_a_flag_that_does_nothing_is_remarked_upon():
    chosen, remark = Flags(top_p=0.5).choose({"do_sample": False})
    assert chosen.greedy and remark is not None and remark.startswith("--top-p does nothing here")
    assert Flags(top_p=0.5, temperature=0.7).choose({"do_sample": False})[1] is None
