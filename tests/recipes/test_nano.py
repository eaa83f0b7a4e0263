"""The bundled checkpoint: laid out as the 9B is, made by the recipe beside it, and as good as RESULTS.md says."""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import uncrate
from uncrate.families.chatglm import INV_FREQ, expected_tensors, read_config
from uncrate.models.chatglm.model import ChatGLMForConditionalGeneration
from uncrate.models.chatglm.prompt import encode_chat
from uncrate.models.chatglm.tokenizer import ChatGLMTokenizer

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "nano"
NANO = ROOT / "src" / "uncrate" / "nano"
GOLDEN = ROOT / "tests" / "golden" / "data" / "glm4v-tiny"
sys.path.insert(0, str(RECIPE))  # the recipe is a folder of scripts, not a package

import evaluate  # noqa: E402
import layout  # noqa: E402
import train  # noqa: E402
import vocabulary  # noqa: E402
from conversations import Encoder  # noqa: E402
from questions import LANGUAGES, PHRASINGS, Question, choose, facts  # noqa: E402
from scenes import HELD_OUT, compose, draw, load_bank  # noqa: E402


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    yield uncrate.open("nano")


def ask(opened: Any, picture: Path, question: str) -> str:
    message = {"role": "user", "image": str(picture), "content": question}
    return str(opened.generate([[message]], max_new_tokens=64, temperature=0)[0].text)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# The digits and the questions


def test_no_digit_is_in_both_splits() -> None:
    train_bank, held_out = load_bank("train"), load_bank("held-out")
    assert len(held_out.labels) == HELD_OUT and len(train_bank.labels) + HELD_OUT == 1797
    drawn = {pixels.tobytes() for pixels in train_bank.pixels}
    assert not drawn & {pixels.tobytes() for pixels in held_out.pixels}
    assert set(held_out.labels.tolist()) == set(range(10))


def test_a_scene_is_a_value_that_can_be_drawn_at_any_size() -> None:
    bank = load_bank("held-out")
    scene = compose(np.random.default_rng(0), bank, 3)
    assert scene == compose(np.random.default_rng(0), bank, 3)
    small, large = draw([scene], bank, 64)[0], draw([scene], bank, 192)[0]
    halved = large.reshape(64, 3, 64, 3, 3).mean((1, 3))
    assert np.abs(small - halved).mean() < 4.0


def test_digits_of_a_scene_stand_in_one_order_in_colours_of_their_own() -> None:
    rng, bank = np.random.default_rng(1), load_bank("train")
    for number in range(200):
        scene = compose(rng, bank, number % 5)
        across = [digit.x for digit in scene.digits]
        assert across == sorted(across) and all(b - a > 0.05 for a, b in pairwise(across))
        assert len({digit.colour for digit in scene.digits}) == number % 5


def test_every_fact_has_phrasings_in_both_languages_and_one_answer_each() -> None:
    rng, bank = np.random.default_rng(2), load_bank("train")
    for number in range(50):
        for fact in facts(compose(rng, bank, number % 5)):
            assert all(PHRASINGS[fact.topic, language] for language in LANGUAGES)
            assert fact.answer_english.isascii() and fact.answer_chinese
    assert all("{" not in question.text for question in choose(rng, compose(rng, bank, 4), 300))


# The recipe


def test_the_recipe_learns_the_shipped_tokenizer() -> None:
    tokens = vocabulary.learn(load_bank("train"), train.Settings.seed)
    assert vocabulary.write(tokens) == (NANO / "tokenizer.model").read_text(encoding="utf-8")
    assert len(set(tokens)) == len(tokens) and {bytes([byte]) for byte in range(256)} <= set(tokens)


def test_training_rows_are_the_prompts_that_chats_become() -> None:
    tokenizer = ChatGLMTokenizer.from_folder(NANO)
    turns = [Question("", "en", "What digit is red?", "7"), Question("", "zh", "有几个数字？", "2")]
    ids, labels = Encoder(tokenizer).conversation(turns, picture=True)
    messages: list[dict[str, str]] = []
    for number, turn in enumerate(turns):
        messages.append({"role": "user", "content": turn.text, **({} if number else {"image": "picture.png"})})
        prompt = encode_chat(tokenizer, messages).ids
        assert ids[: len(prompt)] == prompt
        answer = tokenizer.encode_text("\n") + tokenizer.encode_text(turn.answer)
        stop = [tokenizer.special("<|user|>")]
        assert ids[len(prompt) : len(prompt) + len(answer) + 1] == answer + stop
        assert labels[len(prompt) : len(prompt) + len(answer) + 1] == answer + stop
        assert labels[len(prompt) - 1] == -100
        messages.append({"role": "assistant", "content": turn.answer})


