"""Models that no native family claims, down the whole road: plan, permission, open, answer; and pickles."""

from __future__ import annotations

import json
import pickle
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import GOLDEN, TEXT, golden_tensors, random_tensors, write_checkpoint

import uncrate
from uncrate import Options
from uncrate.errors import CodeError, MalformedWeights, NotApproved, PlanError

CONFIGURATION = """
from transformers import PretrainedConfig
class XConfig(PretrainedConfig):
    model_type = "x-test"
    def __init__(self, hidden_size=16, vocab_size=32, **kwargs):
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        super().__init__(**kwargs)
"""
MODELING = """
import torch
from torch import nn
from transformers import PreTrainedModel
from .configuration_x import XConfig
from . import scales
with open({marker!r}, "w") as marker:
    marker.write("it ran")
class XModel(PreTrainedModel):
    config_class = XConfig
    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.register_buffer("scale", torch.tensor(scales.scale()), persistent=False)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
    def _init_weights(self, module):
        raise RuntimeError("nothing may be initialised over stored weights")
    def forward(self, input_ids):
        return self.head(self.words(input_ids) * self.scale)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's home with no lock and no store, and a working directory of its own."""
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def custom(home, name="custom"):
    folder = home / name
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    shapes = {"words.weight": (32, 16), "head.weight": (32, 16), "head.bias": (32,)}
    save_file({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, folder / "model.safetensors")
    auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XModel"}
    config = {"model_type": "x-test", "hidden_size": 16, "vocab_size": 32, "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_x.py").write_text(CONFIGURATION)
    (folder / "modeling_x.py").write_text(MODELING.format(marker=str(home / "marker")))
    (folder / "scales.py").write_text("def scale():\n    return 3.0\n")
    return folder


def approve(folder):
    sha = uncrate.plan(str(folder)).to_dict()["code"]["closure"][:8]
    assert uncrate.trust(str(folder), sha=sha).approved


def test_custom_code_runs_only_when_approved_and_gives_what_the_file_holds(home):
    folder = custom(home)
    plan = uncrate.plan(str(folder))
    assert plan.route == "custom" and not plan.approved and plan.code_will_run == ()
    with pytest.raises(NotApproved) as caught:
        uncrate.open(str(folder))
    assert "uncrate trust" in str(caught.value) and caught.value.exit_code == 3
    assert not uncrate.verify(str(folder)).approved and not (home / "marker").exists()
    approve(folder)
    assert uncrate.plan(str(folder)).code_will_run == ("configuration_x.py", "modeling_x.py", "scales.py")
    opened = uncrate.open(str(folder))
    assert (home / "marker").exists()
    stored = load_file(folder / "model.safetensors")
    for name, parameter in opened.model.named_parameters():
        assert torch.equal(parameter, stored[name])
    assert opened.model.scale.item() == 3.0  # a buffer that no file holds is what __init__ computed
    ids = torch.tensor([[1, 2, 3]])
    wanted = (stored["words.weight"][ids] * 3.0) @ stored["head.weight"].T + stored["head.bias"]
    torch.testing.assert_close(opened.model(ids), wanted)


def test_approval_is_void_when_auto_map_is_repointed_and_does_not_serve_others(home):
    first = custom(home)
    approve(first)
    second = home / "second"
    shutil.copytree(first, second)
    uncrate.open(str(second))  # the same content is the same program, wherever it lies
    config = json.loads((second / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = "configuration_x.XConfig"
    (second / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotApproved):
        uncrate.open(str(second))
    (first / "scales.py").write_text("def scale():\n    return 4.0\n")
    with pytest.raises(NotApproved):
        uncrate.open(str(first))


def test_the_planned_bytes_run_even_when_the_files_are_swapped(home):
    folder = custom(home)
    approve(folder)
    plan = uncrate.plan(str(folder))
    (folder / "scales.py").write_text("raise SystemExit('swapped')\n")
    from uncrate.open import carry_out

    assert carry_out(plan).model.scale.item() == 3.0


def test_what_nothing_uses_is_told(home):
    folder = custom(home)
    save_file(load_file(folder / "model.safetensors") | {"spare.weight": torch.zeros(2)}, folder / "model.safetensors")
    approve(folder)
    assert uncrate.open(str(folder)).remarks == ("stored, but used by nothing: spare.weight",)


def test_code_that_fails_ends_as_one_sentence(home):
    folder = custom(home)
    (folder / "scales.py").write_text("raise ValueError('no')\n")
    approve(folder)
    with pytest.raises(CodeError, match=r"ValueError: no"):
        uncrate.open(str(folder))


def test_custom_weights_that_do_not_fit(home):
    folder = custom(home)
    stored = load_file(folder / "model.safetensors")
    del stored["head.bias"]
    stored["head.weight"] = torch.zeros(31, 16)
    save_file(stored, folder / "model.safetensors")
    approve(folder)
    with pytest.raises(PlanError) as caught:
        uncrate.open(str(folder))
    assert "head.bias" in str(caught.value) and "head.weight" in str(caught.value)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes)).eval()
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return folder, model


def test_transformers_own_class(home, llama):
    folder, model = llama
    plan = uncrate.plan(str(folder))
    assert (plan.route, plan.class_reference, plan.problems) == ("transformers", "transformers:LlamaForCausalLM", ())
    opened = uncrate.open(str(folder))
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(opened.model(ids).logits, model(ids).logits)
    assert opened.model.lm_head.weight.data_ptr() == opened.model.model.embed_tokens.weight.data_ptr()
    wanted = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert torch.equal(opened.model.generate(ids, max_new_tokens=6, do_sample=False), wanted)
    with pytest.raises(uncrate.UncrateError, match="there is no tokenizer"):
        opened.generate([[{"role": "user", "content": "hi"}]])


def test_routes_can_be_forced_and_refused(home, llama):
    folder, _ = llama
    plan = uncrate.plan(str(folder), Options(route="native"))
    assert plan.route == "none" and "--route transformers" in " ".join(plan.problems)
    plan = uncrate.plan(str(folder), Options(route="custom"))
    assert "names no code of its own" in " ".join(plan.problems)
    plan = uncrate.plan(str(GOLDEN), Options(route="custom"))  # auto_map names code that is not there
    assert plan.route != "native" and "modeling_chatglm.py is not in the checkpoint" in " ".join(plan.problems)
    with pytest.raises(PlanError):
        uncrate.open(str(GOLDEN), Options(route="transformers"))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_only_when_allowed(home, legacy):
    folder = write_checkpoint(home / "bin", TEXT, {"a": torch.zeros(1)})
    (folder / "model.safetensors").unlink()
    tensors = random_tensors(TEXT)
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PlanError, match="--allow-pickle"):
        uncrate.open(str(folder))
    model = uncrate.open(str(folder), Options(allow_pickle=True)).model
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[name])
    del tensors["transformer.output_layer.weight"]
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PlanError, match=r"missing: transformer\.output_layer\.weight"):
        uncrate.open(str(folder), Options(allow_pickle=True))


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_a_pickle_that_is_a_program_is_refused(home):
    folder = write_checkpoint(home / "evil", TEXT, {"a": torch.zeros(1)})
    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil(str(home / "marker"))}, folder / "pytorch_model.bin")
    with pytest.raises(MalformedWeights, match="weights-only reader refuses"):
        uncrate.open(str(folder), Options(allow_pickle=True))
    assert not (home / "marker").exists()


