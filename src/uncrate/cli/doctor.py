"""`uncrate doctor`: what this machine has, what is missing, and what that is missing for. It never fails."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from uncrate import __version__, devices, settings, show
from uncrate.cli.options import AsJson
from uncrate.cli.output import print_document

NEEDED = ("torch", "numpy", "safetensors", "huggingface_hub", "tiktoken", "pillow", "typer", "rich")
# Each extra of the package: what it is for, and what it installs.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "transformers": ("transformers' own classes and checkpoints' custom code", ("transformers", "accelerate")),
    "train": (
        "fine-tuning",
        ("transformers", "peft", "accelerate", "datasets", "sacrebleu", "matplotlib", "ruamel.yaml"),
    ),
    "serve": ("the HTTP server", ("fastapi", "uvicorn", "sse-starlette", "prometheus-client")),
    "zh-metrics": ("the Chinese scores of GLM-4's old scripts", ("jieba", "rouge-chinese", "nltk")),
    "chatglm3": ("the tokenizers of ChatGLM3 and ChatGLM2", ("sentencepiece",)),
    "recipes": ("training the bundled checkpoint anew", ("scikit-learn",)),
}


def command(as_json: AsJson = False) -> int:
    """Show what this machine has and lacks.

    Python, torch, devices, packages, the hub cache, and what is missing for what. Always exit code 0.
    """
    facts = gather()
    if as_json:
        print_document(facts)
    else:
        print(show.sheet(_rows(facts), stream=sys.stdout))
    return 0


def gather() -> dict[str, Any]:
    """Return everything that `doctor --json` prints; what cannot be found out is None, with the reason in `unknown`."""
    unknown: list[str] = []
    torch = devices.torch_version()
    packages = {name: _version(name) for name in (*NEEDED, *sorted({p for _, many in EXTRAS.values() for p in many}))}
    return {
        "schema": 1,
        "uncrate": {"version": __version__, "folder": str(Path(__file__).parent.parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "torch": {"version": torch[0], "cuda": torch[1]} if torch else None,
        "devices": [
            {"name": device.name, "model": device.model, "total": device.total, "free": device.free}
            for device in _ask(devices.read_devices, (), "devices", unknown)
        ],
        "packages": packages,
        "missing": [name for name in NEEDED if packages[name] is None],
        "extras": {name: _extra(purpose, many, packages) for name, (purpose, many) in EXTRAS.items()},
        "hub": {
            "endpoint": settings.hub_endpoint(),
            "offline": settings.hub_offline(),
            "token": settings.hub_token() is not None,
            **_cache(unknown),
        },
        "folders": {
            "config": _text(_ask(settings.config_home, None, "config folder", unknown)),
            "store": _text(_ask(settings.store_home, None, "store folder", unknown)),
        },
        "unknown": unknown,
    }


def _ask(question: Callable[[], Any], otherwise: Any, what: str, unknown: list[str]) -> Any:
    """Return the answer, or `otherwise` with a line in `unknown`: one dark corner must not hide all the rest."""
    try:
        return question()
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        unknown.append(f"{what}: {type(error).__name__}: {error}")
        return otherwise


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extra(purpose: str, many: tuple[str, ...], packages: dict[str, str | None]) -> dict[str, Any]:
    missing = [package for package in many if packages[package] is None]
    return {"for": purpose, "missing": missing, "install": f"pip install {' '.join(missing)}" if missing else None}


def _cache(unknown: list[str]) -> dict[str, Any]:
    folder: Path | None = _ask(settings.hub_cache, None, "hub cache", unknown)
    if folder is None:
        return {"cache": None, "cache_bytes": None, "free": None}
    there = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    size = _ask(lambda: _folder_size(folder, unknown), None, "hub cache", unknown)
    free = _ask(lambda: shutil.disk_usage(there).free, None, "free space", unknown)
    return {"cache": str(folder), "cache_bytes": size, "free": free}


def _folder_size(folder: Path, unknown: list[str]) -> int:
    """Bytes of all files under `folder`; links are not followed, so nothing counts twice."""
    total = 0
    refused: list[OSError] = []
    for place, _, files in os.walk(folder, onerror=refused.append):
        for name in files:
            status = os.lstat(os.path.join(place, name))
            total += status.st_size
    unknown += [f"hub cache: {error}" for error in refused[:3] if not isinstance(error, FileNotFoundError)]
    return total


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the sheet: one line for each thing that a bug report or a first install asks about."""
    torch, hub = facts["torch"], facts["hub"]
    rows = [
        ("uncrate", f"{facts['uncrate']['version']} in {facts['uncrate']['folder']}"),
        ("python", f"{facts['python']['version']}, {facts['python']['executable']}"),
        ("platform", facts["platform"]),
        ("torch", _torch_text(torch)),
    ]
    rows += [("device", _device_text(device)) for device in facts["devices"]]
    have = [f"{name} {version}" for name, version in facts["packages"].items() if version and name != "torch"]
    rows.append(("packages", ", ".join(have)))
    rows += [("missing", f"{name}, which uncrate needs: pip install {name}") for name in facts["missing"]]
    for name, extra in facts["extras"].items():
        state = "ready" if not extra["missing"] else extra["install"]
        rows.append((f"for {name}", f"{extra['for']}: {state}"))
    rows.append(("hub", hub["endpoint"] + (", offline" if hub["offline"] else "") + _token_text(hub["token"])))
    if hub["cache"] is not None:
        size = "size unknown" if hub["cache_bytes"] is None else show.size_text(hub["cache_bytes"])
        free = "" if hub["free"] is None else f", {show.size_text(hub['free'])} free"
        rows.append(("hub cache", f"{hub['cache']}, {size}{free}"))
    rows += [(f"{name} folder", folder) for name, folder in facts["folders"].items() if folder is not None]
    rows += [("unknown", line) for line in facts["unknown"]]
    return [(label, show.harmless(value)) for label, value in rows]


def _torch_text(torch: dict[str, Any] | None) -> str:
    if torch is None:
        return "not installed: pip install torch"
    return f"{torch['version']}, " + (f"built for CUDA {torch['cuda']}" if torch["cuda"] else "CPU build")


def _device_text(device: dict[str, Any]) -> str:
    parts = [f"{device['name']}: {device['model']}"]
    if device["total"] is not None:
        parts.append(f"{show.size_text(device['total'])} of memory")
    if device["free"] is not None:
        parts.append(f"{show.size_text(device['free'])} free")
    return ", ".join(parts)


def _token_text(has_token: bool) -> str:
    return ", with a token from HF_TOKEN" if has_token else ""
