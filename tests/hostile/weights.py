"""Hostile weights: each function builds one file or index that a lax reader would take, or die of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from checkpoint.checkpoints import safetensors, sharded, sound, write
from hostile.case import Case, collector

from uncrate.errors import MalformedWeights

CASES: list[Case] = []
case = collector(CASES)

SINGLE = "model.safetensors"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
ENTRY: dict[str, Any] = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


def single(folder: Path, data: bytes) -> None:
    write(folder, {"config.json": {}, SINGLE: data})


def one(folder: Path, name: str = "x", **changes: Any) -> None:
    """Write a file of one tensor of four bytes whose entry is changed."""
    single(folder, safetensors({name: {**ENTRY, **changes}}, b"1234"))


@case(MalformedWeights, SINGLE, "header's length is 0")
def header_of_length_zero(folder: Path) -> None:
    single(folder, safetensors(b"", length=0))


@case(MalformedWeights, SINGLE, "9,223,372,036,854,775,808")
def header_of_length_two_to_the_63(folder: Path) -> None:
    single(folder, safetensors({"x": ENTRY}, b"1234", length=1 << 63))


@case(MalformedWeights, SINGLE, "18,446,744,073,709,551,615")
def header_of_length_minus_one(folder: Path) -> None:
    single(folder, safetensors({"x": ENTRY}, b"1234", length=(1 << 64) - 1))


@case(MalformedWeights, SINGLE, "ends inside its header", "bytes early", "download the checkpoint again")
def header_past_the_end(folder: Path) -> None:
    single(folder, safetensors({"x": ENTRY}, b"1234", length=5000))


@case(MalformedWeights, SINGLE, "header's length is 100,000,001")
def header_over_the_bound_in_a_sparse_file(folder: Path) -> None:
    single(folder, safetensors(b"{}", length=100_000_001))
    os.truncate(folder / SINGLE, 1 << 30)


@case(MalformedWeights, SINGLE, "not strict JSON", "64 levels")
def header_100000_levels_deep(folder: Path) -> None:
    single(folder, safetensors(b'{"a":' * 100_000))


@case(MalformedWeights, SINGLE, "not strict JSON", "values")
def header_of_a_million_tensors(folder: Path) -> None:
    single(folder, safetensors(b"{" + b",".join(b'"%d":[[[]]]' % i for i in range(1_000_000)) + b"}"))


@case(MalformedWeights, SINGLE, "7 bytes")
def file_of_seven_bytes(folder: Path) -> None:
    single(folder, b"1234567")


@case(MalformedWeights, SINGLE, "0 bytes")
def empty_file(folder: Path) -> None:
    single(folder, b"")


@case(MalformedWeights, SINGLE, "does not start with {")
def header_that_is_no_object(folder: Path) -> None:
    single(folder, safetensors(b'["x"]'))


@case(MalformedWeights, SINGLE, "does not start with {")
def header_padded_in_front(folder: Path) -> None:
    single(folder, safetensors(b"   {}"))


@case(MalformedWeights, SINGLE, "not strict JSON", "UTF-8")
def header_that_is_not_utf8(folder: Path) -> None:
    single(folder, safetensors(b'{"\xff":1}'))


@case(MalformedWeights, SINGLE, "the key x stands twice")
def tensor_twice_in_a_header(folder: Path) -> None:
    text = json.dumps(ENTRY)
    single(folder, safetensors(f'{{"x":{text},"x":{text}}}'.encode(), b"1234"))


@case(MalformedWeights, SINGLE, "follows the end")
def header_with_a_second_value(folder: Path) -> None:
    single(folder, safetensors(json.dumps({"x": ENTRY}).encode() + b"{}", b"1234"))


@case(MalformedWeights, SINGLE, "tensor b overlaps a by 2 bytes")
def overlapping_tensors(folder: Path) -> None:
    single(folder, safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [2, 6]}}, b"123456"))


@case(MalformedWeights, SINGLE, "tensor b overlaps a by 4 bytes")
def two_names_for_the_same_bytes(folder: Path) -> None:
    single(folder, safetensors({"a": ENTRY, "b": ENTRY}, b"1234"))


@case(MalformedWeights, SINGLE, "3 bytes before tensor b belong to no tensor")
def hole_between_tensors(folder: Path) -> None:
    single(folder, safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [7, 11]}}, b"1" * 11))


@case(MalformedWeights, SINGLE, "2 bytes at the end belong to no tensor")
def bytes_after_the_last_tensor(folder: Path) -> None:
    single(folder, safetensors({"x": ENTRY}, b"123456"))


@case(MalformedWeights, SINGLE, "ends 3 bytes early")
def truncated_file(folder: Path) -> None:
    single(folder, safetensors({"x": ENTRY}, b"1"))


@case(MalformedWeights, SINGLE, "tensor x", "overflows")
def shape_that_overflows(folder: Path) -> None:
    one(folder, shape=[1 << 40, 1 << 40], data_offsets=[0, 4])


@case(MalformedWeights, SINGLE, "tensor x", "overflows")
def shape_that_overflows_behind_a_zero(folder: Path) -> None:
    one(folder, shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0])


@case(MalformedWeights, SINGLE, "tensor x", "shape must be a list", "18446744073709551620")
def dimension_that_wraps_to_four(folder: Path) -> None:
    one(folder, shape=[(1 << 64) + 4])


@case(MalformedWeights, SINGLE, "tensor x", "shape must be a list", "-1")
def negative_dimensions(folder: Path) -> None:
    one(folder, shape=[-1, -4])


@case(MalformedWeights, SINGLE, "tensor x", "shape must be a list", "True")
def boolean_dimension(folder: Path) -> None:
    one(folder, shape=[True, 4])


@case(MalformedWeights, SINGLE, "tensor x", "shape must be a list", "4.0")
def fractional_dimension(folder: Path) -> None:
    one(folder, shape=[4.0])


@case(MalformedWeights, SINGLE, "tensor x", "shape must be a list", "None")
def no_shape(folder: Path) -> None:
    one(folder, shape=None)


@case(MalformedWeights, SINGLE, "tensor x", "1000 dimensions")
def a_thousand_dimensions(folder: Path) -> None:
    one(folder, shape=[1] * 1000, data_offsets=[0, 1])


@case(MalformedWeights, SINGLE, "tensor x", "needs 4 bytes", "span 3")
def offsets_that_do_not_fit_the_shape(folder: Path) -> None:
    one(folder, data_offsets=[0, 3])


@case(MalformedWeights, SINGLE, "tensor x", "end before they begin")
def offsets_backwards(folder: Path) -> None:
    one(folder, data_offsets=[4, 0])


@case(MalformedWeights, SINGLE, "tensor x", "two whole numbers")
def negative_offsets(folder: Path) -> None:
    one(folder, data_offsets=[-4, 0])


@case(MalformedWeights, SINGLE, "tensor x", "two whole numbers")
def three_offsets(folder: Path) -> None:
    one(folder, data_offsets=[0, 2, 4])


@case(MalformedWeights, SINGLE, "ends 1,152,921,504,606,84", "bytes early")
def offsets_far_past_the_end(folder: Path) -> None:
    count = (1 << 57) - 1
    one(folder, shape=[count], dtype="F64", data_offsets=[0, count * 8])


@case(MalformedWeights, SINGLE, "tensor x", "unknown dtype Q4_K\\u001b[31m")
def unknown_dtype(folder: Path) -> None:
    one(folder, dtype="Q4_K\x1b[31m")


@case(MalformedWeights, SINGLE, "tensor x", "unknown dtype ['U8']")
def dtype_that_is_a_list(folder: Path) -> None:
    one(folder, dtype=["U8"])


@case(MalformedWeights, SINGLE, "tensor x", "unknown key code")
def entry_with_another_key(folder: Path) -> None:
    one(folder, code="import os")


@case(MalformedWeights, SINGLE, "tensor x", "dtype is missing")
def entry_without_a_dtype(folder: Path) -> None:
    single(folder, safetensors({"x": {"shape": [4], "data_offsets": [0, 4]}}, b"1234"))


@case(MalformedWeights, SINGLE, "tensor x", "must be an object, and is a number")
def entry_that_is_a_number(folder: Path) -> None:
    single(folder, safetensors({"x": 4}, b"1234"))


@case(MalformedWeights, SINGLE, "tensor a\\u0000b", "control character (U+0000)")
def name_with_nul(folder: Path) -> None:
    one(folder, name="a\0b")


@case(MalformedWeights, SINGLE, "\\u202e", "control character (U+202E)")
def name_written_backwards(folder: Path) -> None:
    one(folder, name="a\u202egnp.b")


@case(MalformedWeights, SINGLE, "tensor ../../x", "written like a path")
def name_that_climbs(folder: Path) -> None:
    one(folder, name="../../x")


@case(MalformedWeights, SINGLE, "written like a path")
def name_with_backslashes(folder: Path) -> None:
    one(folder, name="..\\x")


@case(MalformedWeights, SINGLE, "name is empty")
def empty_name(folder: Path) -> None:
    one(folder, name="")


@case(MalformedWeights, SINGLE, "longer than 512", "…")
def name_of_a_million_letters(folder: Path) -> None:
    one(folder, name="x" * 1_000_000)


@case(MalformedWeights, SINGLE, "/__metadata__/format must be text, and is an object")
def metadata_that_is_not_text(folder: Path) -> None:
    single(folder, safetensors({"__metadata__": {"format": {"a": 1}}, "x": ENTRY}, b"1234"))


@case(MalformedWeights, SINGLE, "/__metadata__ must be an object, and is a list")
def metadata_that_is_a_list(folder: Path) -> None:
    single(folder, safetensors({"__metadata__": ["x"], "x": ENTRY}, b"1234"))


@case(MalformedWeights, SINGLE, "Git LFS pointer", "4,987,654,321 bytes", "git lfs pull")
def git_lfs_pointer(folder: Path) -> None:
    oid = "0" * 64
    single(folder, f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 4987654321\n".encode())


@case(MalformedWeights, FIRST, SECOND, "2 faults", "Git LFS pointer", "git lfs pull")
def git_lfs_pointers_as_shards(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    write(sharded(folder), {FIRST: pointer, SECOND: pointer})


@case(MalformedWeights, SINGLE, "header's length")
def pickle_named_safetensors(folder: Path) -> None:
    single(folder, b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.")


@case(MalformedWeights, "/weight_map/a", "../../etc/passwd", "leads out of the checkpoint")
def index_that_climbs(folder: Path) -> None:
    sharded(folder, weight_map={"a": "../../etc/passwd", "b": FIRST, "c": SECOND})


@case(MalformedWeights, "/weight_map/a", "/etc/passwd", "it is absolute")
def index_with_an_absolute_path(folder: Path) -> None:
    sharded(folder, weight_map={"a": "/etc/passwd", "b": FIRST, "c": SECOND})


@case(MalformedWeights, "/weight_map/a", "C:model.safetensors", "it is absolute")
def index_with_a_drive(folder: Path) -> None:
    sharded(folder, weight_map={"a": "C:model.safetensors", "b": FIRST, "c": SECOND})


@case(MalformedWeights, "/weight_map/a", "backslash")
def index_with_backslashes(folder: Path) -> None:
    sharded(folder, weight_map={"a": "..\\model.safetensors", "b": FIRST, "c": SECOND})


@case(MalformedWeights, "/weight_map/a", "\\u0000", "control characters")
def index_with_nul(folder: Path) -> None:
    sharded(folder, weight_map={"a": f"{FIRST}\0.txt", "b": FIRST, "c": SECOND})


@case(MalformedWeights, "/weight_map/a", "another folder")
def index_into_a_subfolder(folder: Path) -> None:
    sharded(folder, weight_map={"a": f"sub/{FIRST}", "b": FIRST, "c": SECOND})


@case(MalformedWeights, "/weight_map/a", "must be a .safetensors file")
def index_to_a_pickle(folder: Path) -> None:
    write(sharded(folder, weight_map={"a": "evil.bin", "b": FIRST, "c": SECOND}), {"evil.bin": b"\x80\x04."})


@case(MalformedWeights, "/weight_map/a", "must be a file name, and is None", "/weight_map/b", "[1]")
def index_with_values_that_are_no_text(folder: Path) -> None:
    sharded(folder, weight_map={"a": None, "b": [1], "c": SECOND})


@case(MalformedWeights, "/weight_map/a~1..~1b")
def index_with_a_name_that_climbs(folder: Path) -> None:
    sharded(folder, weight_map={"a/../b": FIRST, "b": FIRST, "c": SECOND})


@case(MalformedWeights, "/weight_map must be an object, and is a list")
def index_that_is_a_list(folder: Path) -> None:
    write(sharded(folder), {"model.safetensors.index.json": {"weight_map": ["a"]}})


@case(MalformedWeights, "/weight_map is missing")
def index_without_a_map(folder: Path) -> None:
    write(sharded(folder), {"model.safetensors.index.json": {"metadata": {}}})


@case(MalformedWeights, "/weight_map is empty", f"{FIRST} is a shard that the index does not name")
def empty_index(folder: Path) -> None:
    sharded(folder, weight_map={})


@case(MalformedWeights, SECOND, "is not there", "1 tensor")
def missing_shard(folder: Path) -> None:
    (sharded(folder) / SECOND).unlink()


@case(MalformedWeights, "model-00003-of-00003.safetensors", "is not there")
def ghost_shard(folder: Path) -> None:
    sharded(folder, weight_map={"a": FIRST, "b": FIRST, "c": SECOND, "d": "model-00003-of-00003.safetensors"})


@case(MalformedWeights, "model-00003-of-00003.safetensors", "does not name")
def extra_shard(folder: Path) -> None:
    write(sharded(folder), {"model-00003-of-00003.safetensors": sound({"d": ("U8", [1])})})


@case(MalformedWeights, f"/weight_map/c is {FIRST}, which does not hold it, it is in {SECOND}")
def tensor_in_the_wrong_shard(folder: Path) -> None:
    sharded(folder, weight_map={"a": FIRST, "b": FIRST, "c": FIRST})
    write(folder, {"model.safetensors.index.json": {"weight_map": {"a": FIRST, "b": SECOND, "c": FIRST}}})


@case(MalformedWeights, f"tensor a is in {FIRST} and again in {SECOND}")
def tensor_in_two_shards(folder: Path) -> None:
    write(sharded(folder), {SECOND: sound({"c": ("F32", [5]), "a": ("U8", [1])})})


@case(MalformedWeights, f"tensor c in {SECOND} is not in the index")
def tensor_that_the_index_hides(folder: Path) -> None:
    write(
        sharded(folder, weight_map={"a": FIRST, "b": FIRST, "d": SECOND}),
        {SECOND: sound({"c": ("U8", [1]), "d": ("U8", [1])})},
    )


@case(MalformedWeights, "20,000 files")
def index_of_20000_shards(folder: Path) -> None:
    sharded(folder, weight_map={f"t{i}": f"model-{i:05}.safetensors" for i in range(20_000)})


@case(MalformedWeights, "not a whole set", "model.safetensors.index.json is missing")
def shards_without_index_and_with_a_gap(folder: Path) -> None:
    (sharded(folder) / "model.safetensors.index.json").unlink()
    (folder / SECOND).rename(folder / "model-00003-of-00003.safetensors")
