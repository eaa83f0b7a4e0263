"""From an adapter to its base: the caller first, then what the adapter names, and a clear error where neither leads."""

from __future__ import annotations

import json
import os

import pytest
from loras import write_lora
from tiny import GOLDEN

import uncrate
from uncrate import Options
from uncrate.errors import AdapterError, HubError, UncrateError, UsageError

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.model")


def golden_files():
    names = [*FILES, "model.safetensors.index.json", *(path.name for path in GOLDEN.glob("model-*"))]
    return {name: (GOLDEN / name).read_bytes() for name in names}


def lora_files(folder, **changes):
    write_lora(folder, **changes)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_the_adapter_names(tmp_path):
    plan = uncrate.plan(str(write_lora(tmp_path / "poems")))
    assert plan.problems == () and plan.route == "native"
    assert str(plan.asked.source) == str(tmp_path / "poems") and str(plan.manifest.source) == str(GOLDEN)
    document = plan.to_dict()
    assert document["source"] == str(tmp_path / "poems") and document["model"]["source"] == str(GOLDEN)
    [link] = document["adapters"]
    assert (link["name"], link["base"], link["named_by"]) == ("poems", str(GOLDEN), "adapter_config.json")
    assert (link["peft_type"], link["modules"], link["ranks"]) == ("LORA", 5, [4])
    rows = dict(plan.sheet())
    assert rows["adapter"].startswith("poems: LoRA of rank 4 on 5 modules")
    assert rows["base"] == f"{GOLDEN}, named by adapter_config.json"


def test_the_caller_beats_a_dead_path(tmp_path):
    where = str(write_lora(tmp_path / "lora", base="/share/home/zr/models/glm-4v-9b"))
    with pytest.raises(AdapterError) as caught:
        uncrate.plan(where)
    text = str(caught.value)
    assert "/share/home/zr/models/glm-4v-9b" in text and "no such folder" in text
    assert "--base THUDM/glm-4v-9b" in text
    plan = uncrate.plan(where, Options(base=str(GOLDEN)))
    assert plan.problems == () and plan.adapters[0].named_by == "--base"
    assert any("--base is used" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("base", "part"),
    [
        (None, "does not name its base"),
        ("glm-4v-9b", "not here: glm-4v-9b"),
        ("C:\\models\\glm-4v-9b", "not here"),
        ("..\\..\\x", "not here"),
        ("a/b/c/d", "not here"),
        ("./\x1b[31mred", None),
    ],
)
def test_bases_that_lead_nowhere(tmp_path, base, part):
    where = str(write_lora(tmp_path / "lora", base=base))
    with pytest.raises(UncrateError) as caught:
        uncrate.plan(where)
    assert "\x1b" not in str(caught.value)
    if part:
        assert isinstance(caught.value, AdapterError) and part in str(caught.value) and "--base" in str(caught.value)


def test_a_bare_word_is_a_folder_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(GOLDEN, tmp_path / "glm-4v-9b")
    assert uncrate.plan(str(write_lora(tmp_path / "lora", base="glm-4v-9b"))).problems == ()


def test_a_folder_never_shadows_a_hub_id(tmp_path, monkeypatch, hub):
    (tmp_path / "someone").mkdir()
    os.symlink(GOLDEN, tmp_path / "someone" / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match=r"someone/model cannot be reached.*no such model"):
        uncrate.plan(str(write_lora(tmp_path / "lora", base="someone/model")))


def test_a_hub_base_is_pinned_at_its_commit(tmp_path, hub):
    commit = hub.commit("someone/model", golden_files())
    plan = uncrate.plan(str(write_lora(tmp_path / "lora", base="someone/model")))
    assert plan.problems == () and plan.manifest.commit == commit
    assert any(commit[:12] in note and "moves" in note for note in plan.notes)
    hub.commit("someone/model", {"config.json": b"{}"})
    opened = uncrate.open(str(tmp_path / "lora"), Options(base=f"someone/model@{commit}"))
    assert opened.adapters.active == ("lora",)


@pytest.mark.parametrize("there", ["zai-org", "THUDM"])
@pytest.mark.parametrize("named", ["THUDM", "ZhipuAI", "zai-org"])
def test_one_publisher_under_three_names(tmp_path, hub, there, named):
    commit = hub.commit(f"{there}/glm-4v-9b", golden_files())
    plan = uncrate.plan(str(write_lora(tmp_path / "lora", base=f"{named}/glm-4v-9b")))
    assert plan.problems == () and plan.manifest.commit == commit


