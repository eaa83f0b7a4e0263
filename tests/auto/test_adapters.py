"""PEFT over the drop-in classes: train, save, open by path; an adapter folder given as the model."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from uncrate.auto import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from uncrate.errors import AdapterError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def trained(golden, expected, tmp_path_factory):
    """A LoRA on query_key_value of both towers after one step, saved, and its logits."""
    one = {name: expected[f"one.{name}"] for name in ("input_ids", "images", "attention_mask", "position_ids")}
    torch.manual_seed(0)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["query_key_value"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(golden), lora)
    trainable, total = model.get_nb_trainable_parameters()
    model.train()
    before = model(**one, labels=expected["one.labels"]).loss
    before.backward()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.05)
    optimizer.step()
    model.eval()
    folder = tmp_path_factory.mktemp("adapter") / "poems"
    model.save_pretrained(folder)
    with torch.no_grad():
        return folder, model(**one).logits, (trainable, total)


def test_only_the_adapters_are_trained(trained, golden, capsys):
    _, _, (trainable, total) = trained
    qkv = 3 * (4 * (64 + 128)) + 2 * (4 * (48 + 144))  # three blocks of the decoder, two of the vision tower
    assert trainable == qkv
    model = AutoModelForCausalLM.from_pretrained(golden)
    assert total == trainable + sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def test_saved_and_opened_by_path_it_answers_the_same(trained, golden, one):
    folder, logits, _ = trained
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(golden), folder).eval()
    assert torch.equal(again(**one).logits, logits)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(**one).logits, logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_adapter_given_as_the_model_opens_its_base(trained, golden, one):
    folder, logits, _ = trained
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model(**one).logits, logits)
    assert model.active_adapters() == ["default"]
    assert model.config.name_or_path == str(golden)
    assert AutoConfig.from_pretrained(folder).num_layers == 3
    named = AutoModelForCausalLM.from_pretrained(folder, adapter_name="poems")
    assert named.active_adapters() == ["poems"]
    named.disable_adapters()
    plain = AutoModelForCausalLM.from_pretrained(golden)
    torch.testing.assert_close(named(**one).logits, plain(**one).logits)


@torch.no_grad()
def test_a_dead_base_is_replaced(trained, golden, one, tmp_path):
    folder, logits, _ = trained
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/glm-4v-9b"}))
    with pytest.raises(AdapterError, match="not here: /gone/glm-4v-9b"):
        AutoModelForCausalLM.from_pretrained(moved)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(moved, base=str(golden))(**one).logits, logits)


def test_a_model_has_no_base(golden):
    with pytest.raises(UsageError, match="is no adapter, so it has no base"):
        AutoModelForCausalLM.from_pretrained(golden, base=str(golden))


@pytest.mark.filterwarnings("ignore:.*newly initialised:UserWarning")
def test_a_classifier_takes_adapters_too(golden, one, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(golden, num_labels=3)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query_key_value"], modules_to_save=["classifier_head"])
    model = get_peft_model(model, lora)
    loss = model(**one, labels=torch.tensor([1])).loss
    loss.backward()
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)
