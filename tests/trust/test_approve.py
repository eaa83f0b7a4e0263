"""Permission: given to one state of the code, void for any other, beaten by a revocation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint.checkpoints import write
from hubserver import HubServer
from trust.children import child_env

import uncrate.trust
from uncrate.checkpoint.code import NO_CODE, read_code
from uncrate.checkpoint.manifest import read_manifest
from uncrate.errors import CodeError, NotApproved, TrustError, UsageError
from uncrate.trust.approve import approve, approved_sources, list_approvals, lock_for, revoke, verify
from uncrate.trust.store import Store


def test_eight_digits_approve_this_state(make: Any, home: Path) -> None:
    code, source = make()
    before = verify(code, source=source)
    assert not before.approved and before.new_files == ("helper.py", "modeling_x.py")
    with pytest.raises(NotApproved, match="not approved") as caught:
        before.require("./model")
    assert f"uncrate trust ./model --sha {code.closure[:8]}" in str(caught.value)
    assert not home.exists(), "asking writes nothing"
    status = approve(code, sha=code.closure[:8].upper(), source=source, note="read on Monday")
    assert status.approved and status.why.startswith("approved by ada on 20")
    assert verify(code, source=source) == status
    status.require()
    entry = list_approvals().approvals[0]
    assert (entry.who, entry.note, entry.source) == ("ada", "read on Monday", str(source))
    assert approved_sources(code.closure)[1] == dict(code.sources)
    json.dumps(status.to_dict())
    # Once more changes nothing.
    text = (home / "uncrate.lock").read_bytes()
    approve(code, sha=code.closure, source=source)
    assert (home / "uncrate.lock").read_bytes() == text


@pytest.mark.parametrize("sha", ["", "1234567", "xyzxyzxy", "../../../..", "g" * 64, "0" * 65, "\x1b[2J0000"])
def test_what_is_no_start_of_a_hash_is_a_usage_error(make: Any, sha: str) -> None:
    code, source = make()
    with pytest.raises(UsageError, match="not the start of a hash"):
        approve(code, sha=sha, source=source)


def test_the_digits_of_another_state_approve_nothing(make: Any, home: Path) -> None:
    code, source = make()
    seen = code.closure[:8]
    changed, _ = make(helper__py="x = 2\n")
    with pytest.raises(NotApproved, match=f"is {changed.closure[:8]}, not {seen}"):
        approve(changed, sha=seen, source=source)
    assert not home.exists()


def test_nothing_that_could_run_is_nothing_to_approve(make: Any) -> None:
    code, source = make(modeling_x__py="XModel = print\n")
    with pytest.raises(CodeError, match="no code that could run"):
        approve(code, sha=code.closure, source=source)
    with pytest.raises(CodeError, match="no code that could run"):
        approve(NO_CODE, sha="0" * 8)
    status = verify(NO_CODE)
    assert not status.approved and not status.needed
    status.require()


@pytest.mark.parametrize(
    "changes",
    [
        {"helper__py": "x = 1 \n"},
        {"helper__py": "x = 1\r\n"},
        {"modeling_x__py": "from .helper import x\nfrom . import more\nclass XModel: pass\n", "more__py": ""},
        {"config__json": {"auto_map": {"AutoModel": "modeling_x.Other"}}},
        {"config__json": {"auto_map": {"AutoModel": "modeling_x.XModel", "AutoConfig": "modeling_x.Other"}}},
        {"config__json": {"auto_map": {"AutoModelForCausalLM": "modeling_x.XModel"}}},
        {"config__json": {"text_config": {"auto_map": {"AutoModel": "modeling_x.XModel"}}}},
        {"tokenizer_config__json": {"auto_map": {"AutoTokenizer": ["modeling_x.Other", None]}}},
    ],
)
def test_any_change_of_code_or_of_its_use_voids_the_approval(make: Any, changes: dict[str, Any]) -> None:
    code, source = make()
    approve(code, sha=code.closure, source=source)
    changed, _ = make(**changes)
    assert changed.closure != code.closure
    assert not verify(changed, source=source).approved


def test_what_is_no_code_changes_nothing(make: Any) -> None:
    code, source = make()
    approve(code, sha=code.closure, source=source)
    same, _ = make(
        config__json={"auto_map": {"AutoModel": "modeling_x.XModel"}, "hidden_size": 3}, notes__py="x", README__md="x"
    )
    assert verify(same, source=source).approved


def test_trusting_a_serves_b_only_when_it_is_the_same_program(make: Any) -> None:
    a, source_a = make("a")
    approve(a, sha=a.closure, source=source_a)
    b, source_b = make("b")
    assert verify(b, source=source_b).approved, "permission is content, wherever it lies"
    shared, source = make(
        "c", extra__py="", modeling_x__py="from .helper import x\nfrom . import extra\nclass XModel: pass\n"
    )
    status = verify(shared, source=source)
    assert not status.approved
    assert status.known_files == ("helper.py",), "a file reviewed once is not reviewed again"
    assert status.new_files == ("extra.py", "modeling_x.py")
    assert "2 of 3 files are new" in status.why
    moved, source = make("d", config__json={"auto_map": {"AutoModel": "modeling_x.Other"}})
    status = verify(moved, source=source)
    assert not status.approved and status.new_files == () and "their use is new" in status.why


def test_no_key_of_the_checkpoint_grants_trust(make: Any) -> None:
    words = {"trust_remote_code": True, "trusted": True, "approved": "all", "uncrate": {"approved": True}}
    code, source = make(config__json={"auto_map": {"AutoModel": "modeling_x.XModel"}, **words}, uncrate__json=words)
    assert not verify(code, source=source).approved


@pytest.mark.parametrize("what", ["closure", "file"])
def test_a_revocation_beats_every_approval(make: Any, what: str) -> None:
    code, source = make()
    approve(code, sha=code.closure, source=source)
    sha = code.closure if what == "closure" else code.file("helper.py").sha256
    assert revoke(sha[:8], note="sends\x1b keys") == (sha,)
    status = verify(code, source=source)
    assert not status.approved and status.revoked
    assert "revoked by ada" in status.why and "sends\\u001b keys" in status.why
    with pytest.raises(NotApproved, match="revoked"):
        status.require()
    with pytest.raises(NotApproved, match="revoked and cannot be approved"):
        approve(code, sha=code.closure, source=source)
    with pytest.raises(NotApproved, match="revoked"):
        approved_sources(code.closure)
    # A file that was revoked taints every closure with it.
    other, source = make("other", more__py="", modeling_x__py="from . import helper, more\nclass XModel: pass\n")
    assert verify(other, source=source).revoked == (what == "file")
    revoke(sha)
    assert len(list_approvals().revocations) == 1


def test_a_revocation_at_home_holds_in_every_project(make: Any, tmp_path: Path, home: Path) -> None:
    code, source = make()
    project = tmp_path / "project" / "uncrate.lock"
    approve(code, sha=code.closure, source=source, lock_path=project)
    assert verify(code, source=source).approved
    revoke(code.closure, lock_path=home / "uncrate.lock")
    assert verify(code, source=source).revoked


def test_revoking_says_what_it_does_not_know(make: Any) -> None:
    code, _ = make()
    with pytest.raises(UsageError, match="fits nothing"):
        revoke(code.closure[:8])
    assert revoke(code.closure[:8], code=code) == (code.closure,)
    assert revoke("0" * 64) == ("0" * 64,)
    with pytest.raises(UsageError, match="not the start"):
        revoke("0")


def test_an_altered_store_serves_nothing(make: Any) -> None:
    code, source = make()
    approve(code, sha=code.closure, source=source)
    path = Store().path(code.file("helper.py").sha256)
    path.write_bytes(b"import os; os.system('x')\n")
    with pytest.raises(TrustError, match="altered"):
        approved_sources(code.closure)
    path.unlink()
    with pytest.raises(TrustError, match=r"helper\.py are not kept"):
        approved_sources(code.closure)
    with pytest.raises(NotApproved, match="not approved"):
        approved_sources("0" * 64)


def test_a_store_that_cannot_be_written_is_a_note(make: Any, tmp_path: Path) -> None:
    code, source = make()
    (tmp_path / "file").write_text("")
    status = approve(code, sha=code.closure, source=source, store=Store(tmp_path / "file" / "store"))
    assert status.approved
    assert "not kept" in status.notes[0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_lock_that_cannot_be_written_is_an_error(make: Any, tmp_path: Path) -> None:
    code, source = make()
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(TrustError, match="cannot be written"):
        approve(code, sha=code.closure, source=source, lock_path=tmp_path / "shut" / "uncrate.lock")


def test_a_file_swapped_after_approval_is_another_state(make: Any, tmp_path: Path) -> None:
    code, source = make()
    approve(code, sha=code.closure, source=source)
    (tmp_path / "model" / "helper.py").write_text("import os; os.system('x')\n")
    assert code.read("helper.py") == b"x = 1\n", "what was read is what would run"
    again = read_code(read_manifest(source))
    assert not verify(again, source=source).approved
    forged = replace(again, closure=code.closure)
    with pytest.raises(NotApproved, match="not what was approved"):
        verify(forged, source=source).require("./model", forged)
    with pytest.raises(NotApproved, match="not what was approved"):
        verify(code, source=source).require("./model", again)
    with pytest.raises(NotApproved, match="not what was approved"):
        verify(NO_CODE).require("./model", code)
    swapped = replace(code, sources={**code.sources, "helper.py": b"import os; os.system('x')\n"})
    with pytest.raises(NotApproved, match="not what was approved"):
        verify(code, source=source).require("./model", swapped)
    verify(code, source=source).require("./model", code)


def test_a_pin_in_the_lock_holds_another_repositorys_code(hub: HubServer, make: Any) -> None:
    first = hub.commit("other/code", {"modeling_y.py": b"class Y: pass\n"})
    code, source = make(config__json={"auto_map": {"AutoModel": "other/code--modeling_y.Y"}})
    approve(code, sha=code.closure, source=source)
    hub.commit("other/code", {"modeling_y.py": b"import os; os.system('x')\nclass Y: pass\n"})
    manifest = read_manifest(source)
    lock = lock_for(source)
    assert dict(lock.pins(str(source))) == {"other/code": first}
    assert lock.status(read_code(manifest, pins=lock.pins(str(source)))).approved
    assert not lock.status(read_code(manifest)).approved
    locked = lock.approvals[0]
    assert (locked.files[0].repo, locked.files[0].commit) == ("other/code", first)
    # The checkpoint that was approved last does not unpin another one.
    elsewhere, where = make("elsewhere", config__json={"auto_map": {"AutoModel": "other/code--modeling_y.Y"}})
    approve(elsewhere, sha=elsewhere.closure, source=where)
    assert lock_for(source).pins(str(source))["other/code"] == first


def test_approving_imports_nothing_heavy(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {"auto_map": {"AutoModel": "m.M"}}, "m.py": "import torch\nclass M: pass\n"})
    script = (
        "import sys\n"
        "from uncrate.checkpoint.code import read_code\n"
        "from uncrate.checkpoint.manifest import read_manifest\n"
        "from uncrate.trust.approve import approve, lock_for\n"
        "from uncrate.trust.review import make_review\n"
        f"code = read_code(read_manifest({str(tmp_path)!r}))\n"
        f"make_review(code, source='x', lock=lock_for()).to_markdown()\n"
        "assert approve(code, sha=code.closure).approved\n"
        "print({'torch', 'transformers', 'numpy', 'rich', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=child_env(), check=False)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_the_module_itself_is_the_command(make: Any, tmp_path: Path) -> None:
    from uncrate.trust.surface import review, verify

    code, source = make()
    assert not verify(source.folder).approved
    assert code.closure in review(source.folder).to_text()
    with pytest.raises(NotApproved):
        uncrate.trust(source.folder, sha="0" * 8)  # type: ignore[operator]
    lock = tmp_path / "project" / "uncrate.lock"
    assert uncrate.trust(source.folder, sha=code.closure[:10], note="n", lock=lock).approved  # type: ignore[operator]
    assert verify(source.folder).approved
    assert lock.exists()


def test_verifying_a_hub_id_asks_the_cache_alone(hub: HubServer) -> None:
    from uncrate.trust.surface import trust, verify

    hub.commit("owner/x", {"config.json": b'{"auto_map": {"AutoModel": "m.M"}}', "m.py": b"class M: pass\n"})
    closure = read_code(read_manifest("owner/x")).closure
    trust("owner/x", sha=closure)
    asked = len(hub.requests)
    assert verify("owner/x").approved
    assert len(hub.requests) == asked


def test_code_out_of_reach_is_not_approved(hub: HubServer, make: Any) -> None:
    code, source = make(config__json={"auto_map": {"AutoModel": "gone/gone--m.M"}}, modeling_x__py=None)
    status = verify(code, source=source)
    assert status.needed and not status.approved and "cannot be reached" in status.why
