"""The JSON reader: what it accepts equals JSON, what it refuses is told with its place."""

from __future__ import annotations

import json
import math
import time
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncrate.checkpoint.jsonfile import MAX_DEPTH, MAX_DIGITS, kind, parse_json, parse_object, pointer, thaw
from uncrate.checkpoint.jsonwalk import find_fault
from uncrate.errors import MalformedJSON

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_round_trip(value: Any, indent: int | str | None, ascii_only: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    found = parse_json(data, "x.json")
    assert thaw(found) == value
    assert type(thaw(found)) is type(value)


MUTATED = st.tuples(
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.sampled_from(
                [
                    b"",
                    b'"',
                    b"[",
                    b"]",
                    b"{",
                    b"}",
                    b",",
                    b":",
                    b"\\",
                    b"1",
                    b"e9",
                    b".",
                    b"-",
                    b"\n",
                    b"\x00",
                    b"\xff",
                    b"\xed\xa0\x80",
                    b"NaN",
                    b"\\ud800",
                    b'"a":1,',
                    b" ",
                ]
            ),
        ),
        max_size=4,
    ),
)


@given(MUTATED)
def test_any_mutation_is_a_value_or_a_typed_error_and_both_readers_agree(
    case: tuple[bytes, list[tuple[int, bytes]]],
) -> None:
    data, changes = case
    for place, piece in changes:
        data = data[:place] + piece + data[place + (1 if not piece else 0) :]
    try:
        parse_json(data, "x.json")
        refused = False
    except MalformedJSON as error:
        assert "x.json" in str(error)
        refused = True
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert refused
        return
    fault = find_fault(text, max_depth=MAX_DEPTH, max_digits=MAX_DIGITS) if text.strip(" \t\r\n") else True
    assert refused == (fault is not None) or text.startswith("\ufeff")


CASES: list[tuple[str, bytes, list[str]]] = [
    ("empty", b"", ["empty"]),
    ("blank", b" \n\t", ["empty"]),
    ("byte order mark", b"\xef\xbb\xbf{}", ["byte order mark", ":1:1"]),
    ("not utf-8", b'{"a":\n"\xff"}', ["UTF-8", "0xff", ":2:2"]),
    ("utf-16", '{"a":1}'.encode("utf-16"), ["UTF-8"]),
    ("trailing garbage", b'{"a":1} x', [":1:9", "follows the end: x"]),
    ("two values", b"{}{}", [":1:3"]),
    ("cut", b'{"a":[1,', ["/a/1", "ends in the middle"]),
    ("cut string", b'{"a":"bcd', ["/a", "ends inside the string"]),
    ("equal keys", b'{"a":{"k":1,"b":2,\n"k":3}}', [":2:1", "/a/k", "twice"]),
    ("equal keys by escape", b'{"a":1,"\\u0061":2}', ["/a", "twice"]),
    ("NaN", b'{"a":[1,NaN]}', ["/a/1", "NaN"]),
    ("Infinity", b'{"a":-Infinity}', ["/a", "-Infinity"]),
    ("1e400", b'{"a":1e400}', ["/a", "1e400", "too large"]),
    ("5000 digits", b'{"a":' + b"7" * 5000 + b"}", ["/a", "128"]),
    ("5000 decimals", b'{"a":0.' + b"7" * 5000 + b"}", ["/a", "128"]),
    ("leading zero", b'{"a":012}', ["/a"]),
    ("plus", b'{"a":+1}', ["/a", "not JSON"]),
    ("hex", b'{"a":0x10}', ["/a"]),
    ("single quotes", b"{'a':1}", ["double quotes", ":1:2"]),
    ("comment", b'{"a":1 // x\n}', ["/a", ":1:8"]),
    ("trailing comma", b'{"a":[1,]}', ["/a/1"]),
    ("trailing comma in object", b'{"a":1,}', [":1:8", "double quotes"]),
    ("no colon", b'{"a" 1}', ["colon", "/a"]),
    ("no comma", b'{"a":1 "b":2}', ["comma"]),
    ("wrong bracket", b'{"a":[1}', ["/a"]),
    ("control in string", b'{"a":"x\ny"}', ["U+000A", "/a"]),
    ("bad escape", b'{"a":"\\x41"}', ["not an escape", "/a"]),
    ("lone surrogate", b'{"a":"\\ud800"}', ["surrogate", "/a"]),
    ("lone surrogate key", b'{"\\udc00":1}', ["surrogate"]),
    ("surrogates as bytes", b'{"a":"\xed\xa0\x80"}', ["UTF-8"]),
    ("deep lists", b"[" * 100_000, ["64 levels"]),
    ("deep objects", b'{"a":' * 100_000, ["64 levels"]),
    ("deep and closed", b"[" * 100_000 + b"]" * 100_000, ["64 levels"]),
    ("deep after a fault", b'["\x01", ' + b"[" * 100_000, ["U+0001"]),
    ("undefined", b"undefined", ["undefined"]),
    ("terminal text", b'{"a\\u001b[2J":NaN}', ["/a\\u001b[2J"]),
]


