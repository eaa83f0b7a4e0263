"""Questions about a scene, in English and Chinese, and their exact answers.

A `Question` has one kind, one language, one text and one right answer. Each kind is asked in several ways; a question
that a scene leaves open (the left one of two digits that stand one above the other) is not asked, and one that has no
answer (the red digit where none is red) has an honest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scenes import COLOURS, Digit, Scene

Language = Literal["en", "zh"]

KINDS = (
    "single digit",
    "digit of a colour",
    "digit at a place",
    "colour of a digit",
    "colour at a place",
    "how many",
    "is there",
    "describe",
    "nothing to see",
)


@dataclass(frozen=True)
class Question:
    """One question with the one right answer."""

    kind: str
    language: Language
    text: str
    answer: str


@dataclass(frozen=True)
class Fact:
    """What a scene says: the words that fill a phrasing's slots, and the answers in both languages."""

    kind: str
    topic: str
    english: dict[str, str]
    chinese: dict[str, str]
    answer_english: str
    answer_chinese: str


PHRASINGS: dict[tuple[str, Language], tuple[str, ...]] = {
    ("single", "en"): (
        "What digit is this?",
        "What number is this?",
        "Which digit is this?",
        "Which digit is in the picture?",
        "What is the digit?",
        "Read the digit.",
        "Which number do you see?",
    ),
    ("single", "zh"): (
        "这是几？",
        "这是数字几？",
        "这是什么数字？",
        "图中的数字是几？",
        "图片里是什么数字？",
        "这个数字是几？",
        "数字是多少？",
    ),
    ("by colour", "en"): (
        "What digit is {colour}?",
        "Which digit is {colour}?",
        "What number is {colour}?",
        "What is the {colour} digit?",
        "What is the {colour} number?",
        "Which number is {colour}?",
    ),
    ("by colour", "zh"): (
        "{colour}的数字是几？",
        "{colour}的数字是多少？",
        "哪个数字是{colour}的？",
        "{colour}的是几？",
        "图中{colour}的数字是几？",
        "什么数字是{colour}的？",
    ),
    ("at place", "en"): (
        "What digit is {place}?",
        "Which digit is {place}?",
        "What number is {place}?",
        "What is the digit {place}?",
        "What is the number {place}?",
    ),
    ("at place", "zh"): (
        "{place}的数字是几？",
        "{place}是几？",
        "{place}的数字是多少？",
        "{place}是什么数字？",
        "图中{place}的数字是几？",
    ),
    ("colour of", "en"): (
        "What colour is the {digit}?",
        "What color is the {digit}?",
        "Which colour is the {digit}?",
        "What is the colour of the {digit}?",
        "What colour is the digit {digit}?",
        "What color is the number {digit}?",
        "What colour does the {digit} have?",
    ),
    ("colour of", "zh"): (
        "数字{digit}是什么颜色？",
        "{digit}是什么颜色？",
        "{digit}是什么颜色的？",
        "数字{digit}的颜色是什么？",
        "{digit}的颜色是什么？",
        "图中的{digit}是什么颜色？",
    ),
    ("colour of the one", "en"): (
        "What colour is the digit?",
        "What color is the digit?",
        "What colour is it?",
        "Which colour is the number?",
    ),
    ("colour of the one", "zh"): ("这个数字是什么颜色？", "数字是什么颜色？", "它是什么颜色？", "是什么颜色的？"),
    ("colour at", "en"): (
        "What colour is the digit {place}?",
        "What color is the digit {place}?",
        "Which colour is the digit {place}?",
        "What colour is the number {place}?",
    ),
    ("colour at", "zh"): ("{place}的数字是什么颜色？", "{place}是什么颜色？", "{place}的数字是什么颜色的？"),
    ("how many", "en"): (
        "How many digits are there?",
        "How many numbers are there?",
        "How many digits do you see?",
        "How many digits are in the picture?",
        "Count the digits.",
        "How many digits?",
    ),
    ("how many", "zh"): (
        "有几个数字？",
        "图中有几个数字？",
        "有多少个数字？",
        "一共有几个数字？",
        "图片里有几个数字？",
        "你看到几个数字？",
    ),
    ("is there digit", "en"): (
        "Is there {a} {digit}?",
        "Do you see {a} {digit}?",
        "Is there {a} {digit} in the picture?",
    ),
    ("is there digit", "zh"): ("有{digit}吗？", "图中有{digit}吗？", "有没有{digit}？", "有数字{digit}吗？"),
    ("is there colour", "en"): (
        "Is there {a} {colour} digit?",
        "Is there {a} {colour} number?",
        "Do you see {a} {colour} digit?",
        "Is any digit {colour}?",
    ),
    ("is there colour", "zh"): ("有{colour}的数字吗？", "图中有{colour}的数字吗？", "有没有{colour}的数字？"),
    ("describe", "en"): (
        "Describe the picture.",
        "Describe this picture.",
        "Describe the image.",
        "What do you see?",
        "What is in the picture?",
        "What is in this image?",
    ),
    ("describe", "zh"): (
        "描述这张图片",
        "描述这张图片。",
        "请描述这张图片。",
        "描述一下图片。",
        "图中有什么？",
        "你看到了什么？",
    ),
    ("hello", "en"): ("Hello!", "Hi!", "Hello, who are you?", "Who are you?", "What can you do?"),
    ("hello", "zh"): ("你好！", "你好，你是谁？", "你是谁？", "你会做什么？"),
}

