"""Loss and gradients of what is trained, against the original's numbers; adapters, freezing, checkpointing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig
from safetensors.torch import load_file

import uncrate
from uncrate.errors import RecipeError
from uncrate.plan import Options
from uncrate.train.dataset import Collator, GroupedByLength
from uncrate.train.model import Trainee, add_adapter, checkpoint_towers, freeze, own_memory, parameter_counts
from uncrate.train.rows import IGNORED, Limits, Row
from uncrate.train.saving import Saver
from uncrate.train.survey import Reading

TINY = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
CLOSE = {"atol": 1e-4, "rtol": 0.0}
CHAT = [
    {"role": "user", "content": "How many?", "image": str(TINY / "image.png")},
    {"role": "assistant", "content": "two"},
]
TEXT = [{"role": "user", "content": "Say a longer word, please"}, {"role": "assistant", "content": "thirteen"}]


@pytest.fixture
def opened():
    return uncrate.open(str(TINY), Options(device="cpu"))


@pytest.fixture
def trainee(opened):
    return Trainee(opened, str(TINY))


@pytest.fixture
def make_rows(opened):
    reading = Reading(tokenizer=opened.tokenizer, limits=Limits(max_input=99, max_output=99))
    return lambda *chats: [reading.row(chat) for chat in chats]


@pytest.fixture
def collate(opened):
    return Collator(opened.tokenizer, opened.config.vision.image_size)


def golden(case):
    stored = load_file(TINY / "expected.safetensors")
    names = ("input_ids", "images", "attention_mask", "position_ids", "labels")
    return stored, {name: stored[f"{case}.{name}"] for name in names if f"{case}.{name}" in stored}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_loss_and_gradients_equal_the_originals(trainee, checkpointed):
    stored, inputs = golden("one")
    own_memory(trainee)
    checkpoint_towers(trainee, checkpointed)
    trainee.train()
    loss = trainee(**inputs)["loss"]
    torch.testing.assert_close(loss, stored["one.loss"][0], **CLOSE)
    loss.backward()
    layer = trainee.transformer.encoder.layers[0].self_attention.query_key_value.weight
    torch.testing.assert_close(layer.grad, stored["one.grad.qkv0"], **CLOSE)
    patches = trainee.transformer.vision.patch_embedding.proj.weight
    torch.testing.assert_close(patches.grad, stored["one.grad.vision_proj"], **CLOSE)


def test_the_collator_makes_the_originals_inputs(collate):
    _, inputs = golden("one")
    row = Row(inputs["input_ids"][0].tolist(), inputs["labels"][0].tolist(), str(TINY / "image.png"))
    made = collate([row])
    assert set(made) == set(inputs)
    for name, wanted in inputs.items():
        torch.testing.assert_close(made[name], wanted, atol=1e-6, rtol=0.0)


@torch.no_grad()
def test_a_mixed_batch_is_the_mean_of_its_rows_by_tokens(trainee, make_rows, collate):
    rows = make_rows(CHAT, TEXT)
    assert rows[0].image is not None and rows[1].image is None
    alone = [trainee(**collate([row]))["loss"] for row in rows]
    counts = [row.trained for row in rows]
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(trainee(**collate(rows))["loss"], mean, atol=1e-5, rtol=0.0)
    # Accumulated over two batches of one row it is the same: the sum over what the whole step counts.
    parts = [trainee(**collate([row]), num_items_in_batch=sum(counts))["loss"] for row in rows]
    torch.testing.assert_close(sum(parts), mean, atol=1e-5, rtol=0.0)


def test_pictures_give_no_logits_and_no_labels(trainee, make_rows, collate, monkeypatch):
    seen = []
    head = trainee.transformer.output_layer
    head.register_forward_hook(lambda module, args, out: seen.append(out.shape[0]))
    rows = make_rows(CHAT)
    trainee(**collate(rows))
    assert seen == [rows[0].trained]


@pytest.mark.parametrize(
    ("parts", "trained"),
    [
        (("vision", "projector"), {"language"}),
        (("vision",), {"language", "projector"}),
        (("language",), {"vision", "projector"}),
        (("projector",), {"language", "vision"}),
    ],
)
def test_parts_freeze_separately(trainee, parts, trained):
    freeze(trainee, parts)
    left = set()
    for name, parameter in trainee.named_parameters():
        below = name.removeprefix("transformer.")
        part = "language"
        if below.startswith("vision."):
            part = "vision" if below.split(".")[1] in ("patch_embedding", "transformer") else "projector"
        assert parameter.requires_grad == (part in trained), name
        left.add(part)
    assert left == {"vision", "projector", "language"}


def test_lora_is_on_both_towers_under_the_originals_names(trainee, tmp_path, opened):
    model = add_adapter(trainee, LoraConfig(r=4, target_modules=["query_key_value"], task_type="CAUSAL_LM"))
    Saver(opened, None)(model, tmp_path, None)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value.lora_A.weight" in names
    assert "base_model.model.transformer.vision.transformer.layers.1.attention.query_key_value.lora_B.weight" in names
    assert len(names) == 2 * (3 + 2)


def test_target_modules_that_match_nothing_are_refused(trainee):
    with pytest.raises(RecipeError, match="PEFT refuses"):
        add_adapter(trainee, LoraConfig(r=4, target_modules=["q_proj"]))


def test_peft_and_uncrate_read_the_same_adapter(trainee, opened, tmp_path, make_rows, collate):
    model = add_adapter(trainee, LoraConfig(r=4, target_modules=["query_key_value"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    batch = collate(make_rows(CHAT))
    model.eval()
    with torch.no_grad():
        wanted = model(**batch)["loss"]
    Saver(opened, None)(model, tmp_path, None)
    ours = uncrate.open(str(tmp_path), Options(device="cpu"))
    theirs = PeftModel.from_pretrained(
        Trainee(uncrate.open(str(TINY), Options(device="cpu")), str(TINY)), str(tmp_path)
    )
    theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours.model(**batch).loss, wanted, **CLOSE)
        torch.testing.assert_close(theirs.get_base_model()(**batch)["loss"], wanted, **CLOSE)


def test_a_prefix_trains_alone_and_reads_back(trainee, opened, tmp_path, make_rows, collate):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_attention_heads=2, token_dim=256)
    add_adapter(trainee, config)
    trained, _ = parameter_counts(trainee)
    assert trained == 5 * 3 * 2 * 2 * 16
    trainee.eval()
    batch = collate(make_rows(CHAT))
    loss = trainee(**batch)["loss"]
    loss.backward()
    Saver(opened, config)(trainee, tmp_path, None)
    weight = trainee.transformer.prefix_encoder.embedding.weight
    assert weight.grad is not None and load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"].equal(
        weight
    )
    with torch.no_grad():
        weight.zero_()
    Saver(opened, config).load_prefix(trainee, tmp_path)
    torch.testing.assert_close(trainee(**batch)["loss"], loss)


def test_bfloat16_bases_train_float32_adapters(make_rows, collate):
    base = Trainee(uncrate.open(str(TINY), Options(device="cpu", dtype="bfloat16")), str(TINY))
    model = add_adapter(base, LoraConfig(r=4, target_modules=["query_key_value"]))
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert kinds == {torch.float32}
    loss = model(**collate(make_rows(CHAT, TEXT)))["loss"]
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


def test_touching_the_tower_changes_nothing_but_reaches_it(trainee, make_rows, collate):
    batch = collate(make_rows(TEXT))
    own_memory(trainee)
    wanted = trainee(**batch)["loss"]
    trainee.touch_vision = True
    loss = trainee(**batch)["loss"]
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert trainee.transformer.vision.conv.weight.grad.abs().sum() == 0


def test_length_groups_are_permutations_that_repeat():
    lengths = [n * 7 % 50 for n in range(230)]
    order = GroupedByLength(lengths, 4, 3)
    first = list(order)
    assert sorted(first) == list(range(230)) and list(GroupedByLength(lengths, 4, 3)) == first
    order.set_epoch(1)
    assert list(order) != first
    assert lengths[first[0]] == max(lengths)
    inside = sum(abs(lengths[a] - lengths[b]) for a, b in pairwise(first))
    assert inside < sum(abs(a - b) for a, b in pairwise(lengths)) / 4


def test_labels_are_padded_on_the_left(collate, make_rows):
    batch = collate(make_rows(CHAT, TEXT))
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    trained = batch["labels"] != IGNORED
    assert (batch["labels"][trained] == batch["input_ids"][trained]).all()
