"""Choosing tokens: the filters against plain arithmetic, draws against their probabilities, rows against each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uncrate.errors import ConfigError, UncrateError, UsageError
from uncrate.generate.options import DEMO, Sampling, from_generation_config
from uncrate.generate.sample import Sampler, restrict

CPU = torch.device("cpu")


def kept(logits, **options):
    return [
        index for index, value in enumerate(restrict(torch.tensor([logits]), **options)[0].tolist()) if value > -1e30
    ]


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12, unique=True),
    st.floats(0.01, 1.0),
    st.integers(0, 14),
)
@settings(max_examples=200, deadline=None)
def test_filters_keep_what_they_say(logits, top_p, top_k):
    order = sorted(range(len(logits)), key=lambda index: -logits[index])
    assert kept(logits, top_k=top_k) == sorted(order[: top_k or None])
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()
    total, wanted = 0.0, []
    for index in order:
        if abs(total - top_p) < 1e-5:  # too close to the edge for float32 to settle
            return
        if total >= top_p:
            break
        wanted.append(index)
        total += probabilities[index]
    assert kept(logits, top_p=top_p) == sorted(wanted)


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(4000, 3)
    tokens = Sampler(Sampling(temperature=1.0, seed=1), None, 4000, CPU).choose(logits)
    shares = torch.bincount(tokens, minlength=3) / 4000
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.03, rtol=0.0)


def test_a_seed_repeats_and_rows_do_not_depend_on_neighbours():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(temperature=1.0, seed=7)
    first = Sampler(sampling, None, 3, CPU).choose(logits)
    assert first.tolist() == Sampler(sampling, None, 3, CPU).choose(logits).tolist()
    assert first[0] == Sampler(sampling, None, 1, CPU).choose(logits[:1])[0]
    dropped = Sampler(sampling, None, 3, CPU)
    dropped.keep_rows(torch.tensor([2]))
    assert dropped.choose(logits[2:])[0] == first[2]


def test_repetition_penalty_weakens_what_was_seen():
    ids, mask = torch.tensor([[0, 3, 3]]), torch.tensor([[0, 1, 1]])
    seen = Sampler.words_seen(ids, mask, 5)
    assert seen.tolist() == [[False, False, False, True, False]]  # padding is not seen
    sampler = Sampler(Sampling(repetition_penalty=2.0), seen, 1, CPU)
    assert sampler.choose(torch.tensor([[0.0, 1.1, 0.0, 2.0, -3.0]])).tolist() == [1]
    assert sampler.choose(torch.tensor([[0.0, 1.1, 0.9, 2.0, -3.0]])).tolist() == [3]  # 1.1/2 and 2/2 against 0.9


def test_generation_config_is_read_as_transformers_reads_it():
    assert from_generation_config(None).greedy
    assert from_generation_config({"eos_token_id": 1, "temperature": 0.8}).greedy
    assert from_generation_config({"do_sample": True, "temperature": 0.8, "top_p": 0.8}) == Sampling(
        temperature=0.8, top_p=0.8
    )
    assert from_generation_config({"eos_token_id": 1}, DEMO) == DEMO
    assert from_generation_config({"do_sample": False}, DEMO).greedy
    assert from_generation_config({"do_sample": True, "temperature": 0.9}, DEMO).temperature == 0.9


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}, {"seed": -1}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.0, seed=1), Sampling(top_p=0.5, temperature=2)]
)
@pytest.mark.parametrize(("dtype", "part"), [(torch.float16, "65,504"), (torch.float32, "broken")])
def test_an_answer_is_never_drawn_from_nan(sampling, dtype, part):
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, float("nan"), 2.0]], dtype=dtype)
    with pytest.raises(UncrateError, match=f"NaN in place of an answer\n  why: .*{part}"):
        Sampler(sampling, None, 2, CPU).choose(logits)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_new_tokens", "5"),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("top_k", 2.0),
        ("seed", "x"),
        ("temperature", "hot"),
        ("top_p", None),
    ],
)
def test_options_of_a_wrong_type(option, value):
    with pytest.raises(UsageError, match=f"{option} should be a (whole )?number, is "):
        Sampling(**{option: value})


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [("top_p", 7, "at most 1, is 7"), ("temperature", "hot", "a number"), ("top_k", 1.5, "a whole number")],
)
def test_a_generation_config_that_nobody_can_draw_by(key, value, part):
    with pytest.raises(ConfigError, match=f"generation_config.json: {key} should be .*{part}"):
        from_generation_config({"do_sample": True, key: value})