PLACES = {
    "left": (("on the left", "on the left side", "at the left"), ("左边", "左侧", "最左边")),
    "right": (("on the right", "on the right side", "at the right"), ("右边", "右侧", "最右边")),
    "top": (("at the top", "on top", "on the top"), ("上面", "上方", "最上面")),
    "bottom": (("at the bottom", "on the bottom"), ("下面", "下方", "最下面")),
}
PLAIN = 0.08  # a digit stands to the left when its centre does so by this part of the picture's side

HELLO = ("I am a small model. Show me a picture of digits.", "我是一个小模型。请给我看一张数字图片。")
NO_PICTURE = ("There is no picture.", "没有图片。")
NO_DIGIT = ("There is no digit.", "没有数字。")
LANGUAGES: tuple[Language, Language] = ("en", "zh")


def article(noun: str) -> str:
    """The English article before a colour or a digit."""
    return "an" if noun[0] in "aeiou8" else "a"


def facts(scene: Scene) -> list[Fact]:
    """All that can be asked about the scene; absent digits and colours are among it."""
    digits = scene.digits
    found = [*_counting(digits), *_colours(digits), *_values(digits), *_places(digits)]
    if len(digits) == 1:
        only = digits[0]
        value, colour = str(only.value), COLOURS[only.colour]
        found.append(Fact("single digit", "single", {}, {}, value, value))
        found.append(Fact("colour of a digit", "colour of the one", {}, {}, colour.english, colour.chinese))
    if not digits:
        found.append(Fact("nothing to see", "single", {}, {}, *NO_DIGIT))
    return found


def _counting(digits: tuple[Digit, ...]) -> Iterator[Fact]:
    count = str(len(digits))
    yield Fact("how many", "how many", {}, {}, count, count)
    yield Fact("describe", "describe", {}, {}, *describe(digits))


def describe(digits: tuple[Digit, ...]) -> tuple[str, str]:
    """The description of a scene in English and Chinese: how many digits, and each from left to right."""
    if not digits:
        return NO_DIGIT
    names = [(COLOURS[digit.colour].english, COLOURS[digit.colour].chinese, digit.value) for digit in digits]
    english = ", ".join(f"{article(name)} {name} {value}" for name, _, value in names)
    chinese = "，".join(f"{name}的{value}" for _, name, value in names)
    if len(digits) == 1:
        return f"There is 1 digit: {english}.", f"有1个数字：{chinese}。"
    return f"There are {len(digits)} digits: {english}.", f"有{len(digits)}个数字：{chinese}。"


def _colours(digits: tuple[Digit, ...]) -> Iterator[Fact]:
    owners = {digit.colour: digit for digit in digits}
    for index, colour in enumerate(COLOURS):
        slots = ({"colour": colour.english, "a": article(colour.english)}, {"colour": colour.chinese})
        owner = owners.get(index)
        if owner is not None:
            yield Fact("digit of a colour", "by colour", *slots, str(owner.value), str(owner.value))
            yield Fact("is there", "is there colour", *slots, "Yes", "有")
        else:
            absent = (f"There is no {colour.english} digit.", f"没有{colour.chinese}的数字。")
            yield Fact("nothing to see", "by colour", *slots, *absent)
            yield Fact("is there", "is there colour", *slots, "No", "没有")


