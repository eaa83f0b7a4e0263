"""The only reader of `os.environ`: every switch from outside, named and typed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_TRUE = {"1", "true", "yes", "on"}


def flag(name: str) -> bool:
    """Whether the environment variable `name` is set to a true word (1, true, yes, on)."""
    return os.environ.get(name, "").strip().lower() in _TRUE


def hub_offline() -> bool:
    """Whether the user asked for no network: `HF_HUB_OFFLINE` or `UNCRATE_OFFLINE`."""
    return flag("HF_HUB_OFFLINE") or flag("UNCRATE_OFFLINE")


def hub_endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, else the public hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def hub_token() -> str | None:
    """The hub token from `HF_TOKEN`; None leaves the choice to huggingface_hub."""
    return os.environ.get("HF_TOKEN") or None


def hub_cache() -> Path:
    """The hub cache folder, by the rules of huggingface_hub (`HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`)."""
    direct = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if direct:
        return Path(direct).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg).expanduser() if xdg else Path.home() / ".cache") / "huggingface" / "hub"


def config_home() -> Path:
    """The user's settings folder: `UNCRATE_HOME`, else `XDG_CONFIG_HOME`/uncrate, else ~/.config/uncrate."""
    direct = os.environ.get("UNCRATE_HOME")
    if direct:
        return Path(direct).expanduser()
    xdg = os.environ.get("XDG_CONFIG_HOME")
    return (Path(xdg).expanduser() if xdg else Path.home() / ".config") / "uncrate"


def store_home() -> Path:
    """The content-addressed code store: `UNCRATE_HOME`/store, else under `XDG_DATA_HOME`, else under ~/.local/share."""
    direct = os.environ.get("UNCRATE_HOME")
    if direct:
        return Path(direct).expanduser() / "store"
    xdg = os.environ.get("XDG_DATA_HOME")
    return (Path(xdg).expanduser() if xdg else Path.home() / ".local" / "share") / "uncrate" / "store"


def user_name() -> str:
    """The name that a lock entry records as its author: `UNCRATE_USER`, `USER`, `USERNAME`, else 'unknown'."""
    for name in ("UNCRATE_USER", "USER", "LOGNAME", "USERNAME"):
        if os.environ.get(name):
            return os.environ[name]
    return "unknown"


def interactive() -> bool:
    """Whether a person sits at a terminal: stdin and stderr are both one."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def visible_cuda_devices() -> tuple[str, ...] | None:
    """The entries of `CUDA_VISIBLE_DEVICES`; None when it is not set, empty when it hides all."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    return tuple(part.strip() for part in value.split(",") if part.strip() not in ("", "-1"))


def debug() -> bool:
    """Whether an unexpected failure should show its traceback: `UNCRATE_DEBUG`."""
    return flag("UNCRATE_DEBUG")


def colour_wanted() -> bool:
    """Whether a terminal may be sent colours: `NO_COLOR` is not set and `TERM` is not dumb."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"


def set_tensorboard_dir(folder: str) -> None:
    """Set `TENSORBOARD_LOGGING_DIR`, where transformers now looks for what was `logging_dir`, for this process."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = folder
