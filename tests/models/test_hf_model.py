"""The transformers classes against the original's numbers, and against their own slow ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache, StaticCache, TextIteratorStreamer, Trainer, TrainingArguments

from uncrate.errors import UsageError
from uncrate.models.chatglm.hf import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    ChatGLMForSequenceClassification,
    ChatGLMModel,
    ChatGLMTokenizer,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
STOPLESS = {"do_sample": False, "eos_token_id": None, "pad_token_id": 700}


@pytest.fixture(scope="module")
def config():
    return ChatGLMConfig(**json.loads((GOLDEN / "config.json").read_text()))


@pytest.fixture(scope="module")
def tensors():
    return {name: tensor for shard in GOLDEN.glob("model-*.safetensors") for name, tensor in load_file(shard).items()}


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="module")
def model(config, tensors):
    model = ChatGLMForConditionalGeneration(config)
    model.load_state_dict(tensors)
    return model.eval()


def inputs(expected, case, without=()):
    names = ("input_ids", "images", "attention_mask", "position_ids")
    return {name: expected[f"{case}.{name}"] for name in names if f"{case}.{name}" in expected and name not in without}


def test_names_are_the_checkpoints_with_the_stored_frequencies(model, tensors):
    assert model.state_dict().keys() == tensors.keys()


@pytest.mark.parametrize("case", ["one", "text"])
@torch.no_grad()
def test_logits(model, expected, case):
    torch.testing.assert_close(model(**inputs(expected, case)).logits, expected[f"{case}.logits"], **TOLERANCE)


@torch.no_grad()
def test_hidden_states_end_before_the_final_norm(model, config, tensors, expected):
    given = inputs(expected, "batch")
    out = model(**given, output_hidden_states=True)
    real = model.transformer.embed(**given).mask.bool()
    assert len(out.hidden_states) == config.num_layers + 1
    torch.testing.assert_close(out.hidden_states[-1][real], expected["batch.last_hidden"][real], **TOLERANCE)
    torch.testing.assert_close(out.logits[real], expected["batch.logits"][real], **TOLERANCE)
    base = ChatGLMModel(config).eval()
    base.load_state_dict(tensors)
    last = base(**given).last_hidden_state
    torch.testing.assert_close(model.transformer.output_layer(last)[real], expected["batch.logits"][real], **TOLERANCE)


def test_loss_and_gradients(model, expected):
    out = model(**inputs(expected, "one"), labels=expected["one.labels"])
    torch.testing.assert_close(out.loss, expected["one.loss"][0], **TOLERANCE)
    model.zero_grad()
    out.loss.backward()
    qkv = model.transformer.encoder.layers[0].self_attention.query_key_value.weight.grad
    torch.testing.assert_close(qkv, expected["one.grad.qkv0"], **TOLERANCE)
    torch.testing.assert_close(
        model.transformer.vision.patch_embedding.proj.weight.grad, expected["one.grad.vision_proj"], **TOLERANCE
    )
    model.zero_grad()


@torch.no_grad()
def test_forms_of_the_answer(model, expected):
    given, labels = inputs(expected, "one"), expected["one.labels"]
    whole = model(**given, labels=labels)
    as_tuple = model(**given, labels=labels, return_dict=False)
    assert torch.equal(as_tuple[0], whole.loss) and torch.equal(as_tuple[1], whole.logits)
    for kept, asked in ((1, {"return_last_logit": True}), (3, {"logits_to_keep": 3})):
        torch.testing.assert_close(model(**given, **asked).logits, whole.logits[:, -kept:], **TOLERANCE)
    alone = model(**given, labels=labels, skip_logits=True)
    assert alone.logits is None and torch.equal(alone.loss, whole.loss)
    counted = int((model.transformer.embed(**given, labels=labels).labels[:, 1:] != -100).sum())
    twice = model(**given, labels=labels, num_items_in_batch=2 * counted).loss
    torch.testing.assert_close(twice, whole.loss / 2)


@pytest.mark.parametrize("case", ["one", "batch", "text"])
@pytest.mark.parametrize("positions", ["given", "counted"])
@pytest.mark.parametrize("way", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_greedy_tokens(model, expected, case, positions, way):
    given = inputs(expected, case, without=() if positions == "given" else ("position_ids",))
    wanted = expected[f"{case}.generated"]
    out = model.generate(**given, **STOPLESS, **way, max_new_tokens=wanted.shape[1])
    assert out[:, given["input_ids"].shape[1] :].tolist() == wanted.tolist()


@pytest.mark.parametrize("case", ["one", "batch", "text"])
def test_beams_are_the_same_with_every_cache(model, expected, case):
    given = inputs(expected, case)
    ways = ({"use_cache": False}, {}, {"cache_implementation": "static"})
    out = [model.generate(**given, **STOPLESS, **way, num_beams=3, max_new_tokens=6).tolist() for way in ways]
    assert out[0] == out[1] == out[2]


def test_sampling_is_repeatable_and_differs(model, expected):
    given = inputs(expected, "one")
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(model.generate(**given, do_sample=True, top_k=0, temperature=5.0, max_new_tokens=8).tolist())
    assert runs[0] == runs[1] != runs[2]


def test_a_streamer_gets_the_same_text(model, expected):
    tokenizer = ChatGLMTokenizer.from_pretrained(str(GOLDEN))
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    out = model.generate(**inputs(expected, "one"), **STOPLESS, max_new_tokens=12, streamer=streamer)
    length = expected["one.input_ids"].shape[1]
    assert "".join(streamer) == tokenizer.decode(out[0, length:])


def test_the_padding_token_inside_a_picture_is_no_padding(model, expected):
    """Without a mask transformers takes every padding token for padding; one stands in each picture's place."""
    given = inputs(expected, "one", without=("attention_mask", "position_ids"))
    out = model.generate(**given, **STOPLESS, max_new_tokens=16)
    assert out[:, given["input_ids"].shape[1] :].tolist() == expected["one.generated"].tolist()


