"""Every generation of the family through the transformers classes gives what the native model gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import TEXT, golden_config, random_tensors, write_checkpoint
from transformers import pipeline

import uncrate
from uncrate.auto import AutoModelForCausalLM, AutoTokenizer
from uncrate.models.chatglm.hf import ChatGLMForConditionalGeneration, ChatGLMForSequenceClassification

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
GENERATIONS = {
    "ChatGLM2": {key: value for key, value in TEXT.items() if key != "classifier_dropout"},
    "ChatGLM2-32k": {
        **{key: value for key, value in TEXT.items() if key != "classifier_dropout"},
        "_name_or_path": "THUDM/chatglm2-6b-32k",
        "rope_ratio": 16,
    },
    "ChatGLM3": TEXT,
    "without groups": {**TEXT, "multi_query_attention": False},
    "layer norm, residual after": {**TEXT, "rmsnorm": False, "apply_residual_connection_post_layernorm": True},
    "biases, no last norm": {**TEXT, "add_bias_linear": True, "post_layer_norm": False},
    "float32 residuals": {**TEXT, "fp32_residual_connection": True},
    "prefix": {**TEXT, "pre_seq_len": 3},
    "projected prefix": {**TEXT, "pre_seq_len": 3, "prefix_projection": True},
    "GLM-4 long": {**TEXT, "eos_token_id": [2, 3], "rope_ratio": 500},
    "GLM-4V, three groups": golden_config(num_attention_heads=6, multi_query_group_num=3, hidden_size=96),
}


@pytest.fixture(params=GENERATIONS.values(), ids=GENERATIONS.keys())
def folder(request, tmp_path):
    config = json.loads(json.dumps(request.param))
    return write_checkpoint(tmp_path / "model", config, random_tensors(config))


@torch.no_grad()
def test_the_same_logits_and_greedy_tokens_with_every_cache(folder):
    native = uncrate.open(folder).model
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[5, 6, 7, 8, 9], [0, 0, 10, 11, 12]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    given = {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(model(**given).logits[mask.bool()], native(**given).logits[mask.bool()])
    wanted, seen, seen_mask = [], ids, mask
    for _ in range(5):
        token = native(seen, attention_mask=seen_mask).logits[:, -1:].argmax(-1)
        wanted.append(token)
        seen, seen_mask = torch.cat((seen, token), dim=1), torch.cat((seen_mask, torch.ones_like(token)), dim=1)
    stopless = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 5}
    for way in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert model.generate(**given, **stopless, **way)[:, 5:].tolist() == torch.cat(wanted, dim=1).tolist()


@torch.no_grad()
def test_saved_it_is_the_same_generation(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.transformer.config == model.transformer.config
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    kept = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert kept.keys() - json.loads((folder / "config.json").read_text()).keys() <= {"dtype", "transformers_version"}


@pytest.mark.filterwarnings("ignore:Passing `generation_config`")
def test_speculation_gives_the_greedy_answer(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(GOLDEN)
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN)
    chat = [{"role": "user", "content": "描述这张图片", "image": str(GOLDEN / "image.png")}]
    given = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    stopless = {"do_sample": False, "eos_token_id": None, "pad_token_id": 700, "max_new_tokens": 10}
    wanted = model.generate(**given, **stopless)
    assert torch.equal(model.generate(**given, **stopless, prompt_lookup_num_tokens=3), wanted)
    assert torch.equal(model.generate(**given, **stopless, assistant_model=model), wanted)


def test_a_pipeline(caplog):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(GOLDEN), AutoTokenizer.from_pretrained(GOLDEN)
    model.generation_config.max_new_tokens = 4
    talk = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (answer,) = talk([{"role": "user", "content": "你好"}])
    assert [message["role"] for message in answer["generated_text"]] == ["user", "assistant"]


@torch.no_grad()
def test_the_classes_open_folders_by_transformers_own_loader_too(tmp_path):
    ours = AutoModelForCausalLM.from_pretrained(GOLDEN)
    theirs, info = ChatGLMForConditionalGeneration.from_pretrained(GOLDEN, output_loading_info=True)
    assert not any(info.values())
    for name, tensor in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor)
    _, info = ChatGLMForSequenceClassification.from_pretrained(GOLDEN, output_loading_info=True)
    assert info["missing_keys"] == {"classifier_head.weight", "classifier_head.bias"}


@torch.no_grad()
def test_transformers_quantizing_loader_takes_the_roads_tensors():
    """Without a quantizer installed, the same way with none: nothing is missing, the frequencies are computed."""
    from uncrate.auto import native, quantize
    from uncrate.auto.config import AutoConfig
    from uncrate.runtime.mapping import map_weights

    plan = uncrate.plan(GOLDEN, uncrate.Options(device="cpu"))
    config = AutoConfig.from_pretrained(GOLDEN)
    tensors = native.quantizable(plan, map_weights(plan), config)
    model = quantize.build_quantized(native.CLASSES["causal"], config, tensors, None, dtype="float32", device_map=None)
    ids = torch.tensor([[702, 704, 64]])
    assert torch.equal(model(ids).logits, AutoModelForCausalLM.from_pretrained(GOLDEN)(ids).logits)
