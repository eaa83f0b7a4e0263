"""The manifest as a whole: what is read, what is printed, how fast, and without what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint.checkpoints import sharded, sound, write

from uncrate.checkpoint.manifest import Manifest, read_manifest
from uncrate.errors import CheckpointError, MalformedJSON, SourceError, UsageError

GOLDEN = Path(__file__).parent.parent / "golden/data/glm4v-tiny"
HEAVY = ("torch", "transformers", "peft", "numpy", "huggingface_hub", "httpx2", "rich", "typer", "safetensors")


@pytest.fixture(scope="module")
def golden() -> Manifest:
    return read_manifest(GOLDEN)


def test_the_golden_checkpoint(golden: Manifest) -> None:
    assert golden.model_type == "chatglm"
    assert len(golden.weights.tensors) == 63
    assert golden.tokenizer == ("tokenizer.model", "tokenizer_config.json")
    assert set(golden.json_files) >= {"generation_config.json", "tokenizer_config.json"}
    assert golden.config == json.loads((GOLDEN / "config.json").read_bytes(), object_hook=_tuples)
    assert golden.commit is None


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}


def test_json_has_the_promised_keys(golden: Manifest) -> None:
    found = json.loads(json.dumps(golden.to_dict(), allow_nan=False))
    assert set(found) >= {
        "schema",
        "source",
        "config",
        "model_type",
        "weights",
        "code",
        "adapter",
        "tokenizer",
        "redirects",
    }
    assert found["schema"] == 1
    assert found["source"] == str(GOLDEN)
    assert found["config"] == json.loads((GOLDEN / "config.json").read_bytes())
    assert found["weights"]["tensors"] == 63
    assert found["weights"]["parameters"] == 264_468
    assert found["weights"]["bytes"] == 4 * 264_468
    assert found["weights"]["dtypes"] == {"F32": 63}
    assert [file["path"] for file in found["weights"]["files"]] == [
        f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)
    ]
    assert found["adapter"] is None
    assert found["redirects"] == []


def test_the_sheet_is_a_dozen_harmless_lines(tmp_path: Path) -> None:
    rows = read_manifest(GOLDEN).sheet()
    assert len(rows) <= 12
    assert dict(rows)["weights"] == "63 tensors, 264,468 parameters, 1.1 MB, F32"
    evil = "\x1b[2J\u202egnp"
    write(
        tmp_path,
        {
            "config.json": {"model_type": evil, "architectures": [evil, 3]},
            "model.safetensors": sound({"a": ("U8", [1])}, {evil: evil}),
        },
    )
    text = "\n".join(f"{label} {value}" for label, value in read_manifest(tmp_path).sheet())
    assert "\\u001b[2J\\u202egnp" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_what_steers_loading_must_be_strict_json_and_what_does_not_is_a_note(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "config.json": {},
            "trainer_state.json": '{"loss": NaN}',
            "modules.json": "[1]",
            "extra.json": {"a": 1},
            "vocab.json": "{broken",
        },
    )
    manifest = read_manifest(tmp_path)
    assert manifest.json_files == {"extra.json": {"a": 1}}
    assert any("trainer_state.json is passed over: NaN is not JSON" in note for note in manifest.notes)
    write(tmp_path, {"generation_config.json": '{"temperature": NaN}'})
    with pytest.raises(MalformedJSON, match=r"generation_config\.json:1:17: NaN is not JSON \(at /temperature\)"):
        read_manifest(tmp_path)


def test_code_is_listed_and_nothing_of_it_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')"
    write(
        tmp_path / "c",
        {
            "config.json": {"auto_map": {"AutoModel": "m.M"}},
            "m.py": code,
            "sub/n.py": code,
            ".git/x.py": code,
            "custom_generate/generate.py": code,
        },
    )
    manifest = read_manifest(tmp_path / "c")
    assert [file["path"] for file in manifest.to_dict()["code"]["files"]] == [
        "custom_generate/generate.py",
        "m.py",
        "sub/n.py",
    ]
    assert not marker.exists()


def test_subfolders(tmp_path: Path) -> None:
    sharded(tmp_path / "inner/deep")
    manifest = read_manifest(tmp_path, subfolder="inner/deep/")
    assert set(manifest.weights.tensors) == {"a", "b", "c"}
    assert manifest.open().read("config.json", 100) == b'{"model_type": "chatglm"}'
    for bad in ("../x", "/etc", "a//b", "inner/../.."):
        with pytest.raises(UsageError, match="subfolder"):
            read_manifest(tmp_path, subfolder=bad)
    with pytest.raises(SourceError, match="no such folder"):
        read_manifest(tmp_path, subfolder="absent")


def test_wrong_places_say_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SourceError, match=r"\./owner/name: there is no such folder\n  next: .*for the hub write owner/name"
    ):
        read_manifest("./owner/name")
    write(tmp_path, {"config.json": {}})
    with pytest.raises(SourceError, match=r"not a folder\n  next: .*: \."):
        read_manifest("./config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="there are no files"):
        read_manifest("./empty")


def test_the_bundled_checkpoint_is_found_by_its_name() -> None:
    assert read_manifest("nano").model_type == "chatglm"


def _large(folder: Path) -> Path:
    tensors = {f"transformer.encoder.layers.{i}.weight": ("F32", [8, 8]) for i in range(200)}
    write(folder, {"model.safetensors": sound(tensors)})
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        write(folder, {name: (GOLDEN / name).read_bytes()})
    return folder


PROGRAM = """
import sys
from uncrate.checkpoint.manifest import read_manifest
manifest = read_manifest(sys.argv[1])
manifest.sheet(), manifest.to_dict()
assert len(manifest.weights.tensors) == 200
print(" ".join(name for name in sys.argv[2:] if name in sys.modules))
"""


def test_a_folder_needs_no_heavy_import_and_less_than_0_3_seconds(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(_large(tmp_path)), *HEAVY]
    seconds = []
    for _ in range(3):
        start = _child_seconds()
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(_child_seconds() - start)
        assert found.stdout.split() == [], found.stdout
    assert min(seconds) < 0.3


def _child_seconds() -> float:
    """Processor seconds of all child processes so far: a busy machine does not count."""
    times = os.times()
    return times.children_user + times.children_system


def test_the_import_test_can_fail(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import numpy\n" + PROGRAM, str(_large(tmp_path)), *HEAVY]
    assert "numpy" in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
