"""The cached loop against the naive one that computes everything again for every token."""

from __future__ import annotations

import pytest
import torch
from tiny import GOLDEN, golden_config, golden_tensors, write_checkpoint

import uncrate
from uncrate.errors import DoesNotFit, MessageError, PictureError, TokenizerError, UsageError

IMAGE, IMAGE2 = str(GOLDEN / "image.png"), str(GOLDEN / "image2.png")
CHATS = [
    [{"role": "user", "image": IMAGE, "content": "描述这张图片"}],
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "image": IMAGE2, "content": "What is in the picture, and why?"}],
]


@pytest.fixture(scope="module")
def opened():
    return uncrate.open(str(GOLDEN))


def naive(opened, messages, count):
    """Greedy without a cache: the whole sequence again for every token."""
    inputs = opened.prepare([messages])
    ids, images = inputs["input_ids"], inputs.get("images")
    tokens = []
    with torch.inference_mode():
        while len(tokens) < count:
            token = opened.model(ids, images=images).logits[0, -1].argmax().item()
            tokens.append(token)
            if token in opened.stop_ids:
                break
            ids = torch.cat((ids, torch.tensor([[token]])), dim=1)
    return tuple(tokens)


def text_of(opened, tokens, stops):
    kept = [token for token in tokens if token not in stops]
    return opened.tokenizer.decode(kept, skip_special_tokens=True).removeprefix("\n")


def test_batches_equal_the_naive_loop(opened):
    answers = opened.generate(CHATS, max_new_tokens=20, temperature=0)
    for answer, messages in zip(answers, CHATS, strict=True):
        assert answer.tokens == naive(opened, messages, 20)
        assert answer.completion_tokens == len(answer.tokens)
        assert answer.prompt_tokens == opened.prepare([messages])["input_ids"].shape[1]


def test_rows_that_stop_leave_the_batch(opened, monkeypatch):
    """With an eos that each row meets at another step, every row still answers as it does alone."""
    full = [naive(opened, messages, 20) for messages in CHATS]
    stops = frozenset({full[0][3], full[1][7]})
    monkeypatch.setattr(type(opened), "stop_ids", property(lambda self: stops))
    answers = opened.generate(CHATS, max_new_tokens=20, temperature=0)
    for answer, tokens in zip(answers, full, strict=True):
        at = next((index for index, token in enumerate(tokens) if token in stops), None)
        assert answer.tokens == (tokens if at is None else tokens[: at + 1])
        assert answer.finish_reason == ("length" if at is None else "stop")
        assert answer.text == text_of(opened, answer.tokens, stops)


def test_streams_equal_the_answer_and_never_cut_a_character(opened):
    for messages in CHATS:
        answer = opened.generate([messages], max_new_tokens=30, temperature=0)[0]
        stream = opened.stream(messages, max_new_tokens=30, temperature=0)
        assert "".join(stream) == answer.text == stream.result.text
        assert stream.result.tokens == answer.tokens and stream.result.finish_reason == answer.finish_reason


def test_cancelling_keeps_what_was_said(opened):
    stream = opened.stream(CHATS[0], max_new_tokens=200, temperature=0)
    next(stream)
    stream.close()
    list(stream)
    assert stream.result.finish_reason == "cancelled" and 0 < stream.result.completion_tokens < 200
    asked = iter([False, False, True])
    answer = opened.generate([CHATS[0]], max_new_tokens=50, temperature=0, cancelled=lambda: next(asked))[0]
    assert answer.finish_reason == "cancelled" and answer.completion_tokens == 3


def test_sampling_is_repeatable_by_seed(opened):
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9}
    first, again, other = (opened.generate([CHATS[0]], seed=seed, **options)[0].tokens for seed in (1, 1, 2))
    assert first == again != other
    assert opened.generate([CHATS[0]], seed=1, max_new_tokens=12, temperature=1.0, top_k=1)[0].tokens == naive(
        opened, CHATS[0], 12
    )


def test_the_longest_position_is_kept(opened, tmp_path):
    folder = write_checkpoint(tmp_path / "short", golden_config(seq_length=28), golden_tensors(), tokenizer=True)
    short = uncrate.open(str(folder))
    answer = short.generate([CHATS[0]], max_new_tokens=50, temperature=0)[0]  # 24 prompt positions
    assert answer.finish_reason == "length" and answer.completion_tokens == 4
    with pytest.raises(DoesNotFit, match=r"positions, the model has 28"):
        short.generate([[{"role": "user", "content": "a b c d e f g h i j k l m n o p q r"}]], temperature=0)


def test_a_cache_that_memory_cannot_hold(tmp_path):
    where = write_checkpoint(tmp_path / "c", golden_config(seq_length=1 << 31), golden_tensors(), tokenizer=True)
    with pytest.raises(DoesNotFit, match=r"positions take .* TB, which cpu has not free\n  next: lower max_new_tokens"):
        uncrate.open(str(where)).generate([CHATS[1]] * 4096, max_new_tokens=1 << 31)


def test_wrong_calls_say_what_is_wanted(opened, tmp_path):
    with pytest.raises(MessageError, match="list of conversations"):
        opened.generate(CHATS[0])
    with pytest.raises(UsageError, match="temperature"):
        opened.generate(CHATS, temperature=-1)
    with pytest.raises(PictureError, match="no-such"):
        opened.generate([[{"role": "user", "image": "no-such.png", "content": "?"}]])
    bare = uncrate.open(str(write_checkpoint(tmp_path / "bare", golden_config(), golden_tensors())))
    assert bare.tokenizer is None
    with pytest.raises(TokenizerError, match=r"no tokenizer\.model"):
        bare.generate(CHATS)
