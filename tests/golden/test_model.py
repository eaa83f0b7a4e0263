"""The native GLM-4V against the original code's answers, number by number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from uncrate.families.chatglm import INV_FREQ, expected_tensors, read_config
from uncrate.generate.cache import KVCache
from uncrate.models.chatglm.model import ChatGLMForConditionalGeneration

GOLDEN = Path(__file__).parent / "data" / "glm4v-tiny"
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def config():
    return read_config(json.loads((GOLDEN / "config.json").read_text()))


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="module")
def model(config):
    tensors = {}
    for shard in sorted(GOLDEN.glob("model-*.safetensors")):
        tensors.update(load_file(shard))
    tensors.pop(INV_FREQ)
    model = ChatGLMForConditionalGeneration(config)
    model.load_state_dict(tensors)
    return model.eval()


def inputs(expected, case):
    names = ("input_ids", "images", "attention_mask", "position_ids")
    return {name: expected[f"{case}.{name}"] for name in names if f"{case}.{name}" in expected}


def test_names_and_shapes_are_the_checkpoints(config, model):
    with torch.device("meta"):
        meta = ChatGLMForConditionalGeneration(config)
    assert {name: tuple(tensor.shape) for name, tensor in meta.state_dict().items()} == expected_tensors(config)


@pytest.mark.parametrize("case", ["one", "text"])
@torch.inference_mode()
def test_logits(model, expected, case):
    logits = model(**inputs(expected, case)).logits
    torch.testing.assert_close(logits, expected[f"{case}.logits"], **TOLERANCE)


@torch.inference_mode()
def test_padded_batch(model, expected):
    given = inputs(expected, "batch")
    before_norm = []
    hook = model.transformer.encoder.final_layernorm.register_forward_pre_hook(
        lambda _, args: before_norm.append(args[0])
    )
    out = model(**given)
    hook.remove()
    embedded = model.transformer.embed(**given)
    real = embedded.mask.bool()
    assert real.shape == expected["batch.logits"].shape[:2]
    torch.testing.assert_close(out.logits[real], expected["batch.logits"][real], **TOLERANCE)
    # The original's `hidden_states[-1]` is what enters the final norm, whatever its description says.
    torch.testing.assert_close(before_norm[0][real], expected["batch.last_hidden"][real], **TOLERANCE)
    torch.testing.assert_close(model.transformer.vision(given["images"]), expected["batch.vision"], **TOLERANCE)


def test_loss_and_gradients(model, expected):
    out = model(**inputs(expected, "one"), labels=expected["one.labels"])
    torch.testing.assert_close(out.loss, expected["one.loss"][0], **TOLERANCE)
    model.zero_grad()
    out.loss.backward()
    qkv = model.transformer.encoder.layers[0].self_attention.query_key_value.weight.grad
    patches = model.transformer.vision.patch_embedding.proj.weight.grad
    torch.testing.assert_close(qkv, expected["one.grad.qkv0"], **TOLERANCE)
    torch.testing.assert_close(patches, expected["one.grad.vision_proj"], **TOLERANCE)
    model.zero_grad()


@pytest.mark.parametrize("case", ["one", "batch", "text"])
@torch.inference_mode()
def test_greedy_tokens_through_the_cache(model, expected, config, case):
    given, wanted = inputs(expected, case), expected[f"{case}.generated"]
    rows, length = given["input_ids"].shape
    cache = KVCache(
        layers=config.num_layers,
        batch=rows,
        groups=config.kv_groups,
        capacity=length + 40,
        channels=config.kv_channels,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    out = model(**given, cache=cache, logits_to_keep=1)
    position = given["position_ids"][:, -1:]
    tokens = []
    for _ in range(wanted.shape[1]):
        token = out.logits[:, -1:].argmax(-1)
        tokens.append(token)
        position = position + 1
        out = model(token, position_ids=position, cache=cache, logits_to_keep=1)
    assert torch.cat(tokens, dim=1).tolist() == wanted.tolist()
