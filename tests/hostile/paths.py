"""Hostile folders: each function builds one whose names or links lead elsewhere, or that hangs a careless reader."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from checkpoint.checkpoints import sharded, sound, write
from hostile.case import Case, collector

from uncrate.errors import CheckpointError, SourceError

CASES: list[Case] = []
case = collector(CASES)


def secret(folder: Path) -> Path:
    """Write a file beside the checkpoint that no reader of it may see."""
    return write(folder.parent, {"secret.json": '{"password": "hunter2"}'}) / "secret.json"


@case(CheckpointError, "config.json", "link that leads out of the folder")
def config_linked_to_a_file_outside(folder: Path) -> None:
    os.symlink(secret(folder), folder / "config.json")


@case(CheckpointError, "tokenizer_config.json", "link that leads out of the folder")
def config_linked_outside_by_a_relative_path(folder: Path) -> None:
    write(folder, {"config.json": {}})
    secret(folder)
    os.symlink("../secret.json", folder / "tokenizer_config.json")


@case(CheckpointError, "model.safetensors", "link that leads out of the folder")
def weights_linked_outside(folder: Path) -> None:
    write(folder.parent, {"other.safetensors": sound({"a": ("U8", [1])})})
    os.symlink(folder.parent / "other.safetensors", folder / "model.safetensors")


@case(CheckpointError, "modeling_x.py", "link that leads out of the folder")
def code_linked_outside(folder: Path) -> None:
    write(folder, {"config.json": {}})
    write(folder.parent, {"evil.py": "raise SystemExit"})
    os.symlink(folder.parent / "evil.py", folder / "modeling_x.py")


@case(CheckpointError, "config.json", "link that leads out of the folder")
def link_over_a_link(folder: Path) -> None:
    os.symlink(secret(folder), folder / "a.txt")
    os.symlink("a.txt", folder / "config.json")


@case(CheckpointError, "config.json")
def link_to_itself(folder: Path) -> None:
    os.symlink("config.json", folder / "config.json")


@case(CheckpointError, "config.json")
def link_to_nothing(folder: Path) -> None:
    os.symlink("absent.json", folder / "config.json")


@case(CheckpointError, "config.json", "not a regular file")
def config_that_is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "config.json")


@case(CheckpointError, "model.safetensors", "leads out")
def weights_that_are_a_device(folder: Path) -> None:
    write(folder, {"config.json": {}})
    os.symlink("/dev/zero", folder / "model.safetensors")


@case(CheckpointError, "config.json", "not a regular file")
def config_that_is_a_socket(folder: Path) -> None:
    here = os.getcwd()
    # The path of a socket is short; that of a test's folder is not.
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("config.json")
    finally:
        os.chdir(here)


@case(CheckpointError, "config.json", "a link to a folder")
def config_that_is_a_linked_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    os.symlink("sub", folder / "config.json")


@case(CheckpointError, "model-00001-of-00002.safetensors", "leads out")
def shard_in_what_only_looks_like_a_hub_cache(folder: Path) -> None:
    sharded(folder)
    outside = folder.parent / "blobs"
    outside.mkdir()
    (folder / "model-00001-of-00002.safetensors").rename(outside / "x")
    os.symlink("../blobs/x", folder / "model-00001-of-00002.safetensors")


@case(CheckpointError, "control characters", "evil\\u001b[2J.json")
def file_name_that_clears_the_screen(folder: Path) -> None:
    write(folder, {"config.json": {}, "evil\x1b[2J.json": {}})


@case(CheckpointError, "backslash")
def file_name_with_a_backslash(folder: Path) -> None:
    write(folder, {"config.json": {}, "..\\config.json": {}})


@case(SourceError, "20,000 files")
def folder_of_21000_files(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    for name in range(21_000):
        os.close(os.open(folder / f"{name}.txt", os.O_CREAT | os.O_WRONLY))


@case(CheckpointError, "there are no files")
def folder_with_a_git_repository_alone(folder: Path) -> None:
    write(folder, {".git/config.json": {}, ".cache/model.safetensors": b"x"})