def test_an_adapter_on_the_hub_with_a_base_on_the_hub(tmp_path, hub):
    model = hub.commit("someone/model", golden_files())
    adapter = hub.commit("else/lora", lora_files(tmp_path / "lora", base="someone/model", revision=model))
    plan = uncrate.plan("else/lora")
    assert (plan.asked.commit, plan.manifest.commit) == (adapter, model)
    assert plan.to_dict()["adapters"][0]["commit"] == adapter
    assert uncrate.open("else/lora").adapters.active == ("lora",)


def test_an_adapter_on_the_hub_chooses_no_folder_here(tmp_path, hub):
    hub.commit("else/lora", lora_files(tmp_path / "lora", base=str(GOLDEN)))
    with pytest.raises(AdapterError, match="an adapter from the hub chooses none here"):
        uncrate.plan("else/lora")
    assert uncrate.plan("else/lora", Options(base=str(GOLDEN))).problems == ()


def test_a_chain_of_adapters(tmp_path):
    inner = write_lora(tmp_path / "inner")
    outer = write_lora(tmp_path / "outer", base=str(inner))
    plan = uncrate.plan(str(outer))
    assert [item.name for item in plan.adapters] == ["inner", "outer"] and plan.problems == ()
    assert [label for label, _ in plan.sheet()][:5] == ["source", "adapter", "base", "adapter", "base"]
    opened = uncrate.open(str(outer))
    assert opened.adapters.active == ("inner", "outer")


def test_circles_end(tmp_path):
    write_lora(tmp_path / "a", base=str(tmp_path / "b"))
    write_lora(tmp_path / "b", base=str(tmp_path / "a"))
    with pytest.raises(AdapterError, match=r"in a circle: .*a -> .*b -> .*a"):
        uncrate.plan(str(tmp_path / "a"))
    write_lora(tmp_path / "self", base=str(tmp_path / "self"))
    with pytest.raises(AdapterError, match="in a circle"):
        uncrate.plan(str(tmp_path / "self"))
    for number in range(12):
        write_lora(tmp_path / f"long{number}", base=str(tmp_path / f"long{number + 1}"))
    with pytest.raises(AdapterError, match="too long"):
        uncrate.plan(str(tmp_path / "long0"))


def test_circles_over_the_hub_and_by_another_name_end(tmp_path, hub):
    hub.commit("THUDM/a", lora_files(tmp_path / "a", base="zai-org/a"))
    with pytest.raises(AdapterError, match="in a circle"):
        uncrate.plan("THUDM/a")


def test_base_for_what_is_no_adapter(tmp_path):
    with pytest.raises(UsageError, match="is no adapter"):
        uncrate.plan(str(GOLDEN), Options(base=str(GOLDEN)))


def test_a_broken_base_is_named_with_the_adapter(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with pytest.raises(AdapterError) as caught:
        uncrate.plan(str(write_lora(tmp_path / "lora", base=str(broken))))
    assert "adapter_config.json" in str(caught.value) and "config.json" in str(caught.value)


def test_adapters_put_on_a_model_say_what_they_were_trained_on(tmp_path, hub):
    hub.commit("someone/model", golden_files())
    lora = write_lora(tmp_path / "lora", base="THUDM/other")
    plan = uncrate.plan(str(GOLDEN), Options(adapters=(str(lora),)))
    assert any("trained on THUDM/other" in note for note in plan.notes)
    assert str(plan.asked.source) == str(GOLDEN) and plan.adapters[0].added
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        uncrate.plan(str(GOLDEN), Options(adapters=(str(GOLDEN),)))


def test_offline_uses_the_name_that_the_cache_knows(tmp_path, hub, monkeypatch):
    hub.commit("zai-org/glm-4v-9b", golden_files())
    uncrate.open("zai-org/glm-4v-9b")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lora = write_lora(tmp_path / "lora", base="THUDM/glm-4v-9b")
    assert uncrate.open(str(lora)).adapters.active == ("lora",)
    with pytest.raises((AdapterError, HubError), match="--base"):
        uncrate.plan(str(write_lora(tmp_path / "other", base="THUDM/glm-4-9b")))


def test_adapter_config_is_read_strictly(tmp_path):
    lora = write_lora(tmp_path / "lora", r=10**9)
    with pytest.raises(AdapterError, match="65,536"):
        uncrate.plan(str(lora))
    (lora / "adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(UncrateError, match="object"):
        uncrate.plan(str(lora))
