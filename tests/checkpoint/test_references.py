"""References to code: which are accepted and what they mean, which are refused and why."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hostile.code_references import DOCUMENTS, TEXTS
from hypothesis import given
from hypothesis import strategies as st

from uncrate.checkpoint.references import Reference, find_references, parse_reference
from uncrate.errors import CodeError


def refs(document: Any, name: str = "config.json") -> tuple[Reference, ...]:
    return find_references({name: document})[0]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("modeling_x.XModel", (None, "modeling_x.py", "XModel")),
        ("sub.modeling_x.XModel", (None, "sub/modeling_x.py", "XModel")),
        ("sub/modeling_x.XModel", (None, "sub/modeling_x.py", "XModel")),
        ("a.b.c._Private", (None, "a/b/c.py", "_Private")),
        ("owner/name--modeling_x.XModel", ("owner/name", "modeling_x.py", "XModel")),
        ("THUDM/glm-4v-9b--modeling_chatglm.X", ("THUDM/glm-4v-9b", "modeling_chatglm.py", "X")),
        ("a_b/c.d-e--m.X", ("a_b/c.d-e", "m.py", "X")),
    ],
)
def test_a_sound_reference_means_a_file_and_a_class(text: str, meaning: tuple[str | None, str, str]) -> None:
    assert parse_reference(text) == meaning


@pytest.mark.parametrize(("text", "reason"), TEXTS, ids=[ascii(text)[:40] for text, _ in TEXTS])
def test_a_hostile_text_is_refused_with_place_and_reason(text: str, reason: str) -> None:
    with pytest.raises(CodeError) as caught:
        refs({"auto_map": {"AutoModel": text}})
    told = str(caught.value)
    assert "config.json#/auto_map/AutoModel" in told
    assert re.search(reason, told)
    assert len(told) < 700
    assert told.replace("\n", "").isprintable()
    assert "next:" in told


@pytest.mark.parametrize(("document", "says"), [row[1:] for row in DOCUMENTS], ids=[row[0] for row in DOCUMENTS])
def test_a_malformed_document_is_refused_with_its_pointer(document: Any, says: str) -> None:
    with pytest.raises(CodeError) as caught:
        refs(document)
    assert re.search(says, str(caught.value), re.DOTALL)
    assert str(caught.value).replace("\n", "").isprintable()


def test_every_map_is_found_at_any_depth_with_its_place() -> None:
    document = {
        "auto_map": {"AutoConfig": "c.C", "AutoModel": "m.M"},
        "text_config": {"deep": [{"auto_map": {"AutoModel": "t.T"}}]},
        "custom_pipelines": {"my-task": {"impl": "p.P", "pt": ["AutoModel"]}},
    }
    assert [(r.where, r.text, r.auto_class) for r in refs(document)] == [
        ("config.json#/auto_map/AutoConfig", "c.C", "AutoConfig"),
        ("config.json#/auto_map/AutoModel", "m.M", "AutoModel"),
        ("config.json#/custom_pipelines/my-task/impl", "p.P", "pipeline"),
        ("config.json#/text_config/deep/0/auto_map/AutoModel", "t.T", "AutoModel"),
    ]


def test_a_tokenizer_pair_gives_each_of_its_classes() -> None:
    pair = {"auto_map": {"AutoTokenizer": ["t.Slow", "t.Fast"]}}
    assert [(r.pointer, r.class_name) for r in refs(pair)] == [
        ("/auto_map/AutoTokenizer/0", "Slow"),
        ("/auto_map/AutoTokenizer/1", "Fast"),
    ]
    assert [r.class_name for r in refs({"auto_map": {"AutoTokenizer": ["t.Slow", None]}})] == ["Slow"]
    # The pair alone, as tokenizers of 2022 wrote it.
    assert [r.class_name for r in refs({"auto_map": ["t.Slow", None]}, "tokenizer_config.json")] == ["Slow"]


def test_what_is_no_reference_is_left_alone() -> None:
    for document in (
        {},
        [],
        "auto_map",
        {"a": "auto_map"},
        {"attn_implementation": "sdpa", "_attn_implementation": None},
        {"attn_implementation": {"text_config": "eager", "": "flash_attention_2"}},
        {"auto_mapping": None},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers_modules.x"}},
    ):
        assert find_references({"config.json": document}) == ((), ())
    assert find_references({"vocab.json": {"auto_map": 5}, "added_tokens.json": {"auto_map": 6}}) == ((), ())


@pytest.mark.parametrize(
    ("value", "repo", "revision"),
    [
        ("kernels-community/flash-attn", "kernels-community/flash-attn", None),
        ("kernels-community/flash-attn:flash_attn_varlen_func", "kernels-community/flash-attn", None),
        ("owner/name@v1.0:run", "owner/name", "v1.0"),
        ("paged|owner/name", "owner/name", None),
    ],
)
def test_a_kernel_repository_is_named(value: str, repo: str, revision: str | None) -> None:
    kernels = find_references({"config.json": {"text_config": {"_attn_implementation": value}}})[1]
    assert [(k.repo, k.revision, k.where) for k in kernels] == [
        (repo, revision, "config.json#/text_config/_attn_implementation")
    ]


def test_a_thousand_references_are_too_many() -> None:
    with pytest.raises(CodeError, match="more than 1,000"):
        refs({"auto_map": {f"Auto{n}": "m.M" for n in range(2_000)}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("auto_map"), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.text() | st.from_regex(r"[a-z./\\:\-_()]{0,30}", fullmatch=True))
def test_any_text_is_refused_or_names_a_file_inside(text: str) -> None:
    parsed = parse_reference(text)
    if isinstance(parsed, tuple):
        repo, path, class_name = parsed
        assert re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*\.py", path, re.ASCII)
        assert class_name.isidentifier() and class_name.isascii()
        assert repo is None or re.fullmatch(r"[\w.\-]+/[\w.\-]+", repo, re.ASCII)


@given(json_values)
def test_any_document_gives_references_or_a_typed_error(value: Any) -> None:
    try:
        refs({"auto_map": value, "custom_pipelines": value if isinstance(value, dict) else {}, "x": value})
    except CodeError as error:
        assert "config.json#" in str(error)
