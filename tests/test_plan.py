"""Plans: every difference between config and files is told at once, and nothing is loaded then."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tiny import GOLDEN, TEXT, golden_config, golden_tensors, random_tensors, write_checkpoint

import uncrate
from uncrate import Options
from uncrate.errors import CheckpointError, ConfigError, PlanError, UncrateError, UsageError


def test_golden_plan():
    plan = uncrate.plan(str(GOLDEN))
    assert (plan.route, plan.family, plan.generation) == ("native", "chatglm", "GLM-4V")
    assert plan.problems == ()
    assert plan.parameters == sum(tensor.numel() for tensor in golden_tensors().values())
    assert plan.bytes == 4 * plan.parameters and plan.mapped and plan.dtype == "float32"
    assert [item.name for item in plan.left_out] == ["transformer.rotary_pos_emb.inv_freq"]
    document = plan.to_dict()
    assert document["schema"] == 1 and document["code"]["will_run"] == []
    assert {"family", "route", "class", "dtype", "device", "parameters", "bytes", "left_out", "problems"} <= set(
        document
    )


def test_every_fault_in_one_message_and_nothing_loaded(tmp_path):
    tensors = random_tensors(TEXT)
    del tensors["transformer.encoder.final_layernorm.weight"]
    tensors["transformer.output_layer.weight"] = torch.zeros(95, 32)
    name = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"
    tensors[name] = torch.zeros(32, 48, dtype=torch.int8)
    tensors["transformer.surprise"] = torch.zeros(3)
    where = str(write_checkpoint(tmp_path / "bad", TEXT, tensors, shards=2))
    with pytest.raises(PlanError) as caught:
        uncrate.open(where)
    text = str(caught.value)
    assert "missing: transformer.encoder.final_layernorm.weight [32]" in text
    assert "wrong shape: transformer.output_layer.weight is stored as [95, 32], the config implies [96, 32]" in text
    assert f"wrong dtype: {name} is stored as I8" in text
    assert "unexpected: transformer.surprise [3]" in text
    assert len(caught.value.faults) == 4 and "next:" in text


def test_allowed_by_pattern(tmp_path):
    tensors = random_tensors(TEXT)
    del tensors["transformer.output_layer.weight"]
    tensors["extra.thing"] = torch.zeros(3)
    where = str(write_checkpoint(tmp_path / "x", TEXT, tensors))
    options = Options(allow_missing=("transformer.output_layer.*",), allow_unexpected=("extra.*",))
    plan = uncrate.plan(where, options)
    assert plan.problems == () and plan.initialised == ("transformer.output_layer.weight",)
    assert [item.name for item in plan.left_out] == ["extra.thing"]
    assert uncrate.open(where, options).model.transformer.output_layer.weight.std() > 0


def test_a_config_without_weights_and_weights_without_a_config(tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "config.json").write_text((GOLDEN / "config.json").read_text())
    plan = uncrate.plan(str(tmp_path / "only"))
    assert plan.problems == ("there are no weights",) and plan.route == "native"
    where = write_checkpoint(tmp_path / "w", TEXT, random_tensors(TEXT))
    (where / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        uncrate.plan(str(where))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"num_layers": 10**12}, ["/num_layers", "between 1 and"]),
        ({"hidden_size": True}, ["/hidden_size", "whole number", "True"]),
        ({"kv_channels": None, "ffn_hidden_size": "96"}, ["/kv_channels: missing", "/ffn_hidden_size"]),
        ({"multi_query_group_num": 3}, ["/multi_query_group_num", "divide the 4"]),
        ({"boi_token_id": None}, ["/boi_token_id: missing"]),
        ({"boi_token_id": 768}, ["/boi_token_id", "outside the 768"]),
        ({"vision_config": [1]}, ["/vision_config: should be an object"]),
    ],
)
def test_config_faults_name_the_key(tmp_path, changes, parts):
    folder = write_checkpoint(tmp_path / "c", golden_config(**changes), {"a": torch.zeros(1)})
    with pytest.raises(ConfigError) as caught:
        uncrate.plan(str(folder))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_vision_faults(tmp_path):
    vision = golden_config()["vision_config"] | {"hidden_act": "sin", "num_positions": 5}
    folder = write_checkpoint(tmp_path / "c", golden_config(vision_config=vision), {"a": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"/vision_config/hidden_act.*sin") as caught:
        uncrate.plan(str(folder))
    assert "num_positions" in str(caught.value)


def test_other_models_say_so(tmp_path):
    for kind, part in (("glm4v", "GLM-4.1V"), ("nothing-known", "nothing-known")):
        folder = write_checkpoint(tmp_path / kind, {"model_type": kind}, {"a": torch.zeros(1)})
        plan = uncrate.plan(str(folder))
        assert part in " ".join((*plan.problems, *plan.notes))


def test_dtype_choices(tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(TEXT).items()}
    where = str(write_checkpoint(tmp_path / "b", TEXT, tensors))
    assert (uncrate.plan(where).dtype, uncrate.plan(where).mapped) == ("bfloat16", True)
    wide = uncrate.plan(where, Options(dtype="float32"))
    assert (wide.dtype, wide.mapped, wide.bytes) == ("float32", False, 2 * uncrate.plan(where).bytes)


def test_options_are_checked():
    with pytest.raises(UsageError, match=r"bf16.*choose from auto"):
        Options(dtype="bf16")
    with pytest.raises(UsageError, match=r"no device 'cuda:9' here; there is .*cpu"):
        uncrate.plan(str(GOLDEN), Options(device="cuda:9"))


def test_errors_survive_pickling():
    import pickle

    error = PlanError("what", ["one", "two"], where="here", next="do")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.faults == ("one", "two") and isinstance(again, UncrateError)


@pytest.mark.parametrize("line", ["uncrate.plan", "uncrate.inspect"])
def test_planning_imports_no_torch(line):
    heavy = "*(n for n in ('torch', 'transformers', 'numpy') if n in sys.modules)"
    code = f"import sys, uncrate; {line}({str(GOLDEN)!r}); print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == ""
    seen = subprocess.run([sys.executable, "-c", "import torch; " + code], capture_output=True, text=True, check=True)
    assert "torch" in seen.stdout, "the check above could not fail"


def test_options_of_a_wrong_type():
    with pytest.raises(UsageError, match='write it as text: dtype="bfloat16"'):
        Options(dtype=torch.bfloat16)
    with pytest.raises(UsageError, match="allow_missing is a tuple of texts"):
        Options(allow_missing="transformer.*")


def test_what_is_there_what_will_be_done_and_what_is_open_print_as_sheets():
    opened = uncrate.open(str(GOLDEN))
    for value in (opened.plan.manifest, opened.plan, opened):
        assert len(repr(value)) < 200 and str(GOLDEN) in repr(value)
        lines = str(value).splitlines()
        assert 5 < len(lines) < 20 and str(GOLDEN) in lines[0]
        assert value.to_dict()["schema"] == 1
    assert opened.to_dict()["report"]["seconds"].keys() == opened.report.seconds.keys()


@pytest.mark.parametrize("weights", ["none", "pickle"])
def test_where_no_header_lists_tensors_the_config_says_what_the_model_takes(tmp_path, weights):
    where = write_checkpoint(tmp_path / "c", TEXT | {"torch_dtype": "float16"}, random_tensors(TEXT))
    (where / "model.safetensors").unlink()
    if weights == "pickle":
        torch.save(random_tensors(TEXT), where / "pytorch_model.bin")
    plan = uncrate.plan(str(where), Options(allow_pickle=True))
    assert plan.parameters == sum(tensor.numel() for tensor in random_tensors(TEXT).values())
    assert (plan.bytes, plan.dtype, plan.mapped) == (2 * plan.parameters, "float16", False)
    assert plan.problems == (("there are no weights",) if weights == "none" else ())
