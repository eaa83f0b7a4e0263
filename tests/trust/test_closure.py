"""The closure's hash: fixed vectors, order that makes no difference, and everything else that does."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncrate.trust.closure import closure_hash, encode_closure

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
ENTRY = ("config.json", "/auto_map/AutoModel", "AutoModel", "modeling_x.py", "XModel")


def test_the_encoding_is_the_documented_one() -> None:
    def number(value: int) -> bytes:
        return value.to_bytes(8, "big")

    def text(value: str) -> bytes:
        return number(len(value.encode())) + value.encode()

    expected = text("uncrate closure 1") + number(1) + text("é.py") + text(A) + number(1) + b"".join(map(text, ENTRY))
    assert encode_closure([("é.py", A)], [ENTRY]) == expected
    assert closure_hash([("é.py", A)], [ENTRY]) == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize(
    ("files", "entries", "digest"),
    [
        ([], [], "001f8cd0bbf9f8c74e88326e2a2f5181ccf7485e49101d39a5abeec520cba3a5"),
        ([("modeling_x.py", A)], [ENTRY], "192a1cbd513d7f6dc2d4bc851241e6b68428b7db34c821b7e3ee99a516270f81"),
        (
            [("modeling_x.py", A), ("owner/name--helper.py", B)],
            [ENTRY],
            "bc5efe430ecebc304bbc3ed3679181e2c90e049d2cb3042f8ed02bc8b45e849f",
        ),
    ],
)
def test_fixed_vectors(files: Any, entries: Any, digest: str) -> None:
    # These never change: locks of users hold them.
    assert closure_hash(files, entries) == digest


def test_what_is_no_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        closure_hash([("a.py", A), ("a.py", B)], [])
    for wrong in ("", A.upper(), A[:-1], A + "0", "g" * 64):
        with pytest.raises(ValueError, match="not a sha256"):
            closure_hash([("a.py", wrong)], [])


names = st.text(max_size=6)
shas = st.sampled_from([A, B, hashlib.sha256(b"c").hexdigest()])
closures = st.tuples(
    st.dictionaries(names, shas, max_size=4).map(lambda found: tuple(sorted(found.items()))),
    st.lists(st.tuples(names, names, names, names, names), max_size=3).map(lambda found: tuple(sorted(found))),
)


@given(closures, closures)
def test_different_closures_have_different_encodings(one: Any, other: Any) -> None:
    same = encode_closure(list(one[0]), list(one[1])) == encode_closure(list(other[0]), list(other[1]))
    assert same == (one == other)
    assert (closure_hash(*one) == closure_hash(*other)) == (one == other)


@given(closures, st.randoms())
def test_order_makes_no_difference(closure: Any, random: Any) -> None:
    files, entries = list(closure[0]), list(closure[1])
    random.shuffle(files)
    random.shuffle(entries)
    assert closure_hash(files, entries) == closure_hash(*closure)


@given(st.lists(names, min_size=1, max_size=5), st.data())
def test_text_moved_from_one_field_to_the_next_is_another_closure(parts: list[str], data: Any) -> None:
    # Without lengths in front, ("ab", "c") and ("a", "bc") would be one text.
    entry = (*parts, "", "", "", "", "")[:5]
    place = data.draw(st.integers(0, 3))
    if entry[place]:
        moved = list(entry)
        moved[place], moved[place + 1] = entry[place][:-1], entry[place][-1] + entry[place + 1]
        assert closure_hash([], [tuple(moved)]) != closure_hash([], [entry])  # type: ignore[list-item,arg-type]
