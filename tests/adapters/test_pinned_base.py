"""A base that the user's lock pins: opened at its commit and no other, never pinned by data, written by a command."""

from __future__ import annotations

import json

import pytest
from loras import write_lora
from tiny import GOLDEN

import uncrate
from uncrate import Options
from uncrate.cli.main import main
from uncrate.errors import AdapterError, HubError, TrustError, UsageError
from uncrate.trust.lock import read_lock
from uncrate.trust.surface import pin_base

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.model")
DEAD = "/share/home/zr/models/glm-4v-9b"


def golden_files():
    names = [*FILES, "model.safetensors.index.json", *(path.name for path in GOLDEN.glob("model-*"))]
    return {name: (GOLDEN / name).read_bytes() for name in names}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty home, and an empty project as the working directory."""
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNCRATE_USER", "ada")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    (tmp_path / "project" / "uncrate.lock").write_text("version = 1\n")
    return tmp_path / "project"


def test_a_pinned_base_stays_when_main_moves(tmp_path, hub, project):
    commit = hub.commit("someone/model", golden_files())
    lora = str(write_lora(tmp_path / "lora", base="someone/model", revision="main"))
    pinned = pin_base(lora, "someone/model@main", note="checked by hand")
    assert pinned.base.shown == f"someone/model@{commit}" and (pinned.base.who, pinned.notes) == ("ada", ())
    assert pinned.lock == str(project / "uncrate.lock") and pinned.to_dict()["code_approved"] is False
    hub.commit("someone/model", {"config.json": b"{}"})
    plan = uncrate.plan(lora)
    assert plan.problems == () and plan.manifest.commit == commit
    assert plan.adapters[0].named_by == "the lock"
    assert any(note.startswith(f"base pinned by {project / 'uncrate.lock'}: someone/model -> ") for note in plan.notes)
    assert any("asks for revision main" in note for note in plan.notes)
    assert not any("moves" in note for note in plan.notes)
    assert uncrate.open(lora).adapters.active == ("lora",)


def test_the_caller_beats_the_lock(tmp_path, hub):
    hub.commit("someone/model", golden_files())
    lora = str(write_lora(tmp_path / "lora", base="someone/model"))
    pin_base(lora, "someone/model")
    plan = uncrate.plan(lora, Options(base=str(GOLDEN)))
    assert plan.adapters[0].named_by == "--base" and str(plan.manifest.source) == str(GOLDEN)
    assert not any("pinned" in note for note in plan.notes)


def test_a_dead_folder_and_a_folder_that_is_there_are_redirected(tmp_path, hub):
    commit = hub.commit("THUDM/glm-4v-9b", golden_files())
    for number, base in enumerate((DEAD, str(GOLDEN))):
        lora = str(write_lora(tmp_path / f"lora{number}", base=base))
        pin_base(lora, "THUDM/glm-4v-9b")
        assert uncrate.plan(lora).manifest.commit == commit


def test_an_adapter_on_the_hub_is_redirected_by_the_users_lock(tmp_path, hub):
    commit = hub.commit("someone/model", golden_files())
    folder = write_lora(tmp_path / "lora", base=DEAD)
    hub.commit("else/lora", {path.name: path.read_bytes() for path in folder.iterdir()})
    pin_base("else/lora", "someone/model")
    assert uncrate.plan("else/lora").manifest.commit == commit


@pytest.mark.parametrize(("target", "named"), [("THUDM", "zai-org"), ("zai-org", "ZhipuAI"), ("ZhipuAI", "thudm")])
def test_names_of_one_publisher_match_one_another(tmp_path, hub, target, named):
    commit = hub.commit("someone/copy", golden_files())
    pin_base(str(write_lora(tmp_path / "one", base=f"{target}/glm-4v-9b")), "someone/copy")
    assert uncrate.plan(str(write_lora(tmp_path / "two", base=f"{named}/glm-4v-9b"))).manifest.commit == commit
    with pytest.raises(AdapterError, match="cannot be reached"):
        uncrate.plan(str(write_lora(tmp_path / "three", base=f"{named}/glm-4-9b")))
    with pytest.raises(AdapterError, match="cannot be reached"):
        uncrate.plan(str(write_lora(tmp_path / "four", base="other/glm-4v-9b")))


def test_the_same_text_beats_another_name_of_the_model(tmp_path, hub):
    first, second = (hub.commit(repo, golden_files()) for repo in ("someone/first", "someone/second"))
    one = str(write_lora(tmp_path / "one", base="THUDM/glm-4v-9b"))
    two = str(write_lora(tmp_path / "two", base="zai-org/glm-4v-9b"))
    pin_base(one, "someone/first")
    pin_base(two, "someone/second")
    assert (uncrate.plan(one).manifest.commit, uncrate.plan(two).manifest.commit) == (first, second)


def test_no_other_name_is_tried_for_a_pinned_base(tmp_path, hub, project):
    commit = hub.commit("zai-org/glm-4v-9b", golden_files())
    lora = str(write_lora(tmp_path / "lora", base="zai-org/glm-4v-9b"))
    pin_base(lora, "zai-org/glm-4v-9b")
    lock = project / "uncrate.lock"
    lock.write_text(lock.read_text().replace('repo = "zai-org/', 'repo = "THUDM/'))
    with pytest.raises(AdapterError, match=f"THUDM/glm-4v-9b@{commit} cannot be reached") as caught:
        uncrate.plan(lora)
    assert str(lock) in str(caught.value)


@pytest.mark.parametrize("where", ["lora", "lora/deeper", "model"])
def test_a_lock_inside_a_checkpoint_pins_nothing(tmp_path, hub, monkeypatch, project, where):
    hub.commit("someone/model", golden_files())
    evil = hub.commit("evil/model", golden_files())
    lora = write_lora(tmp_path / "lora", base="someone/model")
    pin_base(str(lora), "evil/model")
    assert uncrate.plan(str(lora)).manifest.commit == evil
    inside = tmp_path / where
    inside.mkdir(exist_ok=True)
    (project / "uncrate.lock").rename(inside / "uncrate.lock")
    if where == "model":
        (inside / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(inside)
    plan = uncrate.plan(str(lora))
    assert plan.manifest.commit != evil and plan.adapters[0].named_by == "adapter_config.json"
    assert any("lies inside a checkpoint" in note for note in plan.notes)
    with pytest.raises(UsageError, match="lies inside the checkpoint"):
        pin_base(str(lora), "evil/model", lock=lora / "uncrate.lock")


def test_a_malformed_lock_ends_the_opening_of_an_adapter(tmp_path, project):
    lora = str(write_lora(tmp_path / "lora"))
    (project / "uncrate.lock").write_text('version = 1\n[[base]]\ntarget = "x"\n')
    with pytest.raises(TrustError, match="base 1 has no commit"):
        uncrate.plan(lora)
    assert uncrate.plan(lora, Options(base=str(GOLDEN))).problems == ()
    assert uncrate.plan(str(GOLDEN)).problems == (), "a plain checkpoint of the family reads no lock"


def test_what_cannot_be_pinned_is_refused_and_nothing_is_written(tmp_path, hub, project):
    hub.commit("someone/model", golden_files())
    lora = str(write_lora(tmp_path / "lora", base=DEAD))
    before = (project / "uncrate.lock").read_bytes()
    with pytest.raises(UsageError, match="is a folder"):
        pin_base(lora, str(GOLDEN))
    with pytest.raises(UsageError, match="is no adapter"):
        pin_base(str(GOLDEN), "someone/model")
    with pytest.raises(AdapterError, match="does not name its base"):
        pin_base(str(write_lora(tmp_path / "nameless", base=None)), "someone/model")
    with pytest.raises(HubError):
        pin_base(lora, "someone/nothing")
    assert (project / "uncrate.lock").read_bytes() == before


def test_the_command_pins_replaces_and_lists(tmp_path, hub, project, capsys):
    first = hub.commit("someone/model", golden_files())
    lora = str(write_lora(tmp_path / "lora", base=DEAD))
    assert main(["trust", lora, "--base", "someone/model", "--note", "the folder is gone"]) == 0
    out = capsys.readouterr().out
    assert f"{DEAD} -> someone/model@{first}" in out and "no code was approved" in out
    lock = project / "uncrate.lock"
    written = lock.read_bytes()
    assert main(["trust", lora, "--base", "someone/model", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["commit"], document["code_approved"]) == (first, False)
    assert lock.read_bytes() == written, "a pin that says the same stays as it is"
    second = hub.commit("someone/model", {"README.md": b"new"})
    assert main(["trust", lora, "--base", f"someone/model@{second}"]) == 0
    assert [base.commit for base in read_lock(lock).bases] == [second]
    assert main(["trust", lora, "--base", f"someone/model@{first}"]) == 0
    capsys.readouterr()
    assert main(["trust", "--list"]) == 0
    out = capsys.readouterr().out
    assert "base" in out and first[:16] in out and "someone/model" in out
    assert main(["trust", "--list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [base] = document["bases"]
    assert (base["target"], base["repo"], base["commit"]) == (DEAD, "someone/model", first)
    assert document["approvals"] == []
    assert main(["trust", lora, "--base", "someone/model", "--sha", "0" * 8]) == 2
