"""`uncrate chat -p`: the answer alone on stdout, or with its figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file


def test_the_golden_answer_as_json(cli, golden):
    cases = {case["name"]: case for case in json.loads((Path(golden) / "cases.json").read_text())["chat"]}
    expected = load_file(Path(golden) / "expected.safetensors")
    for name, key, picture in (
        ("text", "text.generated", ()),
        ("image", "one.generated", ("-i", f"{golden}/image.png")),
    ):
        (message,) = cases[name]["messages"]
        done = cli("chat", golden, "-p", message["content"], *picture, "--greedy", "--max-tokens", "16", "--json")
        document = done.document
        assert done.code == 0 and done.err == ""
        assert document["tokens"] == expected[key].flatten().tolist()[: document["completion_tokens"]]
        assert document["completion_tokens"] == len(document["tokens"]) and document["schema"] == 1
        assert document["prompt_tokens"] == len(cases[name]["input_ids"])
        assert document["finish_reason"] == ("length" if len(document["tokens"]) == 16 else "stop")
        assert set(document["seconds"]) == {"open", "prefill", "decode"}
        figures = {"schema", "text", "tokens", "prompt_tokens", "completion_tokens", "finish_reason", "seconds"}
        assert set(document) == figures


def test_the_answer_alone_on_stdout_and_repeatable_by_its_seed(cli, golden):
    picture = f"{golden}/image.png"
    arguments = ("chat", golden, "-p", "几个数字？", "-i", picture, "--max-tokens", "12", "--temperature", "1.5")
    first, again = cli(*arguments, "--seed", "7"), cli(*arguments, "--seed", "7")
    assert first.code == 0 and first.err == "" and first.out == again.out
    other = [cli(*arguments, "--seed", str(seed)).out for seed in range(3)]
    assert any(text != first.out for text in other)
    document = cli(*arguments, "--seed", "7", "--json").document
    assert document["text"] + "\n" == first.out and document["finish_reason"] in ("stop", "length")


def test_the_question_from_stdin(cli, golden):
    asked = cli("chat", golden, "-p", "你好", "--greedy", "--max-tokens", "5", "--json").document
    read = cli("chat", golden, "-p", "-", "--greedy", "--max-tokens", "5", "--json", stdin="你好\n").document
    assert (asked["tokens"], asked["prompt_tokens"]) == (read["tokens"], read["prompt_tokens"])
    done = cli("chat", golden, "-p", "-", stdin=b"\xff\xfe")
    assert done.code == 2 and "not UTF-8" in done.err


def test_a_system_message_is_part_of_the_prompt(cli, golden):
    def prompt(*more: str) -> int:
        done = cli("chat", golden, "-p", "hi", "--greedy", "--max-tokens", "1", "--json", *more)
        return done.document["prompt_tokens"]

    assert prompt("--system", "You are terse.") > prompt()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-p", ""), 2, "the question is empty"),
        (("-p", "  \n"), 2, "the question is empty"),
        (("-p", "x", "-i", "nowhere.png"), 1, "nowhere.png: there is no such file"),
        (("-p", "x", "-i", "a.png", "-i", "b.png"), 2, "the model takes one picture a conversation"),
        (("-p", "x", "--greedy", "--top-k", "3"), 2, "--greedy draws nothing"),
        (("-p", "x", "--max-tokens", "0"), 2, "max_new_tokens should be at least 1"),
        (("-p", "x", "--temperature", "-1"), 2, "temperature should be between 0 and 100"),
    ],
)
def test_mistakes_are_told_before_anything_is_opened(cli, golden, monkeypatch, arguments, code, message):
    monkeypatch.setattr("uncrate.cli.chat.open_checkpoint", lambda *_: pytest.fail("opened"))
    done = cli("chat", golden, *arguments)
    assert done.code == code and message in done.err and done.out == ""


def test_a_conversation_is_no_document(cli, golden):
    done = cli("chat", golden, "--json")
    assert done.code == 2 and done.document["error"]["message"] == "--json answers one question"


def test_a_picture_that_is_none(cli, golden):
    for name in ("config.json", "."):
        done = cli("chat", golden, "-p", "what?", "-i", f"{golden}/{name}")
        assert done.code == 1 and done.out == "" and "Traceback" not in done.err
        assert "picture" in done.err and "glm4v-tiny" in done.err


def test_options_reach_the_opening(cli, golden):
    done = cli("chat", golden, "-p", "hi", "--dtype", "float64", "--greedy", "--max-tokens", "2", "--json")
    assert done.code == 0 and done.document["completion_tokens"] <= 2


def test_as_a_process(process, golden):
    done = process("chat", golden, "-p", "你好", "--greedy", "--max-tokens", "3", environment={"LANG": "C"})
    assert done.code == 0 and done.err == "" and done.out.endswith("\n")