def _values(digits: tuple[Digit, ...]) -> Iterator[Fact]:
    for value in range(10):
        slots = ({"digit": str(value), "a": article(str(value))}, {"digit": str(value)})
        owners = [digit for digit in digits if digit.value == value]
        if len(owners) == 1:
            colour = COLOURS[owners[0].colour]
            yield Fact("colour of a digit", "colour of", *slots, colour.english, colour.chinese)
        if owners:
            yield Fact("is there", "is there digit", *slots, "Yes", "有")
        else:
            yield Fact("nothing to see", "colour of", *slots, f"There is no {value}.", f"没有{value}。")
            yield Fact("is there", "is there digit", *slots, "No", "没有")


def _places(digits: tuple[Digit, ...]) -> Iterator[Fact]:
    if len(digits) < 2:
        return
    across, down = sorted(digits, key=lambda d: d.x), sorted(digits, key=lambda d: d.y)
    extremes = {
        "left": (across[0], across[1].x - across[0].x),
        "right": (across[-1], across[-1].x - across[-2].x),
        "top": (down[0], down[1].y - down[0].y),
        "bottom": (down[-1], down[-1].y - down[-2].y),
    }
    for place, (digit, gap) in extremes.items():
        if gap < PLAIN:
            continue
        value, colour = str(digit.value), COLOURS[digit.colour]
        yield Fact("digit at a place", "at place", {"place": place}, {"place": place}, value, value)
        yield Fact("colour at a place", "colour at", {"place": place}, {"place": place}, colour.english, colour.chinese)


def ask(rng: np.random.Generator, fact: Fact, language: Language, *, plainly: bool = False) -> Question:
    """The fact as a question in one of its phrasings; unless `plainly`, some lose capitals or punctuation."""
    options = PHRASINGS[fact.topic, language]
    text = options[int(rng.integers(len(options)))]
    slots = dict(fact.english if language == "en" else fact.chinese)
    if "place" in slots:
        names = PLACES[slots["place"]][LANGUAGES.index(language)]
        slots["place"] = names[int(rng.integers(len(names)))]
    text = text.format(**slots)
    if not plainly and rng.random() < 0.25:
        text = text.rstrip("?？.。!！")
    if not plainly and language == "en" and rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if not plainly and language == "zh" and rng.random() < 0.1:
        text = text.replace("？", "?")
    return Question(fact.kind, language, text, fact.answer_english if language == "en" else fact.answer_chinese)


def choose(rng: np.random.Generator, scene: Scene, turns: int, drill: tuple[str, ...] = ()) -> list[Question]:
    """Some questions for one conversation about the scene: kinds first, so that rare kinds are not rare, then facts.

    Kinds in `drill` are asked three times as often.
    """
    by_kind: dict[str, list[Fact]] = {}
    for fact in facts(scene):
        by_kind.setdefault(fact.kind, []).append(fact)
    kinds = [kind for kind in by_kind for _ in range(3 if kind in drill else 1)]
    chosen = []
    for _ in range(turns):
        options = by_kind[kinds[int(rng.integers(len(kinds)))]]
        fact = options[int(rng.integers(len(options)))]
        chosen.append(ask(rng, fact, LANGUAGES[int(rng.integers(2))]))
    return chosen


def choose_without_picture(rng: np.random.Generator, turns: int) -> list[Question]:
    """Questions of a conversation that has no picture: greetings, and questions that need one."""
    chosen = []
    topics = list(PHRASINGS)
    for _ in range(turns):
        topic, language = topics[int(rng.integers(len(topics)))] if rng.random() < 0.6 else ("hello", "en")
        if topic == "hello":
            language = LANGUAGES[int(rng.integers(2))]
        colour, value = COLOURS[int(rng.integers(len(COLOURS)))], str(int(rng.integers(10)))
        place = list(PLACES)[int(rng.integers(len(PLACES)))]
        noun = colour.english if topic == "is there colour" else value
        english = {"colour": colour.english, "digit": value, "place": place, "a": article(noun)}
        chinese = {"colour": colour.chinese, "digit": value, "place": place}
        answers = HELLO if topic == "hello" else NO_PICTURE
        chosen.append(ask(rng, Fact("no picture", topic, english, chinese, *answers), language))
    return chosen
