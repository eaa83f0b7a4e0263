"""AutoTokenizer and AutoProcessor over the road."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers

from uncrate.auto import AutoProcessor, AutoTokenizer
from uncrate.errors import TokenizerError, UsageError
from uncrate.models.chatglm.hf import ChatGLMProcessor, ChatGLMTokenizer

QUESTION = [{"role": "user", "content": "你好"}]


def test_a_chatglm(golden):
    tokenizer = AutoTokenizer.from_pretrained(golden, trust_remote_code=True, use_fast=True)
    assert isinstance(tokenizer, ChatGLMTokenizer) and isinstance(tokenizer, transformers.PreTrainedTokenizer)
    assert tokenizer("Hello, world!")["input_ids"] == [702, 704, 39, 68, 459, 78, 11, 279, 259, 530, 0]
    assert tokenizer.name_or_path == str(golden) and tokenizer.image_size == 16


def test_it_saves_what_it_opened(golden, tmp_path):
    AutoTokenizer.from_pretrained(golden).save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert kept == json.loads((golden / "tokenizer_config.json").read_text())
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), ChatGLMTokenizer), (
        "known by its files, without config.json"
    )


def test_settings(golden):
    tokenizer = AutoTokenizer.from_pretrained(golden, padding_side="right", model_max_length=9, pad_token="[MASK]")
    assert (tokenizer.padding_side, tokenizer.model_max_length, tokenizer.pad_token_id) == ("right", 9, 701)
    assert AutoTokenizer.from_pretrained(golden, split_special_tokens=False).encode("<|user|>")[2:] == [707]
    with pytest.raises(UsageError, match="no further positional"):
        AutoTokenizer.from_pretrained(golden, 1)


def test_the_layout_of_earlier_generations_comes_from_config_json(copied):
    values = json.loads((copied / "config.json").read_text())
    kept = ("num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "model_type")
    kept += ("num_attention_heads", "seq_length", "layernorm_epsilon")
    small = {key: values[key] for key in kept}
    (copied / "config.json").write_text(
        json.dumps({**small, "_name_or_path": "THUDM/chatglm3-6b", "pre_seq_len": None})
    )
    tokenizer = AutoTokenizer.from_pretrained(copied)
    # The golden vocabulary is GLM-4's, whose layout its own file settles.
    assert tokenizer.chat_layout == "chatglm3" and tokenizer.native.layout == "glm4"


def test_hostile_keys_of_the_file(copied):
    values = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(
        json.dumps({**values, "vocab_file": "/etc/passwd", "name_or_path": "x"})
    )
    assert AutoTokenizer.from_pretrained(copied)("a")["input_ids"] == [702, 704, 64]
    (copied / "tokenizer_config.json").write_text(json.dumps({**values, "save_pretrained": 1}))
    with pytest.raises(TokenizerError, match="save_pretrained is the name of a method"):
        AutoTokenizer.from_pretrained(copied)


def test_a_template_file_is_kept(copied, tmp_path):
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = AutoTokenizer.from_pretrained(copied)
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.apply_chat_template(QUESTION, tokenize=False) == "[gMASK]<sop><|user|>\n你好"
    tokenizer.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_the_processor_is_the_tokenizer_where_there_are_no_pictures(golden, copied):
    assert isinstance(AutoProcessor.from_pretrained(golden), ChatGLMProcessor)
    values = json.loads((copied / "tokenizer_config.json").read_text())
    del values["image_size"]
    (copied / "tokenizer_config.json").write_text(json.dumps(values))
    assert isinstance(AutoProcessor.from_pretrained(copied), ChatGLMTokenizer)


def test_an_adapters_tokenizer_is_its_own_or_its_bases(golden, tmp_path):
    config = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": str(golden)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(tmp_path).name_or_path == str(golden)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(golden / name, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).name_or_path == str(tmp_path)


def test_transformers_own(tmp_path):
    tokenizer = transformers.BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "hi": 5})
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert type(ours) is type(theirs) and ours("hi there") == theirs("hi there")


def test_no_tokenizer_at_all(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TokenizerError, match="no tokenizer files"):
        AutoTokenizer.from_pretrained(tmp_path)
