"""Adapters that PEFT itself made: nothing missing, nothing unexpected, the same logits."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from tiny import GOLDEN

import uncrate
from uncrate import Options

IDS = torch.tensor([[702, 704, 707, 10, 11, 12, 13, 14, 708, 20]])
VISION = {"images": torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)}
IMAGE_IDS = torch.tensor([[702, 704, 707, 10, 710, 700, 711, 14, 708, 20]])

KINDS = {
    "query_key_value": {"r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["query_key_value"]},
    "pattern": {"target_modules": r".*\.layers\.[0-9]+\.(?:self_)?attention\.query_key_value"},
    "many": {"r": 3, "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "fc1", "fc2"]},
    "rslora": {"r": 9, "lora_alpha": 5, "use_rslora": True, "target_modules": ["dense"]},
    "ranks": {
        "target_modules": ["query_key_value", "dense"],
        "rank_pattern": {"layers.1.self_attention.query_key_value": 2, "dense": 5},
        "alpha_pattern": {r"^transformer\.encoder\.layers\.0\.self_attention\.dense": 3, "dense": 40},
    },
    "fan": {"target_modules": ["query_key_value"], "fan_in_fan_out": True},
    "lora_bias": {"target_modules": ["query_key_value"], "lora_bias": True},
    "dora": {"target_modules": ["query_key_value", "dense_4h_to_h"], "use_dora": True, "lora_alpha": 20},
    "head": {"target_modules": ["query_key_value"], "modules_to_save": ["output_layer", "final_layernorm"]},
    "embedding": {"target_modules": ["word_embeddings", "query_key_value"]},
    "layers": {"target_modules": ["query_key_value"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "exclude": {"target_modules": ["query_key_value"], "exclude_modules": r".*vision.*"},
}


def train_with_peft(folder, **config):
    """A random adapter as PEFT saves it, and the logits that PEFT gives with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(uncrate.open(str(GOLDEN)).model, LoraConfig(**config)).eval()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 1.0 if "magnitude" in name else 0.0, 0.15)
        model.save_pretrained(folder)
    with torch.inference_mode():
        return model(IDS).logits, model(IMAGE_IDS, **VISION).logits


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
