"""The store of approved code: nothing in it is believed, and many processes may fill it at once."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from trust.children import child_env

from uncrate.errors import TrustError
from uncrate.trust.store import Store

DATA = "# é\nx = 1\n".encode()
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "store")


def test_bytes_come_back(store: Store) -> None:
    assert store.get(SHA) is None
    assert store.put(DATA) == SHA
    assert store.put(DATA) == SHA
    assert store.get(SHA) == DATA
    assert stat.S_IMODE(store.path(SHA).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path(SHA).parent.stat().st_mode) == 0o700
    assert [path.name for path in store.path(SHA).parent.iterdir()] == [SHA]


@pytest.mark.parametrize("sha", ["", "../../etc/passwd", SHA.upper(), SHA[:8], SHA + "\n", "/" * 64])
def test_what_is_no_hash_is_no_path(store: Store, sha: str) -> None:
    with pytest.raises(ValueError, match="not a sha256"):
        store.get(sha)


@pytest.mark.parametrize("change", ["altered", "cut", "grown", "link", "folder", "pipe", "empty"])
def test_an_altered_file_is_refused_by_name(store: Store, change: str, tmp_path: Path) -> None:
    store.put(DATA)
    path = store.path(SHA)
    if change in ("altered", "cut", "grown", "empty"):
        path.write_bytes(
            {"altered": b"# \xc3\xa8\nx = 1\n", "cut": DATA[:-1], "grown": DATA + b" ", "empty": b""}[change]
        )
    else:
        path.unlink()
        (tmp_path / "same").write_bytes(DATA)
        make = {
            "link": lambda: path.symlink_to(tmp_path / "same"),
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
        }
        make[change]()
    for use in (lambda: store.get(SHA), lambda: store.put(DATA), lambda: store.put_all([DATA])):
        with pytest.raises(TrustError, match="altered") as caught:
            use()
        assert str(path) in str(caught.value)


def test_a_full_disk_leaves_no_half_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrustError, match="cannot be stored") as caught:
            store.put(DATA)
        assert "No space left" in str(caught.value)
        assert "No space left" in str(store.put_all([DATA]))
    assert list(store.path(SHA).parent.iterdir()) == []
    assert store.put_all([DATA]) is None


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store")
    assert store.get(SHA) is None
    why = store.put_all([DATA])
    assert why is not None and "cannot be stored" in why


def test_a_process_killed_midway_leaves_nothing_that_is_believed(store: Store) -> None:
    store.put(DATA)
    (store.path(SHA).parent / ".new-killed").write_bytes(DATA[:3])
    assert store.get(SHA) == DATA


def test_sixteen_processes_fill_an_empty_store(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\nfrom uncrate.trust.store import Store\n"
        f"store = Store(pathlib.Path({str(tmp_path / 'store')!r}))\n"
        "sys.stdin.readline()\n"
        "shas = [store.put(b'# %d' % n * 1000) for n in range(20)]\n"
        "assert all(store.get(sha) for sha in shas)\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_env()
        )
        for _ in range(16)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert [(worker.communicate(timeout=60)[1], worker.returncode) for worker in workers] == [("", 0)] * 16
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(kept) == 20
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in kept)
