"""The hub, with the real client against a hub of our own."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from checkpoint.checkpoints import sound
from hubserver import HubServer

from uncrate import settings
from uncrate.checkpoint.files import open_files
from uncrate.checkpoint.manifest import read_manifest
from uncrate.checkpoint.source import HubSource
from uncrate.errors import CheckpointError, DoesNotFit, HubError, MalformedWeights, SourceError, UsageError

GOLDEN = Path(__file__).parent.parent / "golden/data/glm4v-tiny"
REPO = "owner/glm4v-tiny"
SHARD = "model-00001-of-00004.safetensors"


@pytest.fixture
def golden(hub: HubServer) -> str:
    """The golden checkpoint as a repository; returns its commit."""
    return hub.commit(REPO, {path.name: path.read_bytes() for path in GOLDEN.iterdir()})


def test_a_hub_manifest_equals_the_folders(hub: HubServer, golden: str) -> None:
    manifest = read_manifest(REPO)
    local = read_manifest(GOLDEN)
    assert manifest.commit == golden
    assert manifest.weights == local.weights
    assert manifest.config == local.config
    assert manifest.json_files == local.json_files
    assert manifest.files == local.files
    assert str(manifest.source) == REPO
    assert dict(manifest.sheet())["commit"] == golden


def test_inspect_downloads_no_weights(hub: HubServer, golden: str) -> None:
    read_manifest(REPO)
    for request in hub.requests:
        if request.path.endswith(".safetensors"):
            assert (request.method, request.status) == ("GET", 206)
            assert request.range is not None
    # Of each shard its header comes within the first read, and nothing more of it.
    for path in GOLDEN.glob("model-*.safetensors"):
        assert 0 < hub.sent(path.name) <= 128 << 10 < path.stat().st_size
    asked = Counter(request.path for request in hub.requests if "/api/" in request.path)
    assert sum(asked.values()) == 1, "the revision is resolved once"


def test_the_commit_is_pinned_while_the_branch_moves(hub: HubServer, golden: str) -> None:
    manifest = read_manifest(REPO)
    hub.commit(REPO, {"tokenizer.model": b"changed", "config.json": b"{}", SHARD: b"changed"})
    files = manifest.open()
    assert files.commit == golden
    assert files.read("tokenizer.model", 1 << 20) == (GOLDEN / "tokenizer.model").read_bytes()
    assert files.local(SHARD).read_bytes() == (GOLDEN / SHARD).read_bytes()
    assert read_manifest(f"{REPO}@{golden}").weights == manifest.weights
    with pytest.raises(MalformedWeights, match="the file has 7 bytes"):
        read_manifest(REPO)


def test_branches_tags_and_subfolders(hub: HubServer) -> None:
    old = hub.commit("o/n", {"config.json": '{"model_type": "old"}', "sub/config.json": '{"model_type": "sub"}'})
    hub.commit("o/n", {"config.json": '{"model_type": "new"}'}, branch="refs/pr/1")
    assert read_manifest("o/n").model_type == "old"
    assert read_manifest("o/n@refs/pr/1").model_type == "new"
    assert read_manifest(f"o/n@{old}", subfolder="sub").model_type == "sub"
    with pytest.raises(SourceError, match="no folder absent"):
        read_manifest("o/n", subfolder="absent")


def test_downloads_go_to_the_cache_that_everybody_shares(hub: HubServer, golden: str) -> None:
    files = read_manifest(REPO).open()
    lines: list[str] = []
    paths = files.local_many([SHARD, "model-00002-of-00004.safetensors"], lines.append)
    assert [path.read_bytes() for path in paths] == [(GOLDEN / path.name).read_bytes() for path in paths]
    assert [line.split(":")[0] for line in lines] == ["downloading 1 of 2", "downloading 2 of 2"]
    home = settings.hub_cache() / "models--owner--glm4v-tiny"
    assert (home / "snapshots" / golden / SHARD).samefile(paths[0])
    assert (home / "refs/main").read_text() == golden
    # A second time nothing is asked for, and a folder of the cache opens like any other although it is made of links.
    hub.requests.clear()
    assert open_files(HubSource(REPO), commit=golden).local_many([SHARD]) == (paths[0],)
    assert hub.requests == []
    assert open_files(HubSource(REPO), commit=golden).read_range(SHARD, 0, 8) == (GOLDEN / SHARD).read_bytes()[:8]
    assert hub.requests == []


def test_a_snapshot_folder_of_the_cache_opens_as_a_folder(hub: HubServer, golden: str) -> None:
    files = read_manifest(REPO).open()
    files.local_many([path.name for path in GOLDEN.iterdir()])
    snapshot = settings.hub_cache() / "models--owner--glm4v-tiny/snapshots" / golden
    assert any(path.is_symlink() for path in snapshot.iterdir())
    assert read_manifest(snapshot).weights == read_manifest(GOLDEN).weights


def test_offline_from_the_cache(hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(REPO)
    manifest.open().local_many([path.name for path in GOLDEN.iterdir()])
    hub.requests.clear()
    monkeypatch.setenv("UNCRATE_OFFLINE", "1")
    assert read_manifest(REPO).weights == manifest.weights
    assert read_manifest(f"{REPO}@{golden}").commit == golden
    assert hub.requests == []


def test_offline_with_half_of_the_files(hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_manifest(REPO).open()
    files.local_many([SHARD, "model.safetensors.index.json"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError) as caught:
        read_manifest(REPO)
    message = str(caught.value)
    assert "model-00002-of-00004.safetensors" in message
    assert SHARD not in message
    assert f"hf download {REPO} --revision {golden}" in message
    with pytest.raises(HubError, match="not in the cache"):
        open_files(HubSource(REPO)).local_many([SHARD, "tokenizer.model"])


def test_the_cache_is_the_clients_own_both_ways(hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = open_files(HubSource(REPO)).local(SHARD)
    where = {"cache_dir": settings.hub_cache(), "endpoint": hub.endpoint}
    assert huggingface_hub.hf_hub_download(REPO, SHARD, local_files_only=True, **where) == str(ours)
    # What the client has fetched in part it has also listed whole: all that is missing is known, and told at once.
    huggingface_hub.snapshot_download(REPO, allow_patterns=["*.json", SHARD], **where)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError) as caught:
        read_manifest(REPO)
    assert "model-00002-of-00004.safetensors, model-00003-of-00004.safetensors" in str(caught.value)
    assert "model-00004-of-00004.safetensors are not in the cache" in str(caught.value)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    huggingface_hub.snapshot_download(REPO, **where)
    hub.close()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read_manifest(REPO).weights == read_manifest(GOLDEN).weights


def test_offline_and_never_seen(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for where in ("owner/other", "owner/other@main", "owner/other@" + "0" * 40):
        with pytest.raises(HubError, match="not in the cache, and offline mode is on") as caught:
            read_manifest(where)
        assert "hf download owner/other" in str(caught.value)
    assert hub.requests == []


def test_no_network_falls_back_to_the_cache_and_says_so(hub: HubServer, golden: str) -> None:
    read_manifest(REPO).open().local_many([path.name for path in GOLDEN.iterdir()])
    hub.close()
    manifest = read_manifest(REPO)
    assert manifest.commit == golden
    assert any("cannot be reached; this is the copy in the cache" in note for note in manifest.notes)


def test_no_network_and_nothing_cached(hub: HubServer) -> None:
    hub.close()
    with pytest.raises(HubError, match=r"cannot be reached") as caught:
        read_manifest("owner/name")
    assert "HF_ENDPOINT" in str(caught.value)


def test_a_hub_that_never_answers(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uncrate.checkpoint.fetch.TIMEOUT", 0.1)
    monkeypatch.setattr("uncrate.checkpoint.fetch._PAUSES", ())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HubError, match="does not answer"):
            read_manifest("owner/name")


def test_what_the_hub_refuses(hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"no such model repository.*\n  next: check the spelling"):
        read_manifest("owner/absent")
    with pytest.raises(HubError, match="no revision nowhere"):
        read_manifest(f"{REPO}@nowhere")
    hub.restrict(REPO, access="gated")
    with pytest.raises(HubError, match=r"restricted\n  next: accept its terms at http://127.*/owner/glm4v-tiny"):
        read_manifest(REPO)
    hub.restrict(REPO, access="private")
    with pytest.raises(HubError, match="or it is private"):
        read_manifest(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert read_manifest(REPO).commit == golden
    assert "hf_secret" not in str(hub.requests[-1].path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/here").mkdir(parents=True)
    with pytest.raises(HubError, match=r"for the folder of that name write \./owner/here"):
        read_manifest("owner/here")


def test_a_busy_hub_is_asked_again(hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uncrate.checkpoint.fetch._PAUSES", (0.01, 0.01))
    hub.fail("5xx", "/api/models", times=2)
    hub.fail("5xx", SHARD, times=1)
    assert read_manifest(REPO).commit == golden
    hub.fail("5xx", "/api/models", times=3)
    with pytest.raises(HubError, match=r"not working now \(HTTP 503\)"):
        read_manifest(f"{REPO}@refs/pr/9")


def test_a_cut_connection_is_resumed_or_told(
    hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    files = read_manifest(REPO).open()
    hub.fail("cut", f"resolve/{golden}/{SHARD}")
    assert files.local(SHARD).read_bytes() == (GOLDEN / SHARD).read_bytes()
    resumed = [request for request in hub.requests if request.path.endswith(SHARD) and request.range][-1]
    assert resumed.status == 206
    assert resumed.range != "bytes=0-"
    hub.commit("o/cut", {"model.safetensors": sound({"a": ("F32", [40_000])})})
    hub.fail("cut", "o/cut/resolve", times=3)
    with pytest.raises(HubError):
        read_manifest("o/cut")


def test_ranges_are_checked(hub: HubServer) -> None:
    small = sound({"a": ("F32", [3])})
    large = sound({f"layers.{i}.weight": ("U8", [1]) for i in range(20_000)})
    assert len(large) > 1 << 20
    hub.commit("o/n", {"model.safetensors": small})
    hub.fail("no-range", "model.safetensors")
    assert list(read_manifest("o/n").weights.tensors) == ["a"]
    hub.fail("wrong-range", "model.safetensors")
    with pytest.raises(HubError, match="does not send the part of the file"):
        read_manifest("o/n")
    hub.commit("o/large", {"model.safetensors": large})
    hub.fail("no-range", "model.safetensors", times=9)
    with pytest.raises(HubError, match=r"hf download o/large model\.safetensors --revision"):
        read_manifest("o/large")


def test_what_is_no_hub(hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("nonsense", "/api/models")
    with pytest.raises(HubError, match="does not answer like a hub"):
        read_manifest(REPO)
    for endpoint in ("huggingface.co", "file:///etc", "http://"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(UsageError, match="HF_ENDPOINT is not an address"):
            read_manifest(REPO)


def test_file_names_of_a_hostile_hub(hub: HubServer) -> None:
    hub.commit("o/n", {"config.json": "{}"})
    hub.extra_siblings = [{"rfilename": "../../.bashrc", "size": 3}, {"rfilename": "/etc/x.txt", "size": 3}]
    manifest = read_manifest("o/n")
    assert [file.path for file in manifest.files] == ["config.json"]
    assert sum("passed over" in note for note in manifest.notes) == 2
    with pytest.raises(CheckpointError, match="leads out of the checkpoint"):
        manifest.open().local("../../.bashrc")
    hub.extra_siblings = [{"rfilename": "../model.safetensors", "size": 3}]
    with pytest.raises(CheckpointError, match=r"\.\./model\.safetensors: it leads out"):
        read_manifest("o/n")
    for odd in ({"rfilename": 3}, {"rfilename": "a", "size": -1}, {"rfilename": "a", "size": "big"}, "text"):
        hub.extra_siblings = [odd]  # type: ignore[list-item]
        with pytest.raises(HubError, match="does not answer like a hub"):
            read_manifest("o/n")


def test_a_mirror_that_gives_no_sizes(hub: HubServer) -> None:
    hub.commit("o/n", {"config.json": "{}", "model.safetensors": sound({"a": ("F32", [3])})})
    hub.hide_sizes = True
    assert list(read_manifest("o/n").weights.tensors) == ["a"]


def test_a_full_disk_is_told_before_the_download(hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_manifest(REPO).open()
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("uncrate.checkpoint.hubfiles.shutil.disk_usage", lambda folder: usage)
    hub.requests.clear()
    with pytest.raises(DoesNotFit, match="are free"):
        files.local_many([SHARD])
    assert not any("resolve" in request.path for request in hub.requests)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(hub: HubServer, golden: str) -> None:
    home = settings.hub_cache()
    home.mkdir(parents=True)
    home.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(HubError, match="HF_HUB_CACHE"):
        read_manifest(REPO)


def test_a_cache_in_place_of_a_file(hub: HubServer, golden: str) -> None:
    settings.hub_cache().parent.mkdir(parents=True)
    settings.hub_cache().write_text("not a folder")
    with pytest.raises(HubError):
        read_manifest(REPO)


def test_what_is_not_there(hub: HubServer, golden: str) -> None:
    files = open_files(HubSource(REPO))
    with pytest.raises(CheckpointError, match=f"absent.py is not in the repository at commit {golden}"):
        files.read("absent.py", 10)
    with pytest.raises(CheckpointError, match="at most 10 are read"):
        files.read("config.json", 10)
    with pytest.raises(CheckpointError, match="was asked for"):
        files.read_range("config.json", 0, 10**9)


def test_an_interrupted_download_leaves_nothing_half(
    hub: HubServer, golden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = read_manifest(REPO).open()

    def interrupted(url: str, temp_file: io.BufferedWriter, **options: object) -> None:
        temp_file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            files.local(SHARD)
    home = settings.hub_cache() / "models--owner--glm4v-tiny"
    assert not (home / "snapshots" / golden / SHARD).exists()
    assert not list((home / "blobs").glob("*incomplete"))
    assert files.local(SHARD).read_bytes() == (GOLDEN / SHARD).read_bytes()


def test_several_threads_may_read_at_once(hub: HubServer, golden: str) -> None:
    files = open_files(HubSource(REPO))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: files.read("config.json", 1 << 20), range(16)))
    assert set(found) == {(GOLDEN / "config.json").read_bytes()}
