"""tokenizer.json against the tokenizer it was made of: the same ids on everything, in the Rust library."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import GOLDEN
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from uncrate.errors import TokenizerError
from uncrate.export import export
from uncrate.export.proof import prove_tokenizer, sample_texts
from uncrate.export.standins import PairEncoding, letters_of_bytes
from uncrate.export.tokenizer_json import dumped
from uncrate.models.chatglm.tokenizer import PATTERN, ChatGLMTokenizer

NATIVE = ChatGLMTokenizer.from_folder(GOLDEN)
RUST = Tokenizer.from_str(dumped(NATIVE))
RUST.encode_special_tokens = True  # what text spells is text, as everywhere in uncrate
CASES = json.loads((GOLDEN / "cases.json").read_text("utf-8"))
ANY = st.text(st.characters(exclude_categories=("Cs", "Cn")))
TRICKY = st.text(alphabet="aabbst'SſLreévm \n\r\t\u3000\u00a01२12.,!?的是👩\u200d🔬", max_size=80)


def ids(text):
    return RUST.encode(text, add_special_tokens=False).ids


def learned():
    """A vocabulary of 6,000 byte pairs, learned from text of every kind, as a tiktoken one: rank after rank."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(sample_texts(60_000), trainer)
    bytes_of = {letter: byte for byte, letter in letters_of_bytes().items()}
    return {
        bytes(bytes_of[letter] for letter in token): rank
        for token, rank in sorted(made.get_vocab().items(), key=lambda item: item[1])
    }


@pytest.fixture(scope="module")
def large():
    ranks = learned()
    specials = {name: 100_000 + place for place, name in enumerate(NATIVE.special_ids)}
    return ChatGLMTokenizer(
        ranks, specials, pad_token="<|endoftext|>", hidden=frozenset(), image_size=None, tool_opening=""
    )


def test_golden_ids():
    assert all(ids(case["text"]) == case["ids"] for case in CASES["tokenize"])
    assert all(RUST.encode(case["text"]).ids == case["ids"] for case in CASES["encode_call"])
    assert all(RUST.decode(case["ids"]) == case["text"] for case in CASES["decode"])


@given(ANY)
def test_any_text(text):
    assert ids(text) == NATIVE.encode_text(text)


@given(TRICKY)
def test_the_cuts_are_the_same(text):
    assert ids(text) == NATIVE.encode_text(text)


@given(st.text(alphabet="ab", max_size=60))
def test_ties_are_broken_alike(text):
    assert ids(text) == NATIVE.encode_text(text)


def test_a_large_text(tmp_path):
    export(str(GOLDEN), tmp_path / "out", tokenizer_json=True)
    assert prove_tokenizer(NATIVE, tmp_path / "out" / "tokenizer.json") >= 300_000


def test_a_learned_vocabulary_on_a_large_text(large, tmp_path):
    assert len(large._ranks) > 4000
    (tmp_path / "tokenizer.json").write_text(dumped(large))
    assert prove_tokenizer(large, tmp_path / "tokenizer.json") >= 300_000


def test_special_tokens(large):
    for name, token in NATIVE.special_ids.items():
        assert RUST.token_to_id(name) == token and RUST.id_to_token(token) == name
    pair = RUST.encode("a", "b").ids
    assert pair == [702, 704, *NATIVE.encode_text("a"), *NATIVE.encode_text("b"), 700]
    assert ids("<|user|> hi") == NATIVE.encode_text("<|user|> hi")
    plain = Tokenizer.from_str(dumped(NATIVE))
    assert plain.encode("<|user|> hi", add_special_tokens=False).ids == [707, *NATIVE.encode_text(" hi")]


def test_a_difference_is_told(tmp_path):
    document = json.loads(dumped(NATIVE))
    document["model"]["merges"] = document["model"]["merges"][::-1]
    document["model"]["ignore_merges"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match="gives other ids"):
        prove_tokenizer(NATIVE, tmp_path / "tokenizer.json")


def test_a_vocabulary_without_every_byte(large):
    ranks = {token: rank for token, rank in large._ranks.items() if token != b"\xff"}
    cut = ChatGLMTokenizer(
        ranks, large.special_ids, pad_token="<|endoftext|>", hidden=frozenset(), image_size=None, tool_opening=""
    )
    with pytest.raises(TokenizerError, match="lacks 1 of 256"):
        dumped(cut)


@given(ANY)
def test_what_stands_in_for_tiktoken(text):
    assert STAND_IN.encode_ordinary(text) == NATIVE.encode_text(text)


STAND_IN = PairEncoding(name="glm4", pat_str=PATTERN, mergeable_ranks=NATIVE._ranks, special_tokens={})
