"""Several adapters on one model: put on, choose, switch off, take off, and the plain model is itself again."""

from __future__ import annotations

import pytest
import torch
from loras import PREFIX, lora_tensors, modules_named, write_lora
from tiny import GOLDEN, golden_tensors

import uncrate
from uncrate import Options
from uncrate.errors import AdapterError, PlanError, UsageError
from uncrate.families.chatglm import read_config
from uncrate.models.chatglm.model import ChatGLMForConditionalGeneration

IDS = torch.tensor([[702, 704, 707, 10, 11, 12, 13, 14, 708, 20]])


def logits(opened):
    with torch.inference_mode():
        return opened.model(IDS).logits


def oracle(*loras, replaced=None):
    """Logits of a model whose weights are W + scale * B @ A, computed here."""
    tensors = golden_tensors() | (replaced or {})
    for lora, scale in loras:
        for key, a in lora.items():
            if key.endswith("lora_A.weight"):
                name = key.removeprefix(PREFIX).replace("lora_A.weight", "weight")
                tensors[name] = tensors[name] + scale * lora[key.replace("lora_A", "lora_B")] @ a
    import json

    model = ChatGLMForConditionalGeneration(read_config(json.loads((GOLDEN / "config.json").read_text())))
    model.load_state_dict(tensors)
    with torch.inference_mode():
        return model.eval()(IDS).logits


@pytest.fixture(scope="module")
def one():
    return lora_tensors(modules_named("query_key_value"))


@pytest.fixture(scope="module")
def two():
    return lora_tensors(modules_named("dense", "dense_4h_to_h"), rank=2, seed=1)


@pytest.fixture
def folders(tmp_path, one, two):
    first = write_lora(tmp_path / "one", one)
    return first, write_lora(tmp_path / "two", two, r=2, lora_alpha=6, target_modules=["dense", "dense_4h_to_h"])


def close(got, wanted):
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_the_sum_is_the_papers(folders, one, two):
    opened = uncrate.open(str(GOLDEN), Options(adapters=tuple(map(str, folders))))
    assert opened.adapters.names == opened.adapters.active == ("one", "two")
    close(logits(opened), oracle((one, 2.0), (two, 3.0)))
    opened.adapters.use("two")
    close(logits(opened), oracle((two, 3.0)))
    opened.adapters.use("one")
    close(logits(opened), oracle((one, 2.0)))
    with opened.adapters.disabled():
        assert torch.equal(logits(opened), logits(uncrate.open(str(GOLDEN))))
    close(logits(opened), oracle((one, 2.0)))


def test_put_on_later_and_taken_off(folders, one, two):
    opened = uncrate.open(str(GOLDEN))
    plain = logits(opened)
    assert opened.adapters.add(str(folders[0])) == "one" and opened.adapters.active == ("one",)
    assert opened.adapters.add(str(folders[1]), name="poems", use=False) == "poems"
    close(logits(opened), oracle((one, 2.0)))
    opened.adapters.use("one", "poems")
    close(logits(opened), oracle((one, 2.0), (two, 3.0)))
    opened.adapters.remove("one")
    close(logits(opened), oracle((two, 3.0)))
    opened.adapters.remove("poems")
    assert torch.equal(logits(opened), plain)
    assert all(type(module).__module__.startswith(("torch", "uncrate.models")) for module in opened.model.modules())


def test_names_and_weights_of_the_model_stay(folders):
    opened = uncrate.open(str(folders[0]))
    stored = golden_tensors()
    named = dict(opened.model.named_parameters())
    assert named.keys() == stored.keys() and all(torch.equal(named[name], stored[name]) for name in stored)
    assert opened.model.state_dict().keys() == stored.keys()


def test_whole_parameters_are_exchanged_and_given_back(tmp_path, one):
    head = {"transformer.output_layer.weight": torch.randn(768, 64) * 0.1}
    tensors = one | {PREFIX + name: value for name, value in head.items()}
    opened = uncrate.open(str(write_lora(tmp_path / "head", tensors, modules_to_save=["output_layer"])))
    close(logits(opened), oracle((one, 2.0), replaced=head))
    opened.adapters.disable()
    assert torch.equal(logits(opened), logits(uncrate.open(str(GOLDEN))))
    opened.adapters.use("head")
    close(logits(opened), oracle((one, 2.0), replaced=head))


def test_answers_change_with_the_adapter(folders):
    opened = uncrate.open(str(folders[0]))
    messages = [{"role": "user", "image": str(GOLDEN / "image.png"), "content": "hello"}]
    with_it = opened.generate([messages], max_new_tokens=8, temperature=0)[0].tokens
    opened.adapters.disable()
    plain = opened.generate([messages], max_new_tokens=8, temperature=0)[0].tokens
    assert plain == uncrate.open(str(GOLDEN)).generate([messages], max_new_tokens=8, temperature=0)[0].tokens != with_it


def test_half_precision_weights_keep_the_adapter_in_float32(folders, one):
    opened = uncrate.open(str(folders[0]), Options(dtype="bfloat16"))
    layer = opened.model.transformer.encoder.layers[0].self_attention.query_key_value
    assert layer.deltas["one"].a.dtype == torch.float32 and layer.weight.dtype == torch.bfloat16
    assert logits(opened).dtype == torch.bfloat16
    assert (logits(opened).float() - oracle((one, 2.0))).abs().max() < 0.2


def test_mistakes(folders, tmp_path):
    opened = uncrate.open(str(folders[0]))
    with pytest.raises(UsageError, match="no adapter 'nobody'"):
        opened.adapters.use("nobody")
    with pytest.raises(UsageError, match="there is one"):
        opened.adapters.remove("two")
    with pytest.raises(AdapterError, match="'one' is taken"):
        opened.adapters.add(str(folders[1]), name="one")
    assert opened.adapters.add(str(folders[0])) == "one-2"
    bad = write_lora(tmp_path / "bad", r=5)
    with pytest.raises(PlanError, match="does not fit this model"):
        opened.adapters.add(str(bad))
    assert opened.adapters.names == ("one", "one-2")
    with pytest.raises(AdapterError, match="adapter_config"):
        opened.adapters.add(str(GOLDEN))
