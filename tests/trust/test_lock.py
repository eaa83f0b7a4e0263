"""uncrate.lock: where it is looked for, how strictly it is read, and that nothing is lost when it is written."""

from __future__ import annotations

import multiprocessing
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncrate.checkpoint.source import HubSource, LocalSource
from uncrate.errors import TrustError, UsageError
from uncrate.trust.approve import approve, lock_for, revoke, verify
from uncrate.trust.lock import NAME, find_lock, load_lock, read_lock
from uncrate.trust.lockfile import (
    Approved,
    LockedBase,
    LockedEntry,
    LockedFile,
    LockedRedirect,
    Revocation,
    closure_of,
    format_lock,
    parse_lock,
    quote,
)
from uncrate.trust.lockwrite import write_atomically, writing

SHA = "a" * 64
WHEN = "2026-01-31T12:00:00Z"
BASE = LockedBase("/share/models/glm", "owner/model", "d" * 40, "eve", WHEN, "the folder is gone")


def approved(**changes: Any) -> Approved:
    fields: dict[str, Any] = {
        "closure": "",
        "source": "owner/name@main",
        "who": "ada",
        "when": WHEN,
        "note": "",
        "files": (LockedFile("modeling_x.py", SHA), LockedFile("owner/name--h.py", SHA, "owner/name", "b" * 40)),
        "entry_points": (LockedEntry("config.json", "/auto_map/AutoModel", "AutoModel", "modeling_x.py", "XModel"),),
        "redirects": (LockedRedirect("code", "owner/name", "config.json#/x", "b" * 40),),
        **changes,
    }
    entry = Approved(**fields)
    return Approved(**{**fields, "closure": fields["closure"] or closure_of(entry)})


def text() -> str:
    return format_lock((approved(),), (Revocation(SHA, "bob", WHEN, "sends keys"),), (BASE,))


def test_a_lock_reads_back_as_it_was_written() -> None:
    approvals, revocations, bases = parse_lock(text().encode(), "lock")
    assert approvals == (approved(),)
    assert revocations == (Revocation(SHA, "bob", WHEN, "sends keys"),)
    assert bases == (BASE,)
    assert format_lock(approvals, revocations, bases) == text()
    assert parse_lock(b"", "lock") == parse_lock(b"# nothing yet\n", "lock") == ((), (), ())


words = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@given(words, words, words)
def test_any_words_survive(note: str, who: str, source: str) -> None:
    entry = approved(note=note, who=who, source=source)
    assert parse_lock(format_lock((entry,), ()).encode(), "lock")[0] == (entry,)


def test_a_lock_without_bases_is_written_as_ever(make: Any, tmp_path: Path) -> None:
    plain = text()[: text().index("\n[[base]]")]
    assert format_lock(*parse_lock(plain.encode(), "lock")) == plain
    assert format_lock((approved(),), (Revocation(SHA, "bob", WHEN, "sends keys"),)) == plain
    # An approval written after it adds its own lines and changes none; bases stay when there are some.
    for before in (plain, text()):
        path = tmp_path / NAME
        path.write_text(before)
        code, source = make()
        approve(code, sha=code.closure, source=source, lock_path=path)
        after = path.read_text()
        added = after[after.rindex("\n[[approval]]") : after.index("\n[[revocation]]")]
        assert code.closure in added and after.replace(added, "") == before
        assert read_lock(path).bases == (() if before == plain else (BASE,))
        revoke("e" * 64, lock_path=path)
        assert read_lock(path).bases == (() if before == plain else (BASE,))


