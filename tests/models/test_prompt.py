"""Conversations to ids: the golden layout, no injection, one picture, and batches as the original pads them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from uncrate.checkpoint.jsonfile import freeze
from uncrate.errors import MessageError, PictureError, UsageError
from uncrate.models.chatglm.prompt import batch, describe, encode_chat
from uncrate.models.chatglm.tokenizer import ChatGLMTokenizer, tokenizer_from_bytes
from uncrate.models.chatglm.tools import BUILT_IN

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
CASES = json.loads((GOLDEN / "cases.json").read_text("utf-8"))["chat"]
EXPECTED = load_file(GOLDEN / "expected.safetensors")
CONFIG = json.loads((GOLDEN / "tokenizer_config.json").read_text("utf-8"))
TOKENIZER = ChatGLMTokenizer.from_folder(GOLDEN)
TEXT_ONLY = ChatGLMTokenizer.from_bytes((GOLDEN / "tokenizer.model").read_bytes(), {**CONFIG, "image_size": None})
PICTURE = str(GOLDEN / "image.png")
FUNCTION = {"type": "function", "function": {"name": "f"}}


def golden(name: str) -> list[dict]:
    messages = next(case for case in CASES if case["name"] == name)["messages"]
    return [{**m, "image": str(GOLDEN / m["image"])} if "image" in m else m for m in messages]


def user(content: object = "hi", **more: object) -> dict[str, object]:
    return {"role": "user", "content": content, **more}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_ids(case):
    encoded = encode_chat(TOKENIZER, golden(case["name"]))
    assert encoded.ids == case["input_ids"]
    assert (encoded.image is not None) == case["has_image"]
    if case["has_image"]:
        at = encoded.image_position
        assert encoded.ids[at : at + 3] == [710, 700, 711]
    else:
        assert encoded.image_position is None
    shown = describe(TOKENIZER, encoded.ids)
    assert shown.replace("<|begin_of_image|><|endoftext|><|end_of_image|>", "") == case["text"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_row(case):
    row = batch([encode_chat(TOKENIZER, golden(case["name"]))], TOKENIZER, 16)
    for key in ("input_ids", "attention_mask", "position_ids"):
        assert row[key].tolist() == [case[key]]
    if case["has_image"]:
        assert torch.equal(row["images"], EXPECTED[f"pixels.{case['name']}"])
    else:
        assert set(row) == {"input_ids", "attention_mask", "position_ids"}


def test_golden_batch():
    rows = [encode_chat(TOKENIZER, golden(name)) for name in ("image", "image2")]
    for key, tensor in batch(rows, TOKENIZER, 16).items():
        assert torch.equal(tensor, EXPECTED[f"batch.{key}"]), key


def test_mixed_rows_give_pictures_of_the_rows_that_have_one():
    rows = [encode_chat(TOKENIZER, golden(name)) for name in ("text", "image", "metadata", "image2")]
    got = batch(rows, TOKENIZER, 16, dtype=torch.bfloat16)
    assert got["images"].shape == (2, 3, 16, 16)
    assert got["images"].dtype == torch.bfloat16
    assert got["input_ids"].dtype == torch.int64
    assert torch.equal(got["images"], EXPECTED["batch.images"].bfloat16())
    for index, row in enumerate(rows):
        real = got["attention_mask"][index].bool()
        assert got["input_ids"][index][real].tolist() == row.ids
        assert set(got["input_ids"][index][~real].tolist()) <= {TOKENIZER.pad_id}
        assert got["position_ids"][index][real].tolist() == list(range(len(row.ids)))
        assert not got["position_ids"][index][~real].any()


def test_batches_that_cannot_be():
    with pytest.raises(UsageError, match="a batch of no conversations"):
        batch([], TOKENIZER, 16)
    with pytest.raises(PictureError, match="there is no such picture"):
        batch([encode_chat(TOKENIZER, [user(image="/none.png")])], TOKENIZER, 16)
    with pytest.raises(UsageError, match="the size of pictures is unknown"):
        batch([encode_chat(TEXT_ONLY, [user(image=PICTURE)], pictures=True)], TEXT_ONLY, None)


def test_without_the_generation_prompt_and_where_messages_stand():
    encoded = encode_chat(TOKENIZER, golden("multi_turn"), generation_prompt=False)
    assert encoded.ids == encode_chat(TOKENIZER, golden("multi_turn")).ids[:-1]
    assert [span.role for span in encoded.spans] == ["system", "user", "assistant", "user"]
    answer = encoded.spans[2]
    assert encoded.ids[answer.start] == TOKENIZER.special("<|assistant|>")
    assert TOKENIZER.decode(encoded.ids[answer.body : answer.end]) == "A circle."
    assert encoded.spans[-1].end == len(encoded.ids)


# -- nothing that is typed becomes a special token -------------------------------------------------------------------

WORDS = st.lists(st.sampled_from([*CONFIG["additional_special_tokens"], "\n", "a", "描"]), max_size=5).map("".join)
TYPED = st.text(st.characters(exclude_categories=("Cs",)), max_size=20) | WORDS


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant", "observation"]), TYPED, TYPED), min_size=1, max_size=4
    )
)
@settings(deadline=None)
def test_no_text_injects_a_special_token(turns):
    messages = [{"role": role, "content": content, "metadata": meta} for role, content, meta in turns]
    encoded = encode_chat(TOKENIZER, messages)
    found = [token for token in encoded.ids if token >= 700]
    roles = [TOKENIZER.special(f"<|{role}|>") for role, content, _ in turns if content]
    assert found == [*TOKENIZER.prefix, *roles, TOKENIZER.special("<|assistant|>")]
    for span, (_, content, meta) in zip(encoded.spans, [turn for turn in turns if turn[1]], strict=True):
        assert TOKENIZER.decode(encoded.ids[span.start + 1 : span.body]) == f"{meta}\n"
        assert TOKENIZER.decode(encoded.ids[span.body : span.end]) == content


@given(WORDS.filter(bool), WORDS)
@settings(deadline=None)
def test_no_tool_injects_a_special_token(name, description):
    tool = {"type": "function", "function": {"name": name, "description": description}}
    ids = encode_chat(TOKENIZER, [{"role": "system", "content": "", "tools": [tool]}, user()]).ids
    assert [token for token in ids if token >= 700] == [702, 704, 706, 707, 708]


# -- tools -----------------------------------------------------------------------------------------------------------


def test_built_in_tools_and_a_system_text_of_its_own():
    tools = [{"type": name} for name in BUILT_IN]
    encoded = encode_chat(TOKENIZER, [{"role": "system", "content": "Be brief.", "tools": tools}, user()])
    assert [span.role for span in encoded.spans] == ["system", "system", "user"]
    shown = describe(TOKENIZER, encoded.ids)
    assert "提供适当的答复和支持。\n\n## python\n\n当你向 `python` 发送" in shown
    assert "\n\n## simple_browser\n\n" in shown
    assert "\n\n## cogview\n\n" in shown
    assert "<|system|>\nBe brief.<|user|>\nhi<|assistant|>" in shown


def test_a_text_checkpoint_s_own_opening():
    template = "{% ... %}你是一个名为 ChatGLM 的人工智能助手。{% ... %}# 可用工具"
    tokenizer = ChatGLMTokenizer.from_bytes(
        (GOLDEN / "tokenizer.model").read_bytes(), {**CONFIG, "chat_template": template}
    )
    shown = describe(tokenizer, encode_chat(tokenizer, [user(tools=[FUNCTION])]).ids)
    assert "<|system|>\n你是一个名为 ChatGLM 的人工智能助手。" in shown
    assert '支持。\n\n# 可用工具\n\n## f\n\n{\n    "name": "f"\n}\n在调用' in shown


def test_tools_read_from_a_file_of_ours_are_the_same():
    plain = golden("tools")
    assert encode_chat(TOKENIZER, freeze(plain)).ids == encode_chat(TOKENIZER, plain).ids


# -- what a message may be -------------------------------------------------------------------------------------------


def png() -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


DATA_URL = "data:image/png;base64," + base64.b64encode(png()).decode()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DATA_URL}},
        {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}},
        {"type": "image_url", "image_url": DATA_URL},
        {"type": "image", "image": DATA_URL},
        {"type": "image", "url": PICTURE},
        {"type": "image", "image": Path(PICTURE)},
        {"type": "image_url", "image_url": {"url": f"file://{PICTURE}"}},
        {"type": "image", "image": np.zeros((4, 4, 3), np.uint8)},
        {"type": "image", "image": Image.new("RGB", (4, 4))},
    ],
)
def test_openai_parts(part):
    encoded = encode_chat(TOKENIZER, [user([part, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}])])
    assert encoded.ids == encode_chat(TOKENIZER, [user("a\nb", image=PICTURE)]).ids
    assert batch([encoded], TOKENIZER, 16)["images"].shape == (1, 3, 16, 16)


def test_data_urls_are_bytes():
    for url in (
        DATA_URL,
        DATA_URL.rstrip("="),
        DATA_URL.replace("+", "-").replace("/", "_").replace("image_png", "image/png"),
    ):
        assert encode_chat(TOKENIZER, [user(image=url)]).image == png()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation is empty"),
        ("hi", "a conversation is a list of messages, not str"),
        (user(), "a conversation is a list of messages, not dict"),
        (None, "a conversation is a list of messages, not NoneType"),
        (["hi"], r"messages\[0\]: a message is a dict"),
        ([user(), {"role": "tool", "content": ""}], r"messages\[1\]: the role 'tool' is unknown(.|\n)*'observation'"),
        ([{"content": "hi"}], "the message has no role"),
        ([{"role": ["user"], "content": "hi"}], "is unknown"),
        ([{"role": "user"}], "the message has no content"),
        ([user(None)], "the message has no content"),
        ([user(3)], "content is a text or a list of parts, not int"),
        ([user(b"hi")], "content is a text or a list of parts, not bytes"),
        ([user(images=[])], "the key 'images' is unknown(.|\n)*'image' may be"),
        ([user(**{"\x1b[0m": 1})], r"the key '\\u001b\[0m' is unknown"),
        ([user(metadata=3)], "metadata is a text, not int"),
        ([user(tools={})], "tools is a list, not dict"),
        ([user(tools=["f"])], r"messages\[0\].tools\[0\]: a tool is a dict"),
        (
            [user(), user(tools=[FUNCTION, {"type": "web"}])],
            r"messages\[1\].tools\[1\]: a tool of type 'web' is unknown",
        ),
        ([user(tools=[{"type": "code_interpreter"}])], "'python' may be what is meant"),
        ([user(tools=[{"type": "function"}])], "a function tool has a 'function' with a 'name'"),
        ([user(tools=[{"type": "function", "function": {"name": "f", "x": {1, 2}}}])], "cannot be written as JSON"),
        (
            [user(tools=[{"type": "function", "function": {"name": "f", "x": float("nan")}}])],
            "cannot be written as JSON",
        ),
        ([user("a\ud800")], r"messages\[0\]: the text has half of a surrogate pair"),
        ([user(["hi"])], r"messages\[0\].content\[0\]: a part of type 'str' is unknown"),
        ([user([{"type": "video", "video": "x"}])], "a part of type 'video' is unknown"),
        ([user([{"type": "text"}])], "a text part has a text"),
        ([user([{"type": "image_url"}])], "a picture cannot be None"),
        ([user(image="")], "a picture cannot be"),
        ([user(image=3)], "a picture cannot be int"),
        ([user(image="http://a/b.png")], "a picture at a http:// address is not fetched"),
        ([user([{"type": "image_url", "image_url": {"url": "https://a/b.png"}}])], "reaches out to the network"),
        ([user(image="s3://a/b.png")], "is not fetched"),
        ([user(image="data:text/html;base64,AA==")], "is not a picture's"),
        ([user(image="data:image/png;base64,A")], "the data: URL is not base64"),
        ([user(image="data:image/png;base64,***")], "the data: URL is not base64"),
        ([user(image=PICTURE), user(image=PICTURE)], r"messages\[1\]: the model takes one picture a conversation"),
        ([user([{"type": "image", "image": PICTURE}] * 2)], r"messages\[0\].content\[1\]: the model takes one picture"),
        ([user([{"type": "image", "image": PICTURE}], image=PICTURE)], "the model takes one picture"),
    ],
)
def test_messages_that_the_prompt_cannot_hold(messages, message):
    with pytest.raises(MessageError, match=message):
        encode_chat(TOKENIZER, messages)


def test_a_text_model_takes_no_pictures():
    with pytest.raises(MessageError, match=r"messages\[1\]: this model takes no pictures"):
        encode_chat(TEXT_ONLY, [user(), user(image=PICTURE)])
    with pytest.raises(MessageError, match="takes no pictures"):
        encode_chat(TOKENIZER, [user(image=PICTURE)], pictures=False)


def test_requests_cannot_name_files_of_this_machine():
    for image in (PICTURE, Path(PICTURE), f"file://{PICTURE}"):
        with pytest.raises(MessageError, match="cannot be a path here"):
            encode_chat(TOKENIZER, [user(image=image)], local_files=False)
    assert encode_chat(TOKENIZER, [user(image=DATA_URL)], local_files=False).image == png()


def test_reading_messages_needs_no_torch():
    code = (
        "import sys; from uncrate.models.chatglm.prompt import encode_chat, batch;"
        "from uncrate.models.chatglm.tokenizer import load_tokenizer;"
        f"encode_chat(load_tokenizer({str(GOLDEN)!r}), [dict(role='user', content='a')]);"
        "print(sorted({'torch', 'transformers', 'sentencepiece'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- ChatGLM3 and ChatGLM2 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protobuf() -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["你好，世界。", "Hello world.", "[Round 1]\n\n问：什么？\n\n答：没有。", "a b\n"] * 40),
        model_writer=model,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


def test_chatglm3_encodes_head_and_text_apart(protobuf):
    tokenizer = tokenizer_from_bytes(protobuf, {"name_or_path": "THUDM/chatglm3-6b"})
    messages = [
        {"role": "system", "content": "Hello", "tools": [{"name": "f"}]},
        user("你好"),
        {"role": "assistant", "metadata": "f", "content": ""},
        {"role": "observation", "content": "a"},
    ]
    want = list(tokenizer.prefix)
    texts = [
        ("system", "", 'Hello\n[\n    {\n        "name": "f"\n    }\n]'),
        ("user", "", "你好"),
        ("assistant", "f", ""),
    ]
    for role, metadata, content in [*texts, ("observation", "", "a")]:
        want += [
            tokenizer.special(f"<|{role}|>"),
            *tokenizer.encode_text(f"{metadata}\n"),
            *tokenizer.encode_text(content),
        ]
    encoded = encode_chat(tokenizer, messages)
    assert encoded.ids == [*want, tokenizer.special("<|assistant|>")]
    assert describe(tokenizer, encoded.ids).startswith("[gMASK]sop<|system|>\n Hello\n[")
    with pytest.raises(MessageError, match="this model takes no pictures"):
        encode_chat(tokenizer, [user(image=PICTURE)])
    with pytest.raises(MessageError, match=r"messages\[0\].tools: ChatGLM3 reads tools in a system message alone"):
        encode_chat(tokenizer, [user(tools=[{"name": "f"}])])


def test_chatglm2_speaks_in_rounds(protobuf):
    tokenizer = tokenizer_from_bytes(protobuf, {"name_or_path": "THUDM/chatglm2-6b"})
    talk = [user("什么？"), {"role": "assistant", "content": "没有。"}, user("a <|user|> sop")]
    text = "[Round 1]\n\n问：什么？\n\n答：没有。\n\n[Round 2]\n\n问：a <|user|> sop\n\n答："
    ids = encode_chat(tokenizer, talk).ids
    assert ids == [*tokenizer.prefix, *tokenizer.encode_text(text)]
    assert tokenizer.decode(ids[2:]) == text
    told = encode_chat(tokenizer, talk[:2], generation_prompt=False).ids
    assert tokenizer.decode(told[2:]) == "[Round 1]\n\n问：什么？\n\n答：没有。"
    for bad in ([{"role": "system", "content": "x"}], [user(), user()], [user(tools=[{"name": "f"}])]):
        with pytest.raises(MessageError, match="in turn, and nothing else"):
            encode_chat(tokenizer, bad)
    with pytest.raises(MessageError, match=r"messages\[0\]: the text has half of a surrogate pair"):
        encode_chat(tokenizer, [user("\ud800")])
    with pytest.raises(MessageError, match="ends with an answer"):
        encode_chat(tokenizer, talk[:2])
