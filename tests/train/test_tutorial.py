"""`load_tokenizer_and_model` as the tutorial uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizer

from uncrate.train import load_tokenizer_and_model, process_batch

GOLDEN = str(Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny")
TALK = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hello"}]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning",
    "ignore:.*gradient_checkpointing_enable.* is deprecated:FutureWarning",
)


def steps(tokenizer, model, count=3):
    row = tokenizer.apply_chat_template(TALK, return_tensors="pt", return_dict=True)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    model.train()
    losses = []
    for _ in range(count):
        loss = model(**row, labels=row["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_all_of_it_is_trained_without_an_adapter(capsys):
    tokenizer, model = load_tokenizer_and_model(GOLDEN)
    assert isinstance(tokenizer, PreTrainedTokenizer) and isinstance(model, PreTrainedModel)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"trainable params: {total:,} || all params: {total:,} || trainable%: 100.0000" in capsys.readouterr().out
    assert model.dtype == torch.bfloat16 and model.config.use_cache is False
    losses = steps(tokenizer, model)
    assert losses[-1] < losses[0]


def test_a_lora(capsys):
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["query_key_value"])
    tokenizer, model = load_tokenizer_and_model(GOLDEN, peft_config=lora)
    assert isinstance(model, PeftModel)
    assert "trainable params: 7,680 ||" in capsys.readouterr().out
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    losses = steps(tokenizer, model)
    assert losses[-1] < losses[0]


def test_a_prefix(capsys):
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, num_attention_heads=2, token_dim=256)
    tokenizer, model = load_tokenizer_and_model(GOLDEN, peft_config=prefix)
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {
        "transformer.prefix_encoder.embedding.weight"
    }
    steps(tokenizer, model)


def test_the_tutorials_functions_take_the_tokenizer():
    tokenizer, _ = load_tokenizer_and_model(GOLDEN)
    columns = process_batch({"messages": [TALK]}, tokenizer, max_input_length=64, max_output_length=64)
    assert len(columns["input_ids"][0]) == len(columns["labels"][0])
    rows = [{key: columns[key][0] for key in ("input_ids", "attention_mask", "labels")}]
    assert DataCollatorForSeq2Seq(tokenizer)(rows)["labels"].shape[0] == 1