@given(st.text(st.characters()))
def test_any_text_is_one_toml_string(value: str) -> None:
    quoted = quote(value)
    assert quoted.isprintable() and "\n" not in quoted
    assert tomllib.loads(f"x = {quoted}") == {"x": value.encode("utf-8", "replace").decode()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.replace("version = 1", "version = 2"), "version 2"),
        (lambda t: t.replace("version = 1", "version = true"), "version"),
        (lambda t: t.replace("version = 1\n", ""), "no version"),
        (lambda t: t.replace("version = 1", "version = = 1"), "not TOML.*line 2"),
        (lambda t: t + "trust_everything = true\n", "unknown key trust_everything"),
        (lambda t: t.replace('who = "ada"\n', ""), "approval 1 has no who"),
        (lambda t: t.replace('who = "ada"', "who = 3"), "who of approval 1 must be text"),
        (lambda t: t.replace(WHEN, "yesterday"), "when of approval 1 must be a UTC time"),
        (lambda t: t.replace("[[approval]]", "[approval]"), "approval of the lock must be a list"),
        (lambda t: t.replace(f'sha256 = "{SHA}" }}', 'sha256 = "abc" }'), "64 lower-case"),
        # A file slipped into a genuine approval, a swapped hash, a re-pointed entry: all are edits.
        (lambda t: t.replace("file = [\n", f'file = [\n  {{ path = "evil.py", sha256 = "{SHA}" }},\n'), "was edited"),
        (lambda t: t.replace(f'py", sha256 = "{SHA}" }}', f'py", sha256 = "{"c" * 64}" }}'), "was edited"),
        (lambda t: t.replace('class_name = "XModel"', 'class_name = "Other"'), "was edited"),
        (lambda t: t.replace('path = "modeling_x.py", sha', 'path = "modeling_y.py", sha'), "was edited"),
        (lambda t: t.replace('path = "modeling_x.py", sha', 'path = "owner/name--h.py", sha'), "twice"),
        (lambda t: t.replace("redirect = [", "redirect = [3,"), "must be a list of tables"),
        (lambda t: t + "x = " + "[" * 5_000 + "]" * 5_000, "not TOML"),
        (lambda t: "\x00" + t, "not TOML"),
        (lambda t: t.replace("[[base]]", "[base]"), "base of the lock must be a list"),
        (lambda t: t + 'sha256 = "x"\n', "base 1 has the unknown key sha256"),
        (lambda t: t.replace('repo = "owner/model"\n', ""), "base 1 has no repo"),
        (lambda t: t.replace('repo = "owner/model"', "repo = 3"), "repo of base 1 must be text"),
        (lambda t: t.replace("owner/model", "owner/model@main"), "repo of base 1 must be OWNER/NAME"),
        (lambda t: t.replace("owner/model", "https://huggingface.co/owner/model"), "repo of base 1 must be"),
        (lambda t: t.replace("owner/model", "./model"), "repo of base 1 must be"),
        (lambda t: t.replace("owner/model", "model"), "repo of base 1 must be"),
        (lambda t: t.replace("d" * 40, "main"), "commit of base 1 must be 40"),
        (lambda t: t.replace("d" * 40, "D" * 40), "commit of base 1 must be 40"),
        (lambda t: t.replace("d" * 40, "d" * 41), "commit of base 1 must be 40"),
        (lambda t: t.replace("/share/models/glm", ""), "target of base 1 must be 1 to 4,096"),
        (lambda t: t.replace("/share/models/glm", "x" * 4097), "target of base 1 must be 1 to 4,096"),
        (lambda t: t.replace("/share/models/glm", "\\u001b[31m"), "target of base 1 must be"),
        (lambda t: t + t[t.index("[[base]]") :], "base 2 has the target of another"),
        (lambda t: t + "#" * (17 << 20), "larger than"),
    ],
)
def test_a_lock_that_was_tampered_with_is_refused(change: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(change(text()))
    with pytest.raises(TrustError, match=says) as caught:
        load_lock(path=path)
    assert str(path) in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()


@given(st.binary(max_size=60), st.integers(0, 1200), st.integers(0, 60))
def test_any_mutation_is_read_or_a_typed_error(data: bytes, place: int, length: int) -> None:
    whole = text().encode()
    try:
        parse_lock(whole[:place] + data + whole[place + length :], "lock")
    except TrustError as error:
        assert "lock" in str(error)


def test_the_lock_is_found_upward_then_at_home(tmp_path: Path, home: Path) -> None:
    inner = tmp_path / "project" / "inner"
    assert load_lock().path == home / NAME
    home.mkdir()
    (home / NAME).write_text(text())
    assert (load_lock().path, len(load_lock().approvals)) == (home / NAME, 1)
    (tmp_path / "project" / NAME).write_text("")
    lock = load_lock()
    assert (lock.path, lock.approvals) == (tmp_path / "project" / NAME, ())
    assert lock.revocations, "what the user revoked at home holds in every project"
    (inner / NAME).write_text("")
    assert load_lock().path == inner / NAME


def test_a_lock_inside_the_checkpoint_grants_nothing(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, source = make()
    folder = tmp_path / "model"
    approve(code, sha=code.closure, lock_path=folder / NAME)
    assert verify(code, lock_path=folder / NAME).approved, "the same lock, where it is not inside what is opened"
    for inside in (folder, folder / "deeper"):
        inside.mkdir(exist_ok=True)
        monkeypatch.chdir(inside)
        status = verify(code, source=source)
        assert not status.approved
        assert "lies inside a checkpoint" in status.notes[0]
        assert not verify(code).approved, "nor for whoever does not say what is opened"
    # Under another name of the folder, and through links, it is still inside.
    os.symlink(folder, tmp_path / "alias")
    monkeypatch.chdir(tmp_path / "project")
    os.symlink(folder / NAME, tmp_path / "project" / NAME)
    assert not verify(code, source=LocalSource(tmp_path / "alias", "../alias")).approved
    with pytest.raises(UsageError, match="lies inside the checkpoint"):
        lock_for(source, lock_path=folder / NAME)


@pytest.mark.parametrize("beside", ["model.safetensors", "adapter_config.json", "config.json"])
def test_a_downloaded_folder_approves_nothing_elsewhere(tmp_path: Path, make: Any, beside: str) -> None:
    code, source = make()
    project = tmp_path / "project"
    approve(code, sha=code.closure, source=source, lock_path=project / NAME)
    assert verify(code, source=source).approved
    (project / beside).write_text('{"architectures": ["X"]}')
    assert not verify(code, source=source).approved
    (project / beside).write_text('{"my": "settings"}')
    assert verify(code, source=source).approved == (beside == "config.json")


def test_a_lock_in_the_hubs_cache_approves_no_hub_id(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _ = make()
    snapshot = tmp_path / "cache" / "models--owner--x" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(snapshot)
    approve(code, sha=code.closure, lock_path=snapshot / NAME)
    assert verify(code).approved
    assert not verify(code, source=HubSource("owner/x")).approved


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_lock_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "project" / NAME
    path.write_text(text())
    path.chmod(0o666)
    with pytest.raises(TrustError, match="other users can write it"):
        load_lock()
    path.chmod(0o644)
    assert load_lock().approvals


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "project" / NAME
    path.mkdir()
    with pytest.raises(TrustError, match="the lock"):
        load_lock()


def test_finding_writes_nothing(tmp_path: Path, home: Path) -> None:
    assert find_lock() == (None, ())
    load_lock()
    assert not home.exists()
    assert list((tmp_path / "project").rglob("*.lock")) == []


def test_a_failed_write_leaves_the_old_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / NAME
    path.write_text(text())

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrustError, match="cannot be written") as caught:
        write_atomically(path, "version = 1\n")
    assert "No space left" in str(caught.value)
    assert path.read_text() == text()
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [NAME]


def test_a_lock_in_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / NAME
    with writing(path):
        write_atomically(path, text())
    assert read_lock(path).approvals


def _write_one(path: str, name: str, start: Any) -> None:
    start.wait()
    with writing(Path(path)):
        now = read_lock(Path(path)) if os.path.exists(path) else None
        entry = approved(files=(LockedFile(name, SHA),))
        write_atomically(Path(path), format_lock((*(now.approvals if now else ()), entry), ()))


def test_parallel_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Event()
    path = tmp_path / NAME
    workers = [context.Process(target=_write_one, args=(str(path), f"m{n}.py", start)) for n in range(8)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert sorted(entry.files[0].path for entry in read_lock(path).approvals) == [f"m{n}.py" for n in range(8)]
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [NAME]
