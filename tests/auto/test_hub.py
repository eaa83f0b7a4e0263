"""The hub, through the real client: one commit for everything, and access as the keywords say."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig, get_peft_model

from uncrate.auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from uncrate.errors import HubError, SourceError, UsageError

REPO = "owner/model"


@pytest.fixture
def files(golden):
    names = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.model"]
    names += [file.name for file in golden.glob("model*")]
    return {name: (golden / name).read_bytes() for name in names}


def asked(hub):
    """What was asked of the hub, as (method, path)."""
    return [(request.method, request.path) for request in hub.requests]


def test_everything_comes_from_one_commit(hub, files, one):
    first = hub.commit(REPO, files)
    hub.commit(REPO, {"config.json": b"{}"})
    model = AutoModelForCausalLM.from_pretrained(REPO, revision=first)
    assert model.config.name_or_path == model.name_or_path == REPO
    assert model(**one).logits.isfinite().all()
    resolved = [path for _, path in asked(hub) if "/resolve/" in path]
    assert resolved and all(f"/resolve/{first}/" in path for path in resolved)
    assert AutoTokenizer.from_pretrained(f"{REPO}@{first}")("a")["input_ids"] == [702, 704, 64]


def test_two_revisions_in_one_call_must_agree(hub, files):
    commit = hub.commit(REPO, files)
    AutoConfig.from_pretrained(f"{REPO}@{commit}", revision=commit)
    with pytest.raises(UsageError, match="names a revision, and revision='main' another"):
        AutoConfig.from_pretrained(f"{REPO}@{commit}", revision="main")


def test_subfolder(hub, files):
    hub.commit(REPO, {f"inner/{name}": data for name, data in files.items()})
    assert AutoModelForCausalLM.from_pretrained(REPO, subfolder="inner").config.num_layers == 3
    assert AutoTokenizer.from_pretrained(REPO, subfolder="inner").image_size == 16
    with pytest.raises(SourceError, match="no folder other"):
        AutoConfig.from_pretrained(REPO, subfolder="other")


def test_the_cache_is_the_callers(hub, files, tmp_path):
    hub.commit(REPO, files)
    AutoModelForCausalLM.from_pretrained(REPO, cache_dir=tmp_path / "mine")
    assert list((tmp_path / "mine").glob("models--owner--model/snapshots/*/model-*.safetensors"))
    assert not list((tmp_path / "hf-home").rglob("*.safetensors"))
    before = len(hub.requests)
    AutoModelForCausalLM.from_pretrained(REPO, cache_dir=str(tmp_path / "mine"), local_files_only=True)
    assert len(hub.requests) == before
    with pytest.raises(HubError, match="not in the cache"):
        AutoModelForCausalLM.from_pretrained(REPO, local_files_only=True)


def test_files_are_fetched_again_when_asked(hub, files):
    hub.commit(REPO, files)

    def fetched():
        return sum(method == "GET" and path.endswith("/config.json") for method, path in asked(hub))

    AutoConfig.from_pretrained(REPO)
    once = fetched()
    AutoConfig.from_pretrained(REPO)
    assert fetched() == once
    AutoConfig.from_pretrained(REPO, force_download=True)
    assert fetched() > once


def test_the_token(hub, files):
    hub.commit(REPO, files)
    hub.restrict(REPO, access="private", token="hf_right")
    with pytest.raises(HubError):
        AutoConfig.from_pretrained(REPO)
    with pytest.raises(HubError):
        AutoConfig.from_pretrained(REPO, token="hf_wrong")
    assert AutoConfig.from_pretrained(REPO, token="hf_right").num_layers == 3
    assert "hf_right" not in repr(AutoConfig.from_pretrained(REPO, token="hf_right"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")
def test_an_adapter_of_the_hub_leads_to_its_base_there(hub, files, tmp_path):
    hub.commit(REPO, files)
    base = AutoModelForCausalLM.from_pretrained(REPO)
    tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["query_key_value"]))
    # Told whether words were added, PEFT does not ask the hub for the base.
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == REPO
    hub.commit("owner/poems", {file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()})
    for name in (REPO, "owner/poems"):
        hub.restrict(name, access="private", token="hf_both")
    cache = tmp_path / "mine"
    model = AutoModelForCausalLM.from_pretrained("owner/poems", token="hf_both", cache_dir=cache)
    assert model.active_adapters() == ["default"] and model.name_or_path == REPO
    assert {folder.name for folder in cache.iterdir()} >= {"models--owner--model", "models--owner--poems"}


def test_a_folder_of_the_same_name_never_shadows_the_hub(hub, files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "owner" / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(HubError, match=r"a folder named owner/model is here(?s:.)*write \./owner/model"):
        AutoConfig.from_pretrained(REPO)
    hub.commit(REPO, files)
    assert AutoConfig.from_pretrained(REPO).model_type == "chatglm"
    assert AutoConfig.from_pretrained("./owner/model").model_type == "bert"
