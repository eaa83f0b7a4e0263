"""Labels and evaluation pairs: what is trained, what is cut, and the two old faults on request."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uncrate.errors import DataError
from uncrate.models.chatglm.tokenizer import load_tokenizer
from uncrate.train.rows import IGNORED, Limits, evaluation_pairs, training_row
from uncrate.train.view import marked

TINY = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
WIDE = Limits(max_input=500, max_output=500)
CHAT = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "How many?", "image": "x.png"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "And red?"},
    {"role": "assistant", "metadata": "count", "content": "{}"},
    {"role": "observation", "content": "1"},
    {"role": "assistant", "content": "one"},
]
HEAD = "[gMASK]<sop><|system|>\nbe short<|user|>\n<|begin_of_image|><|endoftext|><|end_of_image|>How many?"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


def shown(tokenizer, row):
    return marked(tokenizer, row.ids, row.labels)


def test_answers_and_their_ends_are_trained_and_roles_are_not(tokenizer):
    row = training_row(tokenizer, CHAT, WIDE)
    assert shown(tokenizer, row) == (
        HEAD
        + "<|assistant|>⟦\ntwo<|user|>⟧\nAnd red?<|assistant|>⟦count\n{}<|observation|>⟧\n1<|assistant|>⟦\none<|user|>⟧"
    )
    assert row.cut == 0 and row.image == "x.png"
    assert all(label in (IGNORED, token) for token, label in zip(row.ids, row.labels, strict=True))


def test_the_old_labels_train_the_role_and_never_the_end(tokenizer):
    row = training_row(tokenizer, CHAT, WIDE, labels="glm4-2024")
    assert shown(tokenizer, row) == (
        HEAD
        + "⟦<|assistant|>\ntwo⟧<|user|>\nAnd red?⟦<|assistant|>count\n{}⟧<|observation|>\n1⟦<|assistant|>\none⟧<|user|>"
    )


def test_combine_trains_the_last_answer_only(tokenizer):
    assert shown(tokenizer, training_row(tokenizer, CHAT, WIDE, combine=True)).endswith("1<|assistant|>⟦\none<|user|>⟧")
    assert shown(tokenizer, training_row(tokenizer, CHAT, WIDE, combine=True)).count("⟦") == 1


def test_long_rows_are_cut_on_the_right(tokenizer):
    whole = training_row(tokenizer, CHAT, WIDE)
    first = whole.labels.index(next(label for label in whole.labels if label != IGNORED))
    row = training_row(tokenizer, CHAT, Limits(max_input=first, max_output=3))
    assert row.ids == whole.ids[: first + 3] and row.labels == whole.labels[: first + 3]
    assert row.cut == len(whole.ids) - first - 3


def test_a_cut_that_would_leave_no_label_takes_the_oldest_text_instead(tokenizer):
    chat = [
        {"role": "user", "content": "a" * 100 + " last words", "image": "x.png"},
        {"role": "assistant", "content": "yes"},
    ]
    row = training_row(tokenizer, chat, Limits(max_input=20, max_output=10))
    text = shown(tokenizer, row)
    assert text.startswith("[gMASK]<sop><|user|>\n<|begin_of_image|><|endoftext|><|end_of_image|>")
    assert text.endswith("last words<|assistant|>⟦\nyes<|user|>⟧")
    assert len(row.ids) == 30 and row.image == "x.png"


def test_a_cut_never_leaves_half_a_picture(tokenizer):
    late = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "see", "image": "x.png"},
        {"role": "assistant", "content": "I do"},
    ]
    whole = training_row(tokenizer, late, WIDE)
    begin = whole.ids.index(tokenizer.special("<|begin_of_image|>"))
    for limit in range(10, len(whole.ids) + 1):
        row = training_row(tokenizer, late, Limits(max_input=limit - 5, max_output=5))
        pictures = sum(token == tokenizer.special("<|begin_of_image|>") for token in row.ids)
        ends = sum(token == tokenizer.special("<|end_of_image|>") for token in row.ids)
        assert pictures == ends == (row.image is not None), limit
        assert row.trained and len(row.ids) <= limit
        assert (row.image is not None) == (limit >= begin + 3)


def test_no_room_at_all_is_an_error(tokenizer):
    with pytest.raises(DataError) as caught:
        training_row(tokenizer, CHAT, Limits(max_input=3, max_output=2))
    assert "tokens hold no question and answer" in str(caught.value)


@given(
    st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=6),
    st.integers(12, 60),
    st.integers(1, 20),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_every_row_fits_has_a_label_and_whole_pictures(tokenizer, texts, max_input, max_output, pictured):
    chat = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts[: len(texts) // 2 * 2])
    ]
    if pictured:
        chat[0]["image"] = "x.png"
    limits = Limits(max_input=max_input, max_output=max_output)
    row = training_row(tokenizer, chat, limits)
    assert len(row.ids) == len(row.labels) <= limits.row and row.trained
    assert (row.image is not None) == pictured
    for pair in evaluation_pairs(tokenizer, chat, limits):
        assert len(pair.prompt) <= max_input and 0 < len(pair.answer) <= max_output
        assert pair.prompt[-1] == tokenizer.special("<|assistant|>")
        assert sum(token == tokenizer.special("<|begin_of_image|>") for token in pair.prompt) == (
            pair.image is not None
        )


def test_pairs_ask_for_each_answer_and_hold_none_of_it(tokenizer):
    pairs = evaluation_pairs(tokenizer, CHAT, WIDE)
    assert [tokenizer.describe(pair.answer) for pair in pairs] == [
        "\ntwo<|user|>", "count\n{}<|observation|>", "\none<|user|>",
    ]  # fmt: skip
    assert tokenizer.describe(pairs[0].prompt) == HEAD + "<|assistant|>"
    assert "one" not in tokenizer.describe(pairs[-1].prompt)


def test_the_old_pairs_leak_and_ask_for_the_prompt(tokenizer):
    pairs = evaluation_pairs(tokenizer, CHAT[1:3], WIDE, style="glm4-2024")
    prompt, leak = pairs
    assert prompt.answer[:-1] == prompt.prompt
    assert tokenizer.describe(leak.answer) == "\ntwo<|user|>" and "two" in tokenizer.describe(leak.prompt)
