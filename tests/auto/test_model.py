"""The Auto classes for models: golden numbers, the keywords that matter, round trips."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors import safe_open

from uncrate.auto import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from uncrate.errors import PlanError, UsageError
from uncrate.models.chatglm.hf import ChatGLMForConditionalGeneration, ChatGLMForSequenceClassification

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
FRESH = pytest.mark.filterwarnings("ignore:.*newly initialised:UserWarning")


def stored_bytes(folder):
    found = {}
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                found[name] = (
                    tensor.dtype,
                    tuple(tensor.shape),
                    tensor.contiguous().view(torch.uint8).numpy().tobytes(),
                )
    return found


@pytest.mark.parametrize("cls", [AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM])
@torch.no_grad()
def test_golden_numbers_through_every_entry_of_auto_map(cls, golden, expected, one):
    model = cls.from_pretrained(golden, trust_remote_code=True)
    assert isinstance(model, ChatGLMForConditionalGeneration) and not model.training
    torch.testing.assert_close(model(**one).logits, expected["one.logits"], **TOLERANCE)
    wanted = expected["one.generated"]
    out = model.generate(**one, do_sample=False, eos_token_id=None, max_new_tokens=wanted.shape[1])
    assert out[:, one["input_ids"].shape[1] :].tolist() == wanted.tolist()


def test_weights_stay_in_the_mapped_files(golden):
    model = AutoModelForCausalLM.from_pretrained(golden)
    copied = AutoModelForCausalLM.from_pretrained(golden, disable_mmap=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, copied.get_parameter(name))
        assert parameter.requires_grad
    assert model.generation_config.eos_token_id == [700, 707, 709]
    assert model.name_or_path == str(golden)


def test_open_save_open_keeps_every_byte_and_key(golden, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(golden)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert stored_bytes(tmp_path) == stored_bytes(golden)
    kept, source = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, golden))
    assert kept.keys() == source.keys()
    assert {key for key in source if kept[key] != source[key]} == {"architectures", "transformers_version"}
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [700, 707, 709]
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    assert stored_bytes(tmp_path / "again") == stored_bytes(golden)


def test_unknown_keys_survive(copied, tmp_path):
    values = json.loads((copied / "config.json").read_text()) | {"nobody_knows": {"a": [1]}, "top_k": 3}
    (copied / "config.json").write_text(json.dumps(values))
    AutoModelForCausalLM.from_pretrained(copied).save_pretrained(tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert kept["nobody_knows"] == {"a": [1]} and kept["top_k"] == 3 and kept.keys() == values.keys()


def test_half_precision_is_saved_as_it_is_opened(golden, tmp_path, one):
    half = AutoModelForCausalLM.from_pretrained(golden, dtype="bfloat16")
    half.save_pretrained(tmp_path)
    assert len({each.untyped_storage().data_ptr() for each in half.parameters()}) == len(list(half.parameters()))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(again(**one).logits, half(**one).logits)


def test_a_missing_class_head_is_initialised_named_and_warned_about(golden, one):
    with pytest.warns(UserWarning, match=r"classifier_head\.weight, classifier_head\.bias: not in the checkpoint"):
        model, info = AutoModelForSequenceClassification.from_pretrained(golden, num_labels=4, output_loading_info=True)
    assert isinstance(model, ChatGLMForSequenceClassification)
    assert info["missing_keys"] == {"classifier_head.weight", "classifier_head.bias"}
    assert info["unexpected_keys"] == {"transformer.output_layer.weight"}
    assert model(**one).logits.shape == (1, 4)


@FRESH
def test_a_stored_class_head_is_read(golden, tmp_path, one):
    model = AutoModelForSequenceClassification.from_pretrained(golden, num_labels=3)
    model.save_pretrained(tmp_path)
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == set()
    with torch.no_grad():
        assert torch.equal(again(**one).logits, model(**one).logits)
    assert isinstance(AutoModel.from_pretrained(tmp_path), ChatGLMForSequenceClassification)


def test_any_other_missing_tensor_is_an_error(copied):
    values = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**values, "num_layers": 4}))
    with pytest.raises(PlanError, match=r"missing: transformer\.encoder\.layers\.3"):
        AutoModelForCausalLM.from_pretrained(copied)


@FRESH
def test_attributes_change_the_plan(golden, one):
    with pytest.raises(PlanError, match=r"unexpected: transformer\.encoder\.layers\.2"):
        AutoModelForCausalLM.from_pretrained(golden, num_layers=2)
    model, info = AutoModelForCausalLM.from_pretrained(golden, pre_seq_len=3, use_cache=False, output_loading_info=True)
    assert info["missing_keys"] == {"transformer.prefix_encoder.embedding.weight"}
    assert model(**one).past_key_values is None


def test_a_config_object_is_used_as_it_is(golden, one):
    config = AutoConfig.from_pretrained(golden, output_hidden_states=True)
    model = AutoModelForCausalLM.from_pretrained(golden, config=config)
    assert len(model(**one).hidden_states) == 4
    assert model.config is not config
    assert AutoModelForCausalLM.from_pretrained(golden, config=str(golden)).config.num_layers == 3
    with pytest.raises(UsageError, match="config is given, and use_cache besides"):
        AutoModelForCausalLM.from_pretrained(golden, config=config, use_cache=False)


def test_positional_arguments_reach_the_class(golden):
    AutoModelForCausalLM.from_pretrained(golden, False, None)
    with pytest.raises(TypeError):
        AutoModelForCausalLM.from_pretrained(golden, False, None, "too many")


@pytest.mark.parametrize("cls", [AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification])
def test_from_config(cls, golden, one):
    config = AutoConfig.from_pretrained(golden)
    model = cls.from_config(config, dtype=torch.bfloat16, attn_implementation="eager", trust_remote_code=True)
    assert model.dtype == torch.bfloat16 and not hasattr(config, "never")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert model(**one).logits.isfinite().all()
    with pytest.raises(UsageError, match="dtyp is not known"):
        cls.from_config(config, dtyp="x")


@torch.no_grad()
def test_tied_words_that_are_stored_once(golden, tmp_path, one):
    config = AutoConfig.from_pretrained(golden, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    assert "transformer.output_layer.weight" not in stored_bytes(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again(**one).logits, model(**one).logits)


class TestDeviceMap:
    @pytest.mark.parametrize(
        "device_map", [None, "auto", "balanced", "sequential", "cpu", {"": "cpu"}, torch.device("cpu")]
    )
    def test_one_device(self, golden, device_map, one, expected):
        model = AutoModelForCausalLM.from_pretrained(golden, device_map=device_map)
        with torch.no_grad():
            torch.testing.assert_close(model(**one).logits, expected["one.logits"], **TOLERANCE)

    def test_parts_on_disk_run_through_accelerates_hooks(self, golden, tmp_path, one, expected):
        parts = {"transformer.embedding": "cpu", "transformer.vision": "disk", "transformer.rotary_pos_emb": "cpu"}
        parts |= {"transformer.encoder": "disk", "transformer.output_layer": "cpu"}
        model = AutoModelForCausalLM.from_pretrained(golden, device_map=parts, offload_folder=str(tmp_path))
        assert model.hf_device_map == parts
        with torch.no_grad():
            torch.testing.assert_close(model(**one).logits, expected["one.logits"], **TOLERANCE)

    def test_memory_bounds_what_auto_places(self, golden, tmp_path):
        memory = {"cpu": "600KB"}
        model = AutoModelForCausalLM.from_pretrained(
            golden, device_map="auto", max_memory=memory, offload_folder=str(tmp_path), offload_buffers=True
        )
        assert "disk" in model.hf_device_map.values()
        vision = {place for name, place in model.hf_device_map.items() if name.startswith("transformer.vision")}
        assert len(vision) == 1

    def test_the_vision_tower_is_never_split(self, golden):
        with pytest.raises(UsageError, match=r"splits transformer\.vision(?s:.)*placed whole"):
            AutoModelForCausalLM.from_pretrained(
                golden,
                device_map={
                    "transformer.vision.conv": "cpu",
                    "transformer.vision.transformer": "disk",
                    "transformer": "cpu",
                },
            )
        assert "VisionTower" in ChatGLMForConditionalGeneration._no_split_modules

    @pytest.mark.parametrize(
        ("device_map", "says"),
        [
            ("nowhere", "which is no device"),
            (-1, "device -1"),
            (1.5, "device_map is a float"),
            ("meta", "would load no weights"),
            ({"transformer": "disk"}, "whole model on disk"),
            ({"transformer.vision": "disk", "transformer": "cpu"}, "no folder is named"),
            ("cuda:77", "no device 'cuda:77' here"),
        ],
    )
    def test_what_is_no_map(self, golden, device_map, says):
        with pytest.raises(UsageError, match=says):
            AutoModelForCausalLM.from_pretrained(golden, device_map=device_map)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class TestTransformersOwn:
    """A model type of transformers: the same classes, numbers and loading info as transformers gives."""

    @pytest.mark.parametrize("name", ["AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"])
    @FRESH
    def test_the_class_that_was_asked_for(self, llama, name):
        ours, info = getattr(__import__("uncrate.auto").auto, name).from_pretrained(llama, output_loading_info=True)
        theirs, their_info = getattr(transformers, name).from_pretrained(llama, output_loading_info=True)
        assert type(ours) is type(theirs)
        assert info["missing_keys"] == their_info["missing_keys"]
        shared = ours.state_dict().keys() - info["missing_keys"]
        assert all(torch.equal(ours.state_dict()[key], theirs.state_dict()[key]) for key in shared)

    def test_what_only_native_models_take(self, llama):
        with pytest.raises(UsageError, match="only models that uncrate runs itself"):
            AutoModel.from_pretrained(llama, disable_mmap=True)
        with pytest.raises(UsageError, match="hidden_siz is not known; hidden_size is"):
            AutoModel.from_pretrained(llama, hidden_siz=1)
        assert AutoModel.from_pretrained(llama, output_hidden_states=True).config.output_hidden_states

    def test_from_config(self, llama):
        config = AutoConfig.from_pretrained(llama)
        assert type(AutoModel.from_config(config)) is transformers.LlamaModel
