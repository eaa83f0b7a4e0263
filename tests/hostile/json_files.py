"""Hostile JSON: each function builds one config.json, index or tokenizer file that must be refused."""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.checkpoints import sharded, write
from hostile.case import Case, collector

from uncrate.errors import CheckpointError, MalformedJSON

CASES: list[Case] = []
case = collector(CASES)


def config(folder: Path, data: bytes) -> None:
    write(folder, {"config.json": data})


@case(MalformedJSON, "config.json:1:65", "64 levels")
def config_100000_levels_deep(folder: Path) -> None:
    config(folder, b"[" * 100_000 + b"]" * 100_000)


@case(MalformedJSON, "config.json", "64 levels")
def config_of_objects_100000_levels_deep(folder: Path) -> None:
    config(folder, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


@case(MalformedJSON, "config.json", "1,000,000 values")
def config_16_megabytes_of_brackets(folder: Path) -> None:
    config(folder, b"[" * (16 << 20))


@case(MalformedJSON, "config.json:1:25", "/model_type", "twice")
def equal_keys(folder: Path) -> None:
    config(folder, b'{"model_type":"chatglm","model_type":"other"}')


@case(MalformedJSON, "/vision_config/auto_map", "twice")
def equal_keys_deep_down_by_escape(folder: Path) -> None:
    config(folder, b'{"vision_config":{"auto_map":{},"auto_\\u006dap":{"AutoModel":"x.Y"}}}')


@case(MalformedJSON, "/layernorm_epsilon", "NaN")
def nan(folder: Path) -> None:
    config(folder, b'{"layernorm_epsilon":NaN}')


@case(MalformedJSON, "/rope_ratio", "1e400")
def number_that_overflows(folder: Path) -> None:
    config(folder, b'{"rope_ratio":1e400}')


@case(MalformedJSON, "/num_layers", "128")
def number_of_5000_digits(folder: Path) -> None:
    config(folder, b'{"num_layers":' + b"9" * 5000 + b"}")


@case(MalformedJSON, "128")
def number_of_ten_million_digits(folder: Path) -> None:
    config(folder, b'{"num_layers":' + b"9" * 10_000_000 + b"}")


@case(MalformedJSON, "config.json", "empty")
def empty(folder: Path) -> None:
    config(folder, b"")


@case(MalformedJSON, "config.json:1:3", "follows the end")
def trailing_garbage(folder: Path) -> None:
    config(folder, b"{}\\x00garbage")


@case(MalformedJSON, "config.json", "must be an object", "a list")
def config_that_is_a_list(folder: Path) -> None:
    config(folder, b'["chatglm"]')


@case(MalformedJSON, "config.json", "must be an object", "null")
def config_that_is_null(folder: Path) -> None:
    config(folder, b"null")


@case(MalformedJSON, "config.json", "UTF-8")
def config_in_utf16(folder: Path) -> None:
    config(folder, '{"model_type":"chatglm"}'.encode("utf-16"))


@case(MalformedJSON, "byte order mark")
def config_with_a_byte_order_mark(folder: Path) -> None:
    config(folder, b'\xef\xbb\xbf{"model_type":"chatglm"}')


@case(MalformedJSON, "surrogate", "/_name_or_path")
def half_a_character(folder: Path) -> None:
    config(folder, b'{"_name_or_path":"\\ud83d"}')


@case(CheckpointError, "config.json", "1,073,741,824 bytes", "16,777,216")
def config_of_one_gigabyte(folder: Path) -> None:
    config(folder, b"{")
    os.truncate(folder / "config.json", 1 << 30)


@case(CheckpointError, "model.safetensors.index.json", "1,073,741,824 bytes")
def index_of_one_gigabyte(folder: Path) -> None:
    sharded(folder)
    os.truncate(folder / "model.safetensors.index.json", 1 << 30)


@case(MalformedJSON, "config.json", "1,000,000 values")
def config_of_a_million_objects(folder: Path) -> None:
    config(folder, b'{"a":[' + b",".join([b"{}"] * 2_000_000) + b"]}")


@case(MalformedJSON, "config.json", "1,000,000 values")
def config_of_a_million_keys(folder: Path) -> None:
    config(folder, b"{" + b",".join(b'"%x":0' % i for i in range(1_200_000)) + b"}")


@case(MalformedJSON, "config.json", "ends inside the string")
def string_that_never_ends(folder: Path) -> None:
    config(folder, b'{"a":"' + b'\\"' * 1_000_000)


@case(MalformedJSON, "tokenizer_config.json:1:20", "/chat_template", "control character")
def tokenizer_config_with_a_raw_control_character(folder: Path) -> None:
    write(folder, {"config.json": b"{}", "tokenizer_config.json": b'{"chat_template":"a\x1bb"}'})


@case(MalformedJSON, "model.safetensors.index.json", "twice", "/weight_map/a")
def index_that_lists_a_tensor_twice(folder: Path) -> None:
    text = b'{"weight_map":{"a":"model-00001-of-00002.safetensors","a":"model-00002-of-00002.safetensors"}}'
    write(sharded(folder), {"model.safetensors.index.json": text})


@case(MalformedJSON, "/\\u001b]0;owned\\u0007", "twice")
def keys_that_write_to_the_terminal(folder: Path) -> None:
    config(folder, b'{"\\u001b]0;owned\\u0007":1,"\\u001b]0;owned\\u0007":2}')
