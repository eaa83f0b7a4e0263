"""GLM-4V through code in its publisher's manner: the original's logits and tokens, and the native route's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runtime.custom.closures import STYLES, classes
from safetensors.torch import load_file
from tiny import GOLDEN

import uncrate
from uncrate import Options
from uncrate.errors import NotApproved
from uncrate.runtime.foreign import build_config, open_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*_jit_.*"),
]
EXPECTED = load_file(str(GOLDEN / "expected.safetensors"))


def stored() -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(GOLDEN.glob("model-*.safetensors")):
        tensors |= load_file(str(path))
    return tensors


@pytest.fixture(scope="module")
def model():
    model_class, config_class = classes(
        "glm4v2024", "modeling_chatglm.ChatGLMForConditionalGeneration", "configuration_chatglm.ChatGLMConfig"
    )
    config = build_config(config_class, json.loads((GOLDEN / "config.json").read_text()))
    generation = json.loads((GOLDEN / "generation_config.json").read_text())
    made, filled = open_model(model_class, config, stored(), generation=generation)
    assert not filled.unexpected and not filled.notes and not filled.initialised
    return made


def inputs(case: str) -> dict[str, torch.Tensor]:
    names = ("input_ids", "attention_mask", "position_ids", "images")
    return {name: EXPECTED[f"{case}.{name}"] for name in names if f"{case}.{name}" in EXPECTED}


def test_loaded_bytes(model):
    held = model.state_dict()
    assert held.keys() == stored().keys()
    for name, tensor in stored().items():
        assert torch.equal(held[name], tensor), name


@pytest.mark.parametrize("case", ["one", "text"])
def test_logits_and_tokens_of_the_original(model, case):
    given = inputs(case)
    wanted = EXPECTED[f"{case}.logits"]
    # The mask that forward wants has the picture's positions in it, as prepare_inputs_for_generation makes it.
    mask = torch.ones(wanted.shape[:2], dtype=torch.long)
    with torch.no_grad():
        logits = model(**{**given, "attention_mask": mask}).logits
    assert torch.allclose(logits, wanted, atol=1e-4)
    made = model.generate(**given, max_new_tokens=EXPECTED[f"{case}.generated"].shape[1], do_sample=False)
    assert torch.equal(made[:, given["input_ids"].shape[1] :], EXPECTED[f"{case}.generated"])


def test_stream_generate_and_beams(model):
    given = inputs("one")
    steps = list(model.stream_generate(given["input_ids"], images=given["images"], max_new_tokens=5, do_sample=False))
    length = given["input_ids"].shape[1]
    assert torch.equal(steps[-1][:, length:], EXPECTED["one.generated"][:, :5])
    assert model.generate(**given, max_new_tokens=3, num_beams=2, do_sample=False).shape[1] <= length + 3


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "glm"
    shutil.copytree(GOLDEN, folder)
    for path in (STYLES / "glm4v2024").glob("*.py"):
        shutil.copy(path, folder)
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_whole_road(checkpoint):
    """Not approved: refused. Approved: the custom class, equal to the native one on the same weights."""
    with pytest.raises(NotApproved):
        uncrate.open(str(checkpoint), Options(route="custom"))
    uncrate.trust(str(checkpoint), sha=uncrate.verify(str(checkpoint)).closure[:8])
    native = uncrate.open(str(checkpoint), Options(route="native"))
    custom = uncrate.open(str(checkpoint), Options(route="custom"))
    given = inputs("one")
    with torch.no_grad():
        ours = native.model(**given).logits
        theirs = custom.model(**{**given, "attention_mask": None}).logits
    assert torch.allclose(ours, theirs, atol=1e-4)
