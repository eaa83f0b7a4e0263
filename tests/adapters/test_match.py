"""Every tensor of an adapter against the base: all that does not fit is told at once, and nothing is loaded then."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loras import PREFIX, golden_shapes, lora_tensors, modules_named, write_lora
from tiny import GOLDEN

import uncrate
from uncrate import Options
from uncrate.adapters.patterns import first_match, is_bounded, is_target
from uncrate.errors import PlanError

QKV = "transformer.encoder.layers.0.self_attention.query_key_value"
DENSE = "transformer.encoder.layers.0.self_attention.dense"


def problems(tmp_path, tensors=None, options=None, **changes):
    return uncrate.plan(str(write_lora(tmp_path / "lora", tensors, **changes)), options or Options()).problems


def test_every_fault_in_one_message(tmp_path):
    tensors = lora_tensors(modules_named("query_key_value"))
    a, b = f"{PREFIX}{QKV}.lora_A.weight", f"{PREFIX}{QKV}.lora_B.weight"
    other = QKV.replace("layers.0", "layers.1")
    tensors[a] = torch.zeros(6, 64)
    tensors[b] = torch.zeros(128, 4, dtype=torch.int32)
    del tensors[f"{PREFIX}{other}.lora_B.weight"]
    tensors[f"{PREFIX}transformer.encoder.layers.7.mlp.lora_A.weight"] = torch.zeros(4, 4)
    tensors[f"{PREFIX}{DENSE}.weight"] = torch.zeros(64, 64)
    tensors[f"{PREFIX}transformer.vision.conv.lora_A.weight"] = torch.zeros(4, 48, 2, 2)
    tensors["something else"] = torch.zeros(2)
    found = problems(tmp_path, tensors)
    text = "\n".join(found)
    assert f"wrong dtype: {b} is stored as I32" in text
    assert f"missing: {QKV}.lora_B" in text and f"missing: {other}.lora_B" in text
    assert "the base has no module transformer.encoder.layers.7.mlp" in text
    assert f"{DENSE}.weight is a whole parameter that modules_to_save does not name" in text
    assert "transformer.vision.conv is of shape [64, 48, 2, 2]" in text
    assert "something else [2] names nothing in the base" in text
    assert len(found) == 7 and all(line.startswith("adapter lora: ") for line in found)
    with pytest.raises(PlanError) as caught:
        uncrate.open(str(tmp_path / "lora"))
    assert caught.value.faults == found


def test_rank_against_shapes(tmp_path):
    text = "\n".join(problems(tmp_path, r=16))
    assert f"wrong shape: {QKV}.lora_A is [4, 64], rank 16 implies [16, 64]" in text and text.count("lora_B is") == 5
    assert problems(tmp_path, r=16, rank_pattern={"query_key_value": 4}) == ()
    assert len(problems(tmp_path, r=4, rank_pattern={"layers.0.self_attention.query_key_value": 2})) == 2


def test_a_cut_file_is_no_weaker_adapter(tmp_path):
    tensors = lora_tensors(modules_named("query_key_value")[:3])
    found = problems(tmp_path, tensors)
    assert len(found) == 2 and all("vision" in line and "target_modules names it" in line for line in found)
    assert problems(tmp_path, tensors, Options(allow_missing=("*vision*",))) == ()
    assert len(problems(tmp_path, tensors, target_modules=r".*attention\.query_key_value")) == 2
    assert problems(tmp_path, tensors, exclude_modules=["vision"]) == ()


def test_modules_to_save_must_be_whole(tmp_path):
    tensors = lora_tensors(modules_named("query_key_value"))
    found = problems(tmp_path, tensors, modules_to_save=["output_layer"])
    assert len(found) == 1 and "transformer.output_layer.weight is not in the file" in found[0]
    tensors[f"{PREFIX}transformer.output_layer.weight"] = torch.zeros(768, 63)
    assert "[768, 63], the base has [768, 64]" in problems(tmp_path, tensors, modules_to_save=["output_layer"])[0]
    tensors[f"{PREFIX}transformer.output_layer.weight"] = torch.zeros(768, 64)
    assert problems(tmp_path, tensors, modules_to_save=["output_layer", "score"]) == ()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 8}, "prefix tuning"),
        ({"peft_type": "IA3"}, "type IA3"),
        ({"use_qalora": True}, "QALoRA"),
        ({"target_parameters": ["weight"]}, "bare parameters"),
        ({"layer_replication": [[0, 1]]}, "repeated layers"),
        ({"trainable_token_indices": [1]}, "rows of the word embedding"),
        ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's weights"),
        ({"surprise_from_the_future": 3}, "/surprise_from_the_future is unknown"),
        ({"lora_alpha": "8"}, "/lora_alpha must be a number"),
        ({"lora_alpha": 1e300}, "/lora_alpha must be a number"),
        ({"use_dora": "yes"}, "/use_dora must be true or false"),
        ({"use_dora": True}, "lora_magnitude_vector is not in the file"),
        ({"bias": "some"}, "/bias must be none"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "not a module's name or a short pattern"),
        ({"rank_pattern": [1]}, "/rank_pattern must be an object"),
    ],
)
def test_what_is_not_done_is_refused(tmp_path, changes, part):
    assert any(part in line for line in problems(tmp_path, **changes)), problems(tmp_path, **changes)


def test_what_training_leaves_behind_means_nothing(tmp_path):
    quiet = {
        "auto_mapping": None, "corda_config": None, "eva_config": None, "exclude_modules": None, "loftq_config": {},
        "init_lora_weights": "gaussian", "layer_replication": None, "layers_pattern": None, "megatron_config": None,
        "megatron_core": "megatron.core", "peft_version": "0.14.0", "qalora_group_size": 16, "revision": None,
        "use_dora": False, "use_rslora": False, "a_new_switch": False, "another": None,
    }  # fmt: skip
    assert problems(tmp_path, **quiet) == ()


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(.*)*x",
        "(a|aa)+",
        ".*" * 40,
        "(?=a)b",
        r"(a)\1",
        "x" * 3000,
        "(((a|b)|c)|d)*",
        "a{1,99999}b{1,99999}",
    ],
)
def test_hostile_patterns_are_not_run(tmp_path, pattern):
    start = time.perf_counter()
    assert not is_bounded(pattern)
    assert is_target(pattern, "a" * 80) is None
    if len(pattern) <= 2000:
        plan = uncrate.plan(str(write_lora(tmp_path / "lora", target_modules=pattern)))
        assert plan.problems == () and any("not run" in note for note in plan.notes)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("pattern", "module", "found"),
    [
        ("query_key_value", "a.b.query_key_value", True),
        ("key_value", "a.b.query_key_value", False),
        (r"b\.query_key_value", "a.b.query_key_value", True),
        (r"^a\.b\.query_key_value", "a.b.query_key_value", True),
        (r"^b\.query_key_value", "a.b.query_key_value", False),
        (r"layers\.[0-9]+\.dense", "x.layers.12.dense", True),
        (r"layers\.(0|1)\.dense", "x.layers.1.dense", True),
        (r"layers\.(0|1)\.dense", "x.layers.2.dense", False),
        (".*dense", "x.layers.2.dense", True),
    ],
)
def test_keys_of_rank_and_alpha_pattern_mean_what_they_mean_to_peft(pattern, module, found):
    from peft.utils.other import get_pattern_key

    assert (first_match([pattern], module) is not None) is found
    assert (get_pattern_key([pattern], module) == pattern) is found


@given(st.text(alphabet="ab.*+()|[]^$\\d{}1?-", max_size=30), st.text(alphabet="ab.1", max_size=80))
def test_bounded_patterns_end(pattern, module):
    start = time.perf_counter()
    is_target(pattern, module)
    first_match([pattern], module)
    assert time.perf_counter() - start < 1


def test_lists_mean_ends_of_names():
    assert is_target(("dense", "x.y"), "a.dense") and is_target(("dense",), "dense") and is_target(("x.y",), "a.x.y")
    assert not is_target(("dense",), "a.condense") and not is_target((), "a")


def test_a_file_with_both_spellings_of_one_key(tmp_path):
    tensors = lora_tensors(modules_named("query_key_value"))
    tensors[f"{PREFIX}{QKV}.lora_A.default.weight"] = tensors[f"{PREFIX}{QKV}.lora_A.weight"].clone()
    assert "twice" in problems(tmp_path, tensors)[0]


def test_keys_with_the_adapters_name_and_without_prefix(tmp_path):
    tensors = {
        name.removeprefix(PREFIX).replace(".weight", ".default.weight"): value
        for name, value in lora_tensors(modules_named("query_key_value")).items()
    }
    assert problems(tmp_path, tensors) == ()


def test_weights_that_are_missing_or_pickled(tmp_path):
    lora = write_lora(tmp_path / "lora")
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    assert "pickle" in uncrate.plan(str(lora)).problems[0]
    (lora / "adapter_model.bin").unlink()
    assert "there are no weights" in uncrate.plan(str(lora)).problems[0]


def test_planning_an_adapter_imports_no_torch(tmp_path):
    import subprocess
    import sys

    lora = write_lora(tmp_path / "lora")
    heavy = "*(n for n in ('torch', 'transformers', 'peft', 'numpy') if n in sys.modules)"
    code = f"import sys, uncrate; uncrate.plan({str(lora)!r}); print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_golden_shapes_are_the_fixtures_ground():
    assert len(modules_named("query_key_value")) == 5 and f"{QKV}.weight" in golden_shapes()
    assert uncrate.plan(str(GOLDEN)).adapters == ()