@pytest.mark.parametrize(("data", "parts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_faults_are_told_with_their_place(data: bytes, parts: list[str]) -> None:
    with pytest.raises(MalformedJSON) as caught:
        parse_object(data, "folder/config.json")
    message = str(caught.value)
    for part in ["folder/config.json", *parts]:
        assert part in message
    assert message.isprintable() or "\n  next:" in message
    assert len(message) < 600


@pytest.mark.parametrize("data", [b"[1]", b"null", b'"text"', b"3", b"true"])
def test_a_configuration_must_be_an_object(data: bytes) -> None:
    with pytest.raises(MalformedJSON, match=r"x\.json.*must be an object"):
        parse_object(data, "x.json")


def test_bounds() -> None:
    with pytest.raises(MalformedJSON, match="at most 10 are read"):
        parse_json(b'"12345678901"', "x", limit=10)
    with pytest.raises(MalformedJSON, match="more than 5 values"):
        parse_json(b"[" + b"[]," * 70 + b"1]", "x", max_items=5)
    # Commas and brackets inside a string count for nothing.
    assert parse_json(json.dumps("[,{" * 500).encode(), "x", max_items=5) == "[,{" * 500
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x") is not None
    with pytest.raises(MalformedJSON, match="64 levels"):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "x")
    assert parse_json(b"1" * MAX_DIGITS, "x") == int("1" * MAX_DIGITS)


def test_legitimate_oddities_are_kept() -> None:
    found = parse_object(
        b'{"model_max_length": 1000000000000000019884624838656, "e": "\\ud83d\\ude00", "z": -0.0, "": 1}', "x"
    )
    assert found["model_max_length"] == 1000000000000000019884624838656
    assert found["e"] == "😀"
    assert math.copysign(1, found["z"]) == -1
    assert found[""] == 1


def test_the_result_is_read_only_all_the_way_down() -> None:
    found = parse_object(b'{"a": {"b": [1, {"c": 2}]}}', "x")
    assert isinstance(found, MappingProxyType)
    assert isinstance(found["a"], MappingProxyType)
    assert found["a"]["b"] == (1, {"c": 2})
    assert isinstance(found["a"]["b"][1], MappingProxyType)
    copy = thaw(found)
    copy["a"]["b"][1]["c"] = 3
    assert found["a"]["b"][1]["c"] == 2
    json.dumps(copy)


def test_kinds_and_pointers_read_well() -> None:
    values = [{}, (), [], "x", 1, 1.5, True, False, None]
    words = ["an object", "a list", "a list", "text", "a number", "a number", "true", "false", "null"]
    assert [kind(value) for value in values] == words
    assert pointer("a/b", 0, "~", "\x1b") == "/a~1b/0/~0/\\u001b"


@pytest.mark.parametrize(
    "data",
    [
        b'"' + b'\\"' * (4 << 20),
        b'"\\' * (4 << 20),
        b"[" * (8 << 20),
        b'{"a":"' * (2 << 20),
        b" " * (16 << 20),
        b"1" * (16 << 20),
    ],
    ids=["escaped quotes", "half escapes", "brackets", "keys", "spaces", "digits"],
)
def test_large_nonsense_is_refused_in_linear_time(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(MalformedJSON):
        parse_json(data, "x")
    assert time.process_time() - start < 5


def test_a_large_vocabulary_is_read_quickly() -> None:
    table = {"vocab": {f"token{i}": i for i in range(151_643)}, "merges": [f"a{i} b{i}" for i in range(151_387)]}
    data = json.dumps(table).encode()
    start = time.process_time()
    found = parse_json(data, "tokenizer.json")
    assert time.process_time() - start < 1.0  # measured 0.17 s; the margin is for busy machines
    assert len(found["vocab"]) == 151_643