def test_a_run_that_is_broken_off_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    sizes = layout.Sizes(hidden=32, ffn=32, layers=1, vision_hidden=16, vision_ffn=16, vision_layers=1)
    look = train.Round(steps=2, cosine=2, rate=1e-3, floor=0.1)
    talk = train.Round(steps=4, cosine=4, rate=1e-3, floor=0.1, talking=True, order=True)
    settings = train.Settings(rounds=(look, talk), looking_rows=4, talking_rows=4, save_every=1)
    encoder = Encoder(ChatGLMTokenizer.from_folder(NANO))

    def run(work: Path, until: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = ChatGLMForConditionalGeneration(read_config(layout.config_json(sizes)))
        train.initialise(model, sizes)
        lesson = train.Lesson(model, encoder, settings, sizes)
        steps = lesson.forward

        def forward(step: int) -> torch.Tensor:
            if step == until:
                raise KeyboardInterrupt
            return steps(step)

        lesson.forward = forward  # type: ignore[method-assign]
        try:
            train.train(lesson, settings, sizes, work)
        except KeyboardInterrupt:
            assert step_of(work) == until
        return model.state_dict()

    def step_of(work: Path) -> int:
        return int(torch.load(work / "state.pt", weights_only=True)["step"])

    whole = run(tmp_path / "whole", until=99)
    run(tmp_path / "broken", until=3)
    resumed = run(tmp_path / "broken", until=99)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    with pytest.raises(SystemExit, match="other settings"):
        other = train.Settings(rounds=(look,))
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
        train.State(tmp_path / "whole" / "state.pt", other, sizes).load(torch.nn.Module(), optimizer)


# The checkpoint


def test_it_has_the_keys_of_the_real_layout_and_no_others() -> None:
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        ours, real = read_json(NANO / file), read_json(GOLDEN / file)
        more = {"do_sample"} if file == "generation_config.json" else set()
        assert set(ours) == set(real) | more, file
    assert sorted(read_json(NANO / "config.json")["vision_config"]) == sorted(
        read_json(GOLDEN / "config.json")["vision_config"]
    )
    assert [
        entry["content"] for entry in read_json(NANO / "tokenizer_config.json")["added_tokens_decoder"].values()
    ] == [entry["content"] for entry in read_json(GOLDEN / "tokenizer_config.json")["added_tokens_decoder"].values()]


def test_it_holds_every_tensor_in_several_shards_within_the_size_limit() -> None:
    config = read_config(read_json(NANO / "config.json"))
    index = read_json(NANO / "model.safetensors.index.json")
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(index["weight_map"].values())):
        with (NANO / file).open("rb") as shard:
            header = json.loads(shard.read(struct.unpack("<Q", shard.read(8))[0]))
        header.pop("__metadata__", None)
        assert all(index["weight_map"][name] == file and entry["dtype"] == "BF16" for name, entry in header.items())
        found |= {name: tuple(entry["shape"]) for name, entry in header.items()}
    rotary = found.pop(INV_FREQ)
    assert rotary == (config.kv_channels // 4,)
    assert found == expected_tensors(config)
    assert len(set(index["weight_map"].values())) > 1
    assert sum(path.stat().st_size for path in NANO.rglob("*") if path.is_file()) < 12_000_000


def test_it_answers_about_the_pictures_that_ship_with_it(opened: Any) -> None:
    asked = read_json(NANO / "pictures" / "questions.json")
    wrong = []
    total = 0
    for picture, questions in asked.items():
        chats = [
            [{"role": "user", "image": str(NANO / "pictures" / picture), "content": question["question"]}]
            for question in questions
        ]
        for question, generation in zip(
            questions, opened.generate(chats, max_new_tokens=64, temperature=0), strict=True
        ):
            total += 1
            if generation.text != question["answer"] or generation.finish_reason != "stop":
                wrong.append((picture, question, generation.text))
    assert total >= 30 and not wrong


def test_the_answer_depends_on_the_picture_and_on_the_question(opened: Any) -> None:
    pictures = [NANO / "pictures" / name for name in read_json(NANO / "pictures" / "questions.json")]
    for question in ("What digit is red?", "How many digits are there?", "描述这张图片"):
        assert len({ask(opened, picture, question) for picture in pictures}) > 1, question
    for picture in pictures:
        asked = ("What digit is red?", "How many digits are there?", "Describe the picture.", "Is there a red digit?")
        assert len({ask(opened, picture, question) for question in asked}) >= 3, picture


def test_a_second_question_is_answered_in_the_same_chat(opened: Any) -> None:
    picture = NANO / "pictures" / "two-digits.png"
    described = ask(opened, picture, "Describe the picture.")
    chat = [
        {"role": "user", "image": str(picture), "content": "Describe the picture."},
        {"role": "assistant", "content": described},
        {"role": "user", "content": "有几个数字？"},
    ]
    assert opened.generate([chat], max_new_tokens=16, temperature=0)[0].text == "2"


def test_without_a_picture_it_says_so(opened: Any) -> None:
    asked = {"What digit is red?": "There is no picture.", "有几个数字？": "没有图片。"}
    chats = [[{"role": "user", "content": question}] for question in asked]
    generated = opened.generate(chats, max_new_tokens=16, temperature=0)
    assert [generation.text for generation in generated] == list(asked.values())


def test_measured_again_it_keeps_what_results_promise() -> None:
    text = evaluate.RESULTS.read_text(encoding="utf-8")
    promised = re.search(r"^- all questions: ([\d.]+)% of (\d+)$", text, re.MULTILINE)
    singles = re.search(r"^- scenes of one digit: ([\d.]+)% of (\d+)$", text, re.MULTILINE)
    assert promised and singles
    assert float(promised[1]) >= 90.0 and float(singles[1]) >= 95.0 and int(promised[2]) >= 1000
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    assert set(evaluate.KINDS) <= rows

    bank = load_bank("held-out")
    asked = evaluate.trials(bank, scenes=160, seed=evaluate.SEED)  # the first fifth of what RESULTS.md is about
    outcomes = list(evaluate.answers("nano", asked, bank))
    single = [outcome for outcome in outcomes if len(outcome.scene.digits) == 1]
    assert len(outcomes) >= 1000 and len(single) >= 200
    assert evaluate.share(outcomes) >= 0.90
    assert evaluate.share(single) >= 0.95
