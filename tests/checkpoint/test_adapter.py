"""Adapter folders: the typed reading of adapter_config.json, and the base as a redirect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint.checkpoints import sound, write

from uncrate.checkpoint.facts import Redirect
from uncrate.checkpoint.manifest import read_manifest
from uncrate.errors import AdapterError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "THUDM/glm-4v-9b",
    "r": 8,
    "lora_alpha": 32,
    "target_modules": ["query_key_value"],
    "revision": None,
}
NAME = "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value.lora_A.weight"


def adapter_folder(folder: Path, **changes: Any) -> Path:
    config = {key: value for key, value in {**LORA, **changes}.items() if value is not ...}
    return write(folder, {"adapter_config.json": config, "adapter_model.safetensors": sound({NAME: ("F32", [8, 64])})})


def test_an_adapter_folder(tmp_path: Path) -> None:
    manifest = read_manifest(adapter_folder(tmp_path))
    assert manifest.adapter is not None
    assert (manifest.adapter.peft_type, manifest.adapter.base) == ("LORA", "THUDM/glm-4v-9b")
    assert manifest.adapter.config["target_modules"] == ("query_key_value",)
    assert manifest.redirects == (Redirect("base", "THUDM/glm-4v-9b", "adapter_config.json", moving=True),)
    assert list(manifest.weights.tensors) == [NAME]
    assert dict(manifest.sheet())["adapter"] == "LORA on THUDM/glm-4v-9b"
    assert manifest.to_dict()["adapter"] == {"peft_type": "LORA", "base": "THUDM/glm-4v-9b", "config": LORA}


@pytest.mark.parametrize(
    ("base", "revision", "target", "moving"),
    [
        ("owner/name", None, "owner/name", True),
        ("owner/name", "main", "owner/name@main", True),
        ("owner/name", COMMIT, f"owner/name@{COMMIT}", False),
        (f"owner/name@{COMMIT}", None, f"owner/name@{COMMIT}", False),
        ("/data/glm-4v-9b", None, "/data/glm-4v-9b", False),
        ("../base", None, "../base", False),
        ("C:\\models\\glm", None, "C:\\models\\glm", False),
        ("glm-4v-9b", None, "glm-4v-9b", False),
    ],
)
def test_the_base_is_a_redirect(tmp_path: Path, base: str, revision: str | None, target: str, moving: bool) -> None:
    manifest = read_manifest(adapter_folder(tmp_path, base_model_name_or_path=base, revision=revision))
    assert manifest.redirects == (Redirect("base", target, "adapter_config.json", moving),)


def test_no_base_is_no_redirect(tmp_path: Path) -> None:
    manifest = read_manifest(adapter_folder(tmp_path, base_model_name_or_path=None))
    assert manifest.adapter is not None
    assert manifest.adapter.base is None
    assert manifest.redirects == ()


def test_a_pickled_adapter_is_listed(tmp_path: Path) -> None:
    write(tmp_path, {"adapter_config.json": LORA, "adapter_model.bin": b"x", "model.safetensors": sound({})})
    assert read_manifest(tmp_path).weights.format == "pickle"


def test_another_kind_of_adapter_is_carried(tmp_path: Path) -> None:
    manifest = read_manifest(adapter_folder(tmp_path, peft_type="PREFIX_TUNING", r=..., num_virtual_tokens=128))
    assert manifest.adapter is not None
    assert manifest.adapter.peft_type == "PREFIX_TUNING"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"peft_type": ...}, ["/peft_type is missing"]),
        ({"peft_type": 3}, ["/peft_type", "and is 3"]),
        ({"peft_type": "lora; rm -rf"}, ["/peft_type"]),
        ({"r": ...}, ["/r is missing"]),
        ({"r": 10**12}, ["/r must be a whole number from 1 to 65,536, and is 1000000000000"]),
        ({"r": True}, ["/r", "True"]),
        ({"r": 0}, ["/r"]),
        ({"r": "8"}, ["/r"]),
        ({"rank_pattern": {"a.b": 10**9}}, ["/rank_pattern/a.b"]),
        ({"target_modules": 7}, ["/target_modules"]),
        ({"target_modules": ["a", 1]}, ["/target_modules"]),
        ({"target_modules": "(a+)+" * 1000}, ["/target_modules", "2,000"]),
        ({"target_modules": ["x"] * 20_000}, ["/target_modules", "20,000"]),
        ({"base_model_name_or_path": ["a"]}, ["/base_model_name_or_path"]),
        ({"base_model_name_or_path": "a\x1b[31m/b"}, ["/base_model_name_or_path", "\\u001b"]),
        ({"revision": 5}, ["/revision"]),
        ({"r": -1, "peft_type": 1, "target_modules": 2}, ["/r", "/peft_type", "/target_modules"]),
    ],
)
def test_faults_are_told_all_at_once(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(AdapterError) as caught:
        read_manifest(adapter_folder(tmp_path, **changes))
    for part in ["adapter_config.json", *parts]:
        assert part in str(caught.value)
    assert "\x1b" not in str(caught.value)
