"""A ChatGLM3 with its SentencePiece tokenizer, exported: the same logits and ids from the exported code."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch
from tiny import TEXT, random_tensors, write_checkpoint

import uncrate
from uncrate.export import export
from uncrate.models.chatglm.tokenizer import load_tokenizer

CORPUS = ["你好，世界。今天天气很好。", "Hello, world! The quick brown fox jumps over the lazy dog. 0123456789"] * 30
TEXTS = ("Hello, world!", "你好 fox", "  two blanks", "<|user|> is text", "a\nb")


@pytest.fixture
def folder(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=360,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    config = TEXT | {"padded_vocab_size": 384, "classifier_dropout": 0.0, "pre_seq_len": None}
    where = write_checkpoint(tmp_path / "in", config, random_tensors(config))
    (where / "tokenizer.model").write_bytes(model.getvalue())
    (where / "tokenizer_config.json").write_text('{"name_or_path": "THUDM/chatglm3-6b", "keep": 1}')
    return where


def test_logits_and_ids(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = export(str(folder), tmp_path / "out", self_contained=True)
    assert done.plan.generation == "ChatGLM3" and done.proven == 0
    ids = torch.tensor([[1, 5, 9, 12, 7]])
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), trust_remote_code=True).eval()
    with torch.inference_mode():
        wanted = uncrate.open(str(folder)).model(ids).logits
        torch.testing.assert_close(model(ids).logits, wanted, atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"), trust_remote_code=True)
    native = load_tokenizer(folder)
    assert type(tokenizer).__module__.startswith("transformers_modules")
    for text in TEXTS:
        assert tokenizer.encode(text) == [*native.prefix, *native.encode_text(text)]
        assert tokenizer.decode(native.encode_text(text)) == native.decode(native.encode_text(text))
    messages = [{"role": "user", "content": "你好"}]
    made = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert made == uncrate.open(str(folder)).prepare([messages])["input_ids"][0].tolist()