def test_golden_weights_as_pickle(home):
    folder = write_checkpoint(home / "g", json.loads((GOLDEN / "config.json").read_text()), {"a": torch.zeros(1)})
    (folder / "model.safetensors").unlink()
    torch.save(golden_tensors() | {"transformer.rotary_pos_emb.inv_freq": torch.zeros(4)}, folder / "pytorch_model.bin")
    opened = uncrate.open(str(folder), Options(allow_pickle=True, dtype="bfloat16"))
    assert opened.model.transformer.dtype == torch.bfloat16


def test_a_planted_pyc_is_ignored(home):
    import importlib.util
    import py_compile

    folder = custom(home)
    evil = home / "evil.py"
    evil.write_text("def scale():\n    return 666.0\n")
    (folder / "__pycache__").mkdir()
    cached = importlib.util.cache_from_source(str(folder / "scales.py"))
    py_compile.compile(str(evil), cfile=cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    approve(folder)
    assert uncrate.open(str(folder)).model.scale.item() == 3.0


def test_an_altered_store_is_refused_by_other_processes(home):
    folder = custom(home)
    approve(folder)
    opened = uncrate.open(str(folder))
    (home / "class.pickle").write_bytes(pickle.dumps(type(opened.model)))
    load = "import pathlib, pickle, sys; pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())"
    command = [sys.executable, "-c", load, str(home / "class.pickle")]
    fine = subprocess.run(command, capture_output=True, text=True, check=False)
    assert fine.returncode == 0, fine.stderr
    stored = [path for path in (home / "home" / "store").rglob("*") if path.is_file() and b"3.0" in path.read_bytes()]
    for path in stored:
        path.chmod(0o600)
        path.write_bytes(b"def scale():\n    return 666.0\n")
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stored and refused.returncode != 0 and "TrustError" in refused.stderr


def test_code_in_another_repository_stays_where_it_was_approved(home, hub):
    files = {path.name: path.read_bytes() for path in custom(home).iterdir()}
    other = {name: files.pop(name) for name in ("configuration_x.py", "modeling_x.py", "scales.py")}
    config = json.loads(files["config.json"])
    config["auto_map"] = {name: f"other/code--{reference}" for name, reference in config["auto_map"].items()}
    hub.commit("other/code", other)
    hub.commit("some/model", files | {"config.json": json.dumps(config).encode()})
    sha = uncrate.plan("some/model").to_dict()["code"]["closure"][:8]
    uncrate.trust("some/model", sha=sha)
    assert uncrate.open("some/model").model.scale.item() == 3.0
    hub.commit("other/code", {"scales.py": b"raise SystemExit('moved')\n"})  # transformers would run this
    assert uncrate.open("some/model").model.scale.item() == 3.0


OPEN_AND_CHECK = "import sys, uncrate; assert uncrate.open(sys.argv[1]).model.scale.item() == 3.0; print('fine')"


@pytest.mark.slow
def test_sixteen_processes_open_at_once_on_an_empty_store(home):
    folder = custom(home)
    approve(folder)
    shutil.rmtree(home / "home" / "store")
    command = [sys.executable, "-c", OPEN_AND_CHECK, str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(16)]
    for process in started:
        out, err = process.communicate()
        assert (process.returncode, out) == (0, "fine\n"), err


@pytest.mark.slow
def test_ranks_of_torchrun_open_approved_code(home):
    folder = custom(home)
    approve(folder)
    program = home / "program.py"
    program.write_text(OPEN_AND_CHECK)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program), str(folder)]
    done = subprocess.run([sys.executable, *launch], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("fine") == 2, done.stderr


def test_the_example_that_reviews_and_approves(home, capsys, monkeypatch):
    folder = custom(home)
    script = str(Path(__file__).parent.parent / "examples" / "custom_code.py")
    monkeypatch.setattr(sys, "argv", [script, str(folder)])
    runpy.run_path(script, run_name="__main__")
    shown = capsys.readouterr().out
    assert "modeling_x.py" in shown and "uncrate trust" in shown and not (home / "marker").exists()
    sha = uncrate.plan(str(folder)).to_dict()["code"]["closure"][:8]
    monkeypatch.setattr(sys, "argv", [script, str(folder), sha])
    runpy.run_path(script, run_name="__main__")
    assert "XModel is open; ran configuration_x.py, modeling_x.py, scales.py" in capsys.readouterr().out
