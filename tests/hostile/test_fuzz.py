"""Ten thousand damaged files of each kind: a value or a typed error, never anything else. Slow; CI runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uncrate.checkpoint.header import read_header
from uncrate.checkpoint.jsonfile import parse_object
from uncrate.errors import MalformedJSON, MalformedWeights

GOLDEN = Path(__file__).parent.parent / "golden/data/glm4v-tiny"
CONFIG = (GOLDEN / "config.json").read_bytes()
SHARD = (GOLDEN / "model-00004-of-00004.safetensors").read_bytes()
HEADER = 8 + int.from_bytes(SHARD[:8], "little")

PIECES = st.sampled_from(
    [
        *(b"", b"\0", b"\xff", b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"-", b"1", b" ", b"[" * 70),
        *(b"9" * 30, b"e400", b"null", b"true", b"NaN", b"\\ud800", b"\xe2\x80\xae", b"\x1b[2J", b"/../"),
        *(b'"a":1,', b'"__metadata__":{},', b'"F64"', b"18446744073709551616"),
    ]
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes, end: int) -> bytes:
    """Return `data` with up to six pieces put in, put over, or taken out before byte `end`."""
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, end))
        piece = draw(PIECES | st.binary(min_size=1, max_size=8))
        gone = draw(st.sampled_from([0, 0, len(piece), 1, 40]))
        data = data[:place] + piece + data[place + gone :]
    return data


@pytest.mark.slow
@settings(max_examples=10_000)
@given(damaged(CONFIG, len(CONFIG)))
def test_damaged_json(data: bytes) -> None:
    try:
        parse_object(data, "config.json")
    except MalformedJSON as error:
        assert "config.json" in str(error)
        assert all(line.isprintable() for line in str(error).splitlines())


@pytest.mark.slow
@settings(max_examples=10_000)
@given(damaged(SHARD, HEADER + 8) | st.integers(0, len(SHARD)).map(lambda end: SHARD[:end]))
def test_damaged_headers(data: bytes) -> None:
    try:
        header = read_header(lambda start, end: data[start:end], "x.safetensors", len(data))
    except MalformedWeights as error:
        assert "x.safetensors" in str(error)
        assert all(line.isprintable() for line in str(error).splitlines())
    else:
        assert all(0 <= tensor.start <= tensor.end <= len(data) for tensor in header.tensors)
