"""Stored tensors into foreign classes: names, shapes, dtypes, ties, and every fault by name."""

from __future__ import annotations

import json

import pytest
import torch
from runtime.custom.closures import classes, closure, eager, stored
from runtime.custom.test_models import WIDE

from uncrate.errors import CodeError, ConfigError, MissingPackage, PlanError
from uncrate.runtime.custom_code import load_class
from uncrate.runtime.foreign import build_config, open_model

PARTS = """
    import math
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    class Config(PretrainedConfig):
        model_type = "parts"

        def __init__(self, size=4, fault=None, **kwargs):
            self.size = size
            self.fault = fault
            super().__init__(tie_word_embeddings=False, **kwargs)

    class Sinus(nn.Embedding):
        # A parameter that is computed and never stored.
        def __init__(self, length, size):
            super().__init__(length, size)
            self.weight = self._table(self.weight)

        @staticmethod
        def _table(out):
            values = torch.sin(torch.arange(out.numel(), dtype=torch.float32)).view(out.shape)
            out.requires_grad = False
            out[:] = values
            out.detach_()
            return out

    class Body(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.linear = nn.Linear(size, size)
            self.norm = nn.LayerNorm(size, dtype=torch.float32)
            self.gate = nn.Linear(size, 1)
            self.register_buffer("scale", torch.tensor([math.pi, 2.0]))
            self.register_buffer("table", torch.linspace(0, 1, 5), persistent=False)
            self.rate = [x.item() for x in torch.linspace(0, 1, 3)]

    class Base(PreTrainedModel):
        config_class = Config
        base_model_prefix = "body"
        _keys_to_ignore_on_load_missing = [r"positions\\.weight"]
        _keys_to_ignore_on_load_unexpected = [r"old_thing"]
        _keep_in_fp32_modules_strict = ["gate"]

        def _init_weights(self, module):
            # As old code does it: straight into the data, whatever is loaded already.
            if isinstance(module, nn.Linear):
                module.weight.data.fill_(0.25)
                if module.bias is not None:
                    module.bias.data.fill_(0.5)

    class Model(Base):
        def __init__(self, config):
            super().__init__(config)
            if config.fault:
                raise RuntimeError(config.fault)
            self.body = Body(config.size)
            self.positions = Sinus(6, config.size)
            self.classifier_head = nn.Linear(config.size, 2)
            self.post_init()

    class Reads(Base):
        # Computes with its own parameters while it is built.
        def __init__(self, config):
            super().__init__(config)
            self.body = Body(config.size)
            self.start = nn.Parameter(torch.full((3,), 2.0))
            self.total = float(self.start.sum().item())
            self.register_buffer("copied", self.start.detach() * 2, persistent=False)
            self.post_init()
"""
FILES = closure(parts=PARTS)


def parts(name: str = "Model"):
    return load_class(*FILES, f"parts.{name}"), load_class(*FILES, "parts.Config")


