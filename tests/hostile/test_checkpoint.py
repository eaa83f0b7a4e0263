"""Every hostile checkpoint of this folder's weights, JSON and paths ends in one typed sentence, soon and small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoint.checkpoints import sharded, write
from hostile import json_files, paths, weights
from hostile.case import Case

from uncrate.checkpoint.manifest import read_manifest
from uncrate.errors import CheckpointError, UncrateError

CASES = [*weights.CASES, *json_files.CASES, *paths.CASES]
SECONDS = 5.0
MEGABYTES = 500


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_checkpoint_is_refused_with_one_sentence(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    case.build(folder)
    before = _names(tmp_path)
    start = time.perf_counter()
    with pytest.raises(UncrateError) as caught:
        read_manifest(folder)
    assert time.perf_counter() - start < SECONDS
    message = str(caught.value)
    assert isinstance(caught.value, case.error), repr(caught.value)
    for part in case.says:
        assert part in message, message
    assert all(line.isprintable() for line in message.splitlines()), "the message can steer a terminal"
    assert len(message) < 6000
    assert "hunter2" not in message
    json.dumps(caught.value.to_dict())
    assert _names(tmp_path) == before, "reading a manifest leaves nothing behind"


def _names(folder: Path) -> int:
    return sum(1 for _ in os.scandir(folder))


PROGRAM = """
import resource, sys, time
sys.path[:0] = [{tests!r}]
from pathlib import Path
from hostile.test_checkpoint import CASES
from uncrate.checkpoint.manifest import read_manifest
from uncrate.errors import UncrateError
case = next(case for case in CASES if case.name == sys.argv[1])
case.build(Path(sys.argv[2]))
limit = {megabytes} << 20
resource.setrlimit(resource.RLIMIT_AS, (limit + (64 << 20), limit + (64 << 20)))
try:
    read_manifest(sys.argv[2])
except UncrateError as error:
    print(type(error).__name__)
# Not ru_maxrss: that begins at the size of the process that started this one.
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
HEAVY = (
    "header_of_a_million_tensors",
    "header_over_the_bound_in_a_sparse_file",
    "name_of_a_million_letters",
    "config_16_megabytes_of_brackets",
    "config_of_a_million_objects",
    "config_of_a_million_keys",
    "config_of_one_gigabyte",
    "index_of_one_gigabyte",
)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
@pytest.mark.parametrize("name", HEAVY)
def test_the_largest_need_less_than_500_megabytes(name: str, tmp_path: Path) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent.parent), megabytes=MEGABYTES)
    command = [sys.executable, "-c", program, name, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    error, kilobytes = found.stdout.split()
    assert error.endswith(("Error", "JSON", "Weights"))
    assert int(kilobytes) < MEGABYTES * 1024


def test_files_beside_the_checkpoint_that_are_no_part_of_it_do_no_harm(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "checkpoint")
    os.mkfifo(folder / "pipe")
    os.symlink("/etc", folder / "etc")
    os.symlink("/etc/hostname", folder / "notes.md")
    os.symlink("config.json", folder / "alias.json")
    manifest = read_manifest(folder)
    assert len(manifest.weights.tensors) == 3
    assert manifest.json_files["alias.json"] == {"model_type": "chatglm"}
    assert {file.path for file in manifest.files}.isdisjoint({"pipe", "etc", "notes.md"})
    assert sum("passed over" in note for note in manifest.notes) == 3


def test_a_file_swapped_for_a_link_or_a_pipe_after_the_manifest_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "checkpoint")
    files = read_manifest(folder).open()
    files.entries()
    write(tmp_path, {"secret": "hunter2"})
    (folder / "config.json").unlink()
    os.symlink(tmp_path / "secret", folder / "config.json")
    with pytest.raises(CheckpointError, match="leads out"):
        files.read("config.json", 100)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        files.read_range("config.json", 0, 4)
    with pytest.raises(CheckpointError, match="not a regular file"):
        files.local("config.json")


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../b", "a\\b", "C:\\x", "a\0b", "", "a//b", "./a", "x\x1by"]
)
def test_no_path_leads_out(path: str, tmp_path: Path) -> None:
    files = read_manifest(sharded(tmp_path / "checkpoint")).open()
    for read in (lambda: files.read(path, 10), lambda: files.read_range(path, 0, 1), lambda: files.local(path)):
        with pytest.raises(CheckpointError, match="cannot be used"):
            read()