@torch.no_grad()
def test_a_loop_by_hand_needs_no_positions(model, expected):
    """A picture's positions share one id, so the next is not the cache's length."""
    given = inputs(expected, "batch")
    cache = DynamicCache(config=model.config)
    out = model(**given, past_key_values=cache, use_cache=True)
    mask = model.transformer.embed(**given).mask
    tokens = []
    for _ in range(expected["batch.generated"].shape[1]):
        token = out.logits[:, -1:].argmax(-1)
        tokens.append(token)
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        out = model(token, attention_mask=mask, past_key_values=out.past_key_values)
    assert torch.cat(tokens, dim=1).tolist() == expected["batch.generated"].tolist()


def test_a_second_turn_goes_on_from_the_cache(model, expected):
    given = inputs(expected, "one")
    cache = DynamicCache(config=model.config)
    first = model.generate(**given, **STOPLESS, max_new_tokens=4, past_key_values=cache)
    more = torch.cat((first, torch.tensor([[707, 64, 65, 708]])), dim=1)
    again = model.generate(input_ids=more, images=given["images"], **STOPLESS, max_new_tokens=4, past_key_values=cache)
    fresh = model.generate(input_ids=more, images=given["images"], **STOPLESS, max_new_tokens=4)
    assert again.tolist() == fresh.tolist()


def test_what_cannot_be_done_is_said(model, expected):
    given = inputs(expected, "one")
    with pytest.raises(UsageError, match="attention weights are not computed"):
        model(**given, output_attentions=True)
    with pytest.raises(UsageError, match="a transformers Cache is wanted"):
        model(**given, past_key_values=((None, None),))
    small = StaticCache(config=model.config, max_cache_len=4)
    with pytest.raises(UsageError, match="do not fit in a static cache of 4"):
        model(**given, past_key_values=small)
    cache = DynamicCache(config=model.config)
    model(**given, past_key_values=cache)
    with pytest.raises(UsageError, match="attention_mask has 3 positions"):
        model(given["input_ids"][:, :1], attention_mask=torch.ones(1, 3), past_key_values=cache)
    with pytest.raises(UsageError, match="either input_ids or inputs_embeds"):
        model()