def tensors(**change: torch.Tensor | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made: dict[str, torch.Tensor | None] = {
        "body.linear.weight": torch.randn(4, 4),
        "body.linear.bias": torch.randn(4),
        "body.norm.weight": torch.randn(4),
        "body.norm.bias": torch.randn(4),
        "body.gate.weight": torch.randn(1, 4),
        "body.gate.bias": torch.randn(1),
        "body.scale": torch.randn(2),
        "classifier_head.weight": torch.randn(2, 4),
        "classifier_head.bias": torch.randn(2),
    }
    made.update({name.replace("__", "."): tensor for name, tensor in change.items()})
    return {name: tensor for name, tensor in made.items() if tensor is not None}


def opened(given: dict[str, torch.Tensor], name: str = "Model", **options):
    model_class, config_class = parts(name)
    return open_model(model_class, build_config(config_class, {}), given, **options)


def test_values():
    given = tensors()
    model, filled = opened(given)
    for name, tensor in given.items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert model.body.linear.weight.data_ptr() == given["body.linear.weight"].data_ptr(), "no copy where none is needed"
    assert torch.equal(model.body.table, torch.linspace(0, 1, 5)) and model.body.rate == [0.0, 0.5, 1.0]
    assert filled.computed == ("positions.weight",)
    assert torch.equal(model.positions.weight.flatten(), torch.sin(torch.arange(24.0)))
    assert not model.positions.weight.requires_grad and model.body.linear.weight.requires_grad and not model.training


def test_all_faults_at_once():
    given = tensors(
        body__linear__weight=None, body__norm__bias=torch.ones(5), body__gate__weight=torch.ones(1, 4, dtype=torch.int8)
    )
    with pytest.raises(PlanError) as caught:
        opened(given)
    faults = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 3
    for words in (
        "body.linear.weight: no file holds it",
        "body.norm.bias: the shape is (5,)",
        "body.gate.weight: the dtype is torch.int8",
    ):
        assert words in faults


def test_a_new_head_is_initialised_by_the_class_and_its_neighbours_are_left_alone():
    given = tensors(classifier_head__weight=None)
    with pytest.raises(PlanError):
        opened(given)
    model, filled = opened(given, new=("classifier_head.*",))
    assert filled.initialised == ("classifier_head.weight",)
    assert torch.equal(model.classifier_head.weight, torch.full((2, 4), 0.25))
    assert torch.equal(model.classifier_head.bias, given["classifier_head.bias"])
    assert torch.equal(model.body.linear.weight, given["body.linear.weight"])


def test_leftovers():
    _, filled = opened(tensors(old_thing=torch.ones(1), body__stray=torch.ones(2)))
    assert filled.ignored == ("old_thing",) and filled.unexpected == ("body.stray",)
    _, filled = opened(tensors(body__scale=None))
    assert filled.buffers == ("body.scale",)


def test_names_with_and_without_the_base_prefix_and_old_spellings():
    bare = {name.removeprefix("body."): tensor for name, tensor in tensors().items()}
    bare["norm.gamma"] = bare.pop("norm.weight")
    bare["norm.beta"] = bare.pop("norm.bias")
    model, filled = opened(bare)
    assert not filled.unexpected and torch.equal(model.body.norm.weight, bare["norm.gamma"])


@pytest.mark.parametrize("asked", [None, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float32])
def test_dtypes(asked, kept):
    given = {name: tensor.to(kept) for name, tensor in tensors().items()}
    model, _ = opened(given, dtype=asked)
    wanted = asked or kept
    assert model.body.linear.weight.dtype == wanted and model.dtype == wanted
    assert torch.equal(model.body.linear.weight, given["body.linear.weight"].to(wanted))
    assert model.body.norm.weight.dtype == torch.float32, "the class chose it"
    assert model.body.gate.weight.dtype == torch.float32, "the class keeps it in float32"
    assert torch.get_default_dtype() == torch.float32


def test_a_class_that_reads_its_parameters_is_built_in_full():
    given = tensors(start=torch.ones(3), classifier_head__weight=None, classifier_head__bias=None)
    model, _ = opened(given, "Reads")
    assert (
        model.total == 6.0
        and torch.equal(model.copied, torch.full((3,), 4.0))
        and torch.equal(model.start, torch.ones(3))
    )


def test_a_tied_head_that_the_file_holds_differently_stays_apart():
    model_class, config_class = classes(*WIDE)
    values = {"tie_word_embeddings": True}
    reference = eager(model_class, config_class, values)
    reference.tie_weights()
    given = stored(reference)
    given["lm_head.weight"] = given["lm_head.weight"] + 1
    model, filled = open_model(model_class, build_config(config_class, values), given)
    assert torch.equal(model.lm_head.weight, given["lm_head.weight"]) and not filled.tied
    assert any("lm_head.weight" in note for note in filled.notes)


def test_generation_values():
    model_class, config_class = classes(*WIDE)
    values = {"num_beams": 3, "use_cache": False, "forced_bos_token_id": 5, "eos_token_id": 9}
    reference = eager(model_class, config_class, values)
    model, _ = open_model(model_class, build_config(config_class, values), stored(reference))
    config = model.generation_config
    assert (config.num_beams, config.use_cache, config.forced_bos_token_id, config.eos_token_id) == (3, False, 5, 9)
    file = {"max_new_tokens": 7, "temperature": 0.5, "do_sample": True, "user_token_id": 195}
    model, _ = open_model(model_class, build_config(config_class, values), stored(reference), generation=file)
    config = model.generation_config
    assert (config.max_new_tokens, config.do_sample, config.user_token_id) == (7, True, 195)
    assert config.num_beams in (None, 1), "generation_config.json is there: config.json has no say"


def test_save_and_open_again(tmp_path):
    model_class, config_class = classes(*WIDE)
    values = {"rope_scaling": {"type": "linear", "factor": 2.0}, "num_beams": 2, "unheard_of": [1]}
    reference = eager(model_class, config_class, values)
    model, _ = open_model(model_class, build_config(config_class, values), stored(reference))
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["rope_scaling"]["factor"] == 2.0 and written["unheard_of"] == [1] and written["num_beams"] == 2
    from safetensors.torch import load_file

    again, _ = open_model(
        model_class, build_config(config_class, written), load_file(str(tmp_path / "model.safetensors"))
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_errors_of_the_checkpoints_code_are_sentences():
    model_class, config_class = parts()
    with pytest.raises(CodeError, match=r"RuntimeError: no \\u001b luck"):
        open_model(model_class, build_config(config_class, {"fault": "no \x1b luck"}), tensors())
    with pytest.raises(ConfigError, match="refuses config"):
        build_config(config_class, {"id2label": {"x": "y"}})
    source = PARTS.replace("raise RuntimeError(config.fault)", "import flash_attn_nowhere")
    model_class = load_class(*closure(parts=source), "parts.Model")
    with pytest.raises(MissingPackage, match="flash_attn_nowhere"):
        open_model(model_class, build_config(model_class.config_class, {"fault": "x"}), tensors())
