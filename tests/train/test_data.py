"""Data files in every format that is read, and every fault of them with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uncrate.cli.main import main
from uncrate.errors import DataError, UncrateError
from uncrate.train.conversation import read_conversation
from uncrate.train.records import open_records
from uncrate.train.survey import messages_of, survey

TINY = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
ASK = {"role": "user", "content": "How many?"}
SAY = {"role": "assistant", "content": "two"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    Image.new("RGB", (8, 6), (200, 10, 10)).save(tmp_path / "a.png")
    Image.effect_noise((64, 64), 90).save(tmp_path / "noise.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "noise.png").read_bytes()[:900])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, *records):
    text = (item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in records)
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


FAULTS = [
    ({"messages": [{**ASK, "image": "none.png"}, SAY]}, "there is no such picture"),
    ({"messages": [{**ASK, "image": "a.png"}, SAY] * 2}, "messages[2]: the model takes one picture"),
    ({"messages": [SAY]}, "a message of 'assistant' at the start"),
    ({"messages": [ASK, ASK, SAY]}, "a message of 'user' after 'user'"),
    ({"messages": [ASK, SAY, {"role": "system", "content": "x"}]}, "a message of 'system' after 'assistant'"),
    ('{"messages": [', "not JSON"),
    ("{'messages': 1}", "not JSON"),
    ({"messages": [{**ASK, "image": "broken.png"}, SAY]}, "the picture is broken"),
    ({"messages": [{**ASK, "image": "huge.png"}, SAY]}, "more than 55000000 in all"),
    ({"messages": [{**ASK, "image": "data.jsonl"}, SAY]}, "not a picture that can be read"),
    ({"messages": [{"role": "human", "content": "x"}, SAY]}, "the role 'human' is unknown"),
    ({"messages": [ASK]}, "no answer of the assistant"),
    ({"messages": []}, "empty"),
    ({"text": "x"}, "the record has no messages"),
    ("3", "a record is an object"),
    ({"messages": [ASK, {**SAY, "image": "a.png"}]}, "a picture in a message of 'assistant'"),
    ({"messages": [{**ASK, "images": ["a.png"]}, SAY]}, "the key 'images' is unknown"),
    ({"messages": [ASK, SAY], "images": ["a.png", "a.png"]}, "2 pictures"),
    (json.dumps({"messages": [{"role": "user", "content": "\ud800"}, SAY]}), "half of a surrogate pair"),
]  # fmt: skip


@pytest.fixture
def faulty(folder):
    Image.new("1", (9000, 9000)).save(folder / "huge.png")
    good = {"messages": [{**ASK, "image": "a.png"}, SAY]}
    text_only = {"messages": [ASK, SAY]}
    return write(folder / "data.jsonl", good, text_only, "", *(record for record, _ in FAULTS))


def test_check_names_every_line_and_cause(faulty, capsys):
    code = main(["data", "check", str(faulty), "--model", str(TINY), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 1 and found["conversations"] == len(FAULTS) + 2 and found["good"] == 2
    by_line = {fault["line"]: fault["message"] for fault in found["faults"]}
    assert len(by_line) == len(found["faults"]) == len(FAULTS)
    for line, (_, wanted) in enumerate(FAULTS, 4):
        assert wanted in by_line[line], line


def test_check_counts_and_shows(folder, capsys):
    file = write(folder / "data.jsonl", {"messages": [{**ASK, "image": "a.png"}, SAY]}, {"messages": [ASK, SAY] * 9})
    assert main(["data", "check", str(file), "--model", str(TINY), "--max-input", "20", "--max-output", "10"]) == 0
    out = capsys.readouterr().out
    assert "2 good, 1 with a picture" in out and "1 longer than 30" in out
    assert f"{file}:2: " in out and "⟦" in out and "<|user|>⟧" in out
    assert main(["data", "show", str(file), "--model", str(TINY), "--line", "2", "--labels", "glm4-2024"]) == 0
    assert "⟦<|assistant|>" in capsys.readouterr().out
    assert main(["data", "show", str(file), "--model", str(TINY), "--line", "7"]) == 2


SHAREGPT = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "two"}]
PARTS = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many?"}]
FORMATS = [
    {"messages": [{**ASK, "image": "a.png"}, SAY]},
    [{**ASK, "image": "a.png"}, SAY],
    {"messages": [ASK, SAY], "images": ["a.png"]},
    {"messages": [{**ASK, "image": "a.png", "tools": None, "metadata": ""}, {**SAY, "image": None}]},
    {"conversations": SHAREGPT, "image": "a.png"},
    {"conversations": [ASK, SAY], "image": "a.png", "id": 7},
    {"messages": [{"role": "user", "content": PARTS}, SAY]},
]  # fmt: skip


@pytest.mark.parametrize("record", FORMATS)
def test_formats_mean_the_same(record, folder):
    messages, checked = read_conversation(record, folder, "x")
    assert [(message.role, message.content) for message in checked] == [("user", "How many?"), ("assistant", "two")]
    assert Path(checked[0].image).name == "a.png" and checked[1].image is None
    assert messages


@pytest.mark.parametrize("kind", ["jsonl", "array", "pretty object", "bom"])
def test_files_of_every_shape(kind, folder):
    one = {"messages": [{**ASK, "content": "几个？"}, SAY]}
    file = folder / "data.json"
    if kind == "jsonl":
        write(file, one, one)
    elif kind == "array":
        file.write_text(json.dumps([one, one], indent=1, ensure_ascii=False), encoding="utf-8")
    elif kind == "bom":
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps(one).encode() + b"\n" + json.dumps(one).encode())
    else:
        file.write_text(json.dumps(one, indent=1), encoding="utf-8")
    records = open_records(file)
    assert len(records) == (1 if kind == "pretty object" else 2)
    assert all(messages_of(records, index)[0]["content"] == "几个？" for index in range(len(records)))
    if kind == "array":
        assert records.place(1).line == 14


def test_cogvlm_folders_find_their_pictures(folder):
    (folder / "set" / "labels_zh").mkdir(parents=True)
    (folder / "set" / "images").mkdir()
    (folder / "a.png").rename(folder / "set" / "images" / "7.png")
    (folder / "set" / "labels_zh" / "7.json").write_text(json.dumps({"conversations": [ASK, SAY]}))
    (folder / "set" / "labels_zh" / "8.json").write_text(
        json.dumps({"captions": [{"role": "caption", "content": "一只猫"}]})
    )
    records = open_records(folder / "set")
    assert messages_of(records, 0)[0]["image"] == str(folder / "set" / "images" / "7.png")
    assert messages_of(records, 1)[0]["content"] == "描述这张图片。"
    found = survey(records, None)
    assert len(found.good) == 1 and "there is no such picture" in str(found.faults[0])


def test_relative_pictures_are_beside_the_file_or_in_the_working_directory(folder, tmp_path):
    (tmp_path / "data").mkdir()
    file = write(tmp_path / "data" / "t.jsonl", {"messages": [{**ASK, "image": "a.png"}, SAY]})
    assert not survey(open_records(file), None).faults
    (tmp_path / "a.png").rename(tmp_path / "data" / "a.png")
    assert not survey(open_records(file), None).faults


def test_tools_beside_the_messages_become_a_system_message(folder):
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]
    messages, checked = read_conversation({"messages": [ASK, SAY], "tools": json.dumps(tools)}, folder, "x")
    assert checked[0].role == "system" and len(checked[0].tools) == 1 and messages[0]["tools"] == tools


def test_convert_writes_plain_jsonl(folder, capsys):
    file = write(folder / "in.jsonl", *FORMATS)
    assert main(["data", "convert", str(file), "--out", "out.jsonl"]) == 0
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(FORMATS) and not survey(open_records(folder / "out.jsonl"), None).faults
    write(file, '{"messages": []}')
    assert main(["data", "convert", str(file), "--out", "none.jsonl"]) == 1
    assert not (folder / "none.jsonl").exists()
    capsys.readouterr()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b"[{}", b"\xff\xfe{}"])
def test_files_without_conversations(content, folder):
    (folder / "x.json").write_bytes(content)
    with pytest.raises(DataError):
        records = open_records(folder / "x.json")
        records.read(0)


KEYS = ["messages", "role", "content", "image", "conversations", "from", "value", "tools", "images", "captions"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_conversation_or_a_typed_error(record):
    try:
        read_conversation(record, Path("."), "x")
    except UncrateError as error:
        assert "x" in str(error)
