"""`uncrate doctor`: it tells what is there and what is missing for what, and never fails."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from uncrate.cli import doctor

PROJECT = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> list[str]:
    return [Requirement(text).name for text in requirements]


def test_its_tables_are_those_of_the_package():
    assert sorted(doctor.NEEDED) == sorted(names(PROJECT["dependencies"]))
    extras = {name: many for name, many in PROJECT["optional-dependencies"].items() if name not in ("all", "dev")}
    assert {name: list(packages) for name, (_, packages) in doctor.EXTRAS.items()} == {
        name: names(many) for name, many in extras.items()
    }


def test_document(cli):
    done = cli("doctor", "--json")
    document = done.document
    assert done.code == 0 and done.err == "" and document["schema"] == 1
    assert set(document) == {
        "schema", "uncrate", "python", "platform", "torch", "devices",
        "packages", "missing", "extras", "hub", "folders", "unknown",
    }  # fmt: skip
    assert document["torch"]["version"] == metadata.version("torch")
    assert document["devices"][-1]["name"] == "cpu" and document["missing"] == [] and document["unknown"] == []
    assert set(document["hub"]) == {"endpoint", "offline", "token", "cache", "cache_bytes", "free"}


def test_sheet(cli, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.com/")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    text = cli("doctor").out
    for label in (
        "uncrate",
        "python",
        "platform",
        "torch",
        "device",
        "for train",
        "for serve",
        "hub cache",
        "config folder",
    ):
        assert f"\n{label} " in f"\n{text}"
    assert "https://hf-mirror.com, offline, with a token" in text and "verysecret" not in text


def test_what_is_missing_for_what(cli, monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("peft", "tiktoken") else known(name))
    document = cli("doctor", "--json").document
    assert document["missing"] == ["tiktoken"]
    assert document["extras"]["train"]["missing"] == ["peft"]
    assert document["extras"]["train"]["install"] == "pip install peft"
    assert document["extras"]["serve"]["install"] is None
    text = cli("doctor").out
    assert "tiktoken, which uncrate needs: pip install tiktoken" in text and "fine-tuning: pip install peft" in text


def test_the_cache_is_measured_without_following_links(cli, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    (cache / "models--a--b" / "blobs").mkdir(parents=True)
    (cache / "models--a--b" / "blobs" / "one").write_bytes(b"x" * 50_000)
    (cache / "models--a--b" / "link").symlink_to(cache / "models--a--b" / "blobs" / "one")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    hub = cli("doctor", "--json").document["hub"]
    assert hub["cache"] == str(cache) and 50_000 <= hub["cache_bytes"] < 51_000 and hub["free"] > 0


def test_a_dark_corner_hides_nothing_else(cli, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("uncrate.settings.hub_cache", homeless)
    monkeypatch.setattr("uncrate.devices.read_devices", lambda: (_ for _ in ()).throw(OSError("driver\x1b gone")))
    done = cli("doctor")
    assert done.code == 0 and "\nhub " in done.out and "\x1b" not in done.out
    assert "hub cache: RuntimeError: Could not determine home directory." in done.out
    assert "devices: OSError: driver\\u001b gone" in done.out
