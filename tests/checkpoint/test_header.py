"""The safetensors header reader, against the library's own writer and reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint.checkpoints import safetensors, sound
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from uncrate.checkpoint.facts import TensorEntry
from uncrate.checkpoint.header import DTYPE_BITS, Header, read_header
from uncrate.errors import MalformedWeights

GOLDEN = Path(__file__).parent.parent / "golden/data/glm4v-tiny"
WHOLE_BYTES = sorted(name for name, bits in DTYPE_BITS.items() if bits % 8 == 0)


def read(data: bytes) -> Header:
    """Read a header from memory and hold every read to the file."""

    def part(start: int, end: int) -> bytes:
        assert 0 <= start <= end <= len(data)
        return data[start:end]

    return read_header(part, "x.safetensors", len(data))


NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_.]{0,12}", fullmatch=True).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3)
FILES = st.dictionaries(NAMES, st.tuples(st.sampled_from(["F32", "BF16", "I64", "U8", "BOOL"]), SHAPES), max_size=5)
NUMPY = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}
ARRAYS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(NUMPY)), SHAPES), max_size=5)


@given(ARRAYS, st.none() | st.dictionaries(st.text("abc", max_size=3), st.text("xyz", max_size=3), max_size=2))
def test_what_the_library_writes_is_read_as_it_was_meant(
    wanted: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    # Of no tensors and empty metadata, safetensors 0.8 writes a header that is not JSON, and does not read it either.
    assume(wanted or metadata != {})
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, shape).astype(NUMPY[dtype]) for name, (dtype, shape) in wanted.items()}
    data = save(arrays, metadata)
    header = read(data)
    assert {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in header.tensors} == wanted
    assert all(data[tensor.start : tensor.end] == arrays[tensor.name].tobytes() for tensor in header.tensors)
    assert dict(header.metadata) == (metadata or {})


PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"0",
    b"9",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b'"',
    b"-1",
    b"1e9",
    b'"F32"',
    b"null",
    b"\x01\0",
]


@given(
    FILES,
    st.lists(st.tuples(st.integers(0, 250), st.sampled_from(PIECES), st.booleans()), max_size=4),
    st.integers(-9, 9),
)
def test_any_mutation_gives_a_header_or_a_typed_error_and_is_never_laxer_than_the_library(
    tensors: dict[str, tuple[str, list[int]]], changes: list[tuple[int, bytes, bool]], tail: int
) -> None:
    data = sound(tensors)
    for place, piece, replace in changes:
        data = data[:place] + piece + data[place + (len(piece) or 1 if replace else 0) :]
    data = data + bytes(tail) if tail > 0 else data[: len(data) + tail]
    try:
        header = read(data)
    except MalformedWeights as error:
        assert "x.safetensors" in str(error)
        return
    # What we accept, the library accepts too, and reads the same bytes.
    try:
        theirs = dict(deserialize(data))
    except SafetensorError as error:  # pragma: no cover - a failure of the promise
        raise AssertionError(f"we accept what the library refuses: {error}") from error
    assert {t.name: (list(t.shape), data[t.start : t.end]) for t in header.tensors} == {
        name: (value["shape"], bytes(value["data"])) for name, value in theirs.items()
    }


def test_the_golden_shards_cover_their_files() -> None:
    for path in sorted(GOLDEN.glob("model-*.safetensors")):
        data = path.read_bytes()
        header = read(data)
        assert header.tensors[-1].end == len(data)
        assert header.tensors[0].start == 8 + int.from_bytes(data[:8], "little")


@pytest.mark.parametrize("dtype", WHOLE_BYTES)
def test_every_dtype_of_the_format(dtype: str) -> None:
    size = 6 * DTYPE_BITS[dtype] // 8
    header = read(safetensors({"x": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, size]}}, bytes(size)))
    assert header.tensors[0].dtype == dtype


def test_elements_smaller_than_a_byte_must_fill_bytes() -> None:
    assert read(safetensors({"x": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}}, bytes(3))).tensors
    with pytest.raises(MalformedWeights, match="do not fill whole bytes"):
        read(safetensors({"x": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, bytes(2)))


def test_empty_tensors_and_scalars() -> None:
    data = sound({"none": ("F32", [0, 7]), "one": ("F32", []), "zero": ("U8", [0])})
    shapes = {tensor.name: (tensor.shape, tensor.end - tensor.start) for tensor in read(data).tensors}
    assert shapes == {"none": ((0, 7), 0), "one": ((), 4), "zero": ((0,), 0)}
    assert read(sound({})).tensors == ()


def test_absolute_ranges_and_order() -> None:
    text = {
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [2, 5]},
        "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
    }
    data = safetensors(text, b"abcde")
    start = len(data) - 5
    assert read(data).tensors == (
        TensorEntry("a", "U8", (2,), "x.safetensors", start, start + 2),
        TensorEntry("b", "U8", (3,), "x.safetensors", start + 2, start + 5),
    )


def test_a_header_longer_than_the_first_read_is_read_whole() -> None:
    data = sound({f"layers.{i}.weight": ("U8", [1]) for i in range(5000)}, {"format": "pt"})
    assert len(read(data).tensors) == 5000


def test_padding_by_spaces() -> None:
    text = json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    assert read(safetensors(text + b" " * 13, b"x")).tensors[0].end == 8 + len(text) + 13 + 1


def test_all_faults_of_a_file_are_told_at_once() -> None:
    entry: dict[str, Any] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    header = {"a": {**entry, "dtype": "Q8"}, "b": {**entry, "shape": [True]}, "c": {**entry, "data_offsets": [0, 2]}}
    with pytest.raises(MalformedWeights) as caught:
        read(safetensors(header, b"x"))
    message = str(caught.value)
    assert all(
        part in message
        for part in ["3 faults", "tensor a: unknown dtype Q8", "tensor b: the shape", "tensor c: U8 [1] needs 1 bytes"]
    )