@torch.no_grad()
def test_embeddings_in_place_of_ids(model, expected):
    given = inputs(expected, "text")
    words = model.get_input_embeddings()(given.pop("input_ids"))
    torch.testing.assert_close(model(inputs_embeds=words, **given).logits, expected["text.logits"], **TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.* is deprecated:FutureWarning")
def test_checkpointing_in_both_towers_changes_no_gradient(config, tensors, expected):
    grads = []
    for on in (False, True):
        model = ChatGLMForConditionalGeneration(config)
        model.load_state_dict(tensors)
        model.train()
        if on:
            model.gradient_checkpointing_enable()
            assert model.transformer.encoder.gradient_checkpointing
            assert model.transformer.vision.transformer.gradient_checkpointing
        calls = []
        model.transformer.vision.transformer.layers[0].register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        model(**inputs(expected, "one"), labels=expected["one.labels"]).loss.backward()
        assert len(calls) == (2 if on else 1)
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-5)


def test_reentrant_checkpointing_is_replaced(config):
    model = ChatGLMForConditionalGeneration(config)
    with pytest.warns(UserWarning, match="use_reentrant=True becomes False"):
        model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(UsageError, match="every block or none"):
        model.activation_checkpointing_enable(every_n_layers=2)


@torch.no_grad()
def test_more_words(config, tensors, expected, tmp_path):
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**config.to_diff_dict())).eval()
    model.load_state_dict(tensors)
    model.resize_token_embeddings(800, mean_resizing=False)
    assert model.config.vocab_size == model.config.padded_vocab_size == 800
    out = model(**inputs(expected, "one")).logits
    assert out.shape[-1] == 800
    torch.testing.assert_close(out[..., :768], expected["one.logits"], **TOLERANCE)
    model.save_pretrained(tmp_path)
    again = ChatGLMForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs(expected, "one")).logits, out)


def test_tied_words_share_one_tensor_and_are_saved_once(config, tmp_path):
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**{**config.to_diff_dict(), "tie_word_embeddings": True}))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert "transformer.output_layer.weight" not in load_file(tmp_path / "model.safetensors")
    again = ChatGLMForConditionalGeneration.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


@torch.no_grad()
def test_classes_pool_each_rows_last_token_on_either_side(config, expected):
    torch.manual_seed(0)
    model = ChatGLMForSequenceClassification(ChatGLMConfig(**config.to_diff_dict(), num_labels=3)).eval()
    rows = [torch.tensor([[702, 704, 64, 65]]), torch.tensor([[702, 704, 66]])]
    alone = torch.cat([model(row).logits for row in rows])
    pad = torch.tensor([[700]])
    for side in ("left", "right"):
        short = torch.cat((pad, rows[1]) if side == "left" else (rows[1], pad), dim=1)
        mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1] if side == "left" else [1, 1, 1, 0]])
        both = model(torch.cat((rows[0], short)), attention_mask=mask).logits
        torch.testing.assert_close(both, alone, **TOLERANCE)
    labels = torch.tensor([2, 0])
    out = model(torch.cat((rows[0], short)), attention_mask=mask, labels=labels)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_trainer_takes_it(config, tensors, expected, tmp_path):
    model = ChatGLMForConditionalGeneration(config)
    model.load_state_dict(tensors)
    row = {name: value[0] for name, value in inputs(expected, "one").items()} | {"labels": expected["one.labels"][0]}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        logging_steps=1,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=[row] * 8)
    trainer.train()
    first = trainer.state.log_history[0]["loss"]
    assert first == pytest.approx(float(expected["one.loss"][0]), abs=1e-3)
