"""Adapters that PEFT itself made: nothing missing, nothing unexpected, the same logits."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from loras import IDS, IMAGE_IDS, KINDS, VISION, train_with_peft, write_lora
from tiny import GOLDEN

import uncrate
from uncrate import Options


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_pefts(tmp_path, kind):
    text, seen = train_with_peft(tmp_path / "lora", **KINDS[kind])
    where, options = str(tmp_path / "lora"), Options(base=str(GOLDEN))
    plan = uncrate.plan(where, options)
    assert plan.problems == () and len(plan.adapters) == 1
    opened = uncrate.open(where, options)
    with torch.inference_mode():
        torch.testing.assert_close(opened.model(IDS).logits, text, atol=1e-5, rtol=0)
        torch.testing.assert_close(opened.model(IMAGE_IDS, **VISION).logits, seen, atol=1e-5, rtol=0)
        opened.adapters.disable()
        assert not torch.allclose(opened.model(IDS).logits, text, atol=1e-2)


def test_the_keys_of_old_adapters_are_the_same_modules(tmp_path):
    """What PEFT 0.11 to 0.14 wrote over the original code, key by key."""
    train_with_peft(tmp_path / "lora", **KINDS["query_key_value"])
    plan = uncrate.plan(str(tmp_path / "lora"), Options(base=str(GOLDEN)))
    language = [f"transformer.encoder.layers.{n}.self_attention.query_key_value" for n in range(3)]
    vision = [f"transformer.vision.transformer.layers.{n}.attention.query_key_value" for n in range(2)]
    assert [module.module for module in plan.adapters[0].modules] == [*language, *vision]
    stored = set(plan.adapters[0].manifest.weights.tensors)
    assert stored == {f"base_model.model.{m}.lora_{part}.weight" for m in (*language, *vision) for part in ("A", "B")}


def test_opening_an_adapter_imports_neither_peft_nor_transformers(tmp_path):
    train_with_peft(tmp_path / "lora", **KINDS["query_key_value"])
    code = (
        f"import sys, uncrate; o = uncrate.open({str(tmp_path / 'lora')!r}, uncrate.Options(base={str(GOLDEN)!r}));"
        "print(o.adapters.names, *(n for n in ('peft', 'transformers') if n in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "('lora',)"


@pytest.mark.parametrize("kind", ["query_key_value", "pattern", "layers", "exclude", "ranks", "head"])
def test_transformers_objects_get_the_same_adapter(tmp_path, kind):
    from uncrate.auto import AutoModelForCausalLM

    text, seen = train_with_peft(tmp_path / "lora", **KINDS[kind])
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "lora"), base=str(GOLDEN))
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, text, atol=1e-5, rtol=0)
        torch.testing.assert_close(model(IMAGE_IDS, **VISION).logits, seen, atol=1e-5, rtol=0)


def test_a_pattern_that_never_ends_is_not_run_by_peft_either(tmp_path):
    from uncrate.auto import AutoModelForCausalLM

    lora = write_lora(tmp_path / "lora", target_modules="(.*.*.*)*(a+)+(.*.*.*)*$x", exclude_modules="(.+)+(.+)+x$")
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(str(lora))
    assert time.perf_counter() - start < 10
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 5
