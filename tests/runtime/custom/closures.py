"""Small closures for tests: source texts in, approved bytes and a hash out; and the eager way to compare with."""

# ruff: noqa: E501

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uncrate.runtime.custom_code import load_class
from uncrate.runtime.foreign import build_config
from uncrate.trust.closure import closure_hash

STYLES = Path(__file__).parent / "styles"


def closure(**sources: str) -> tuple[str, dict[str, bytes]]:
    """Return (hash, files) of modules given as name=source; "__" in a name is a folder."""
    files = {f"{name.replace('__', '/')}.py": textwrap.dedent(text).encode() for name, text in sources.items()}
    return digest(files), files


def digest(files: dict[str, bytes]) -> str:
    """Return the closure hash of files that nothing enters from outside."""
    return closure_hash(((path, hashlib.sha256(data).hexdigest()) for path, data in files.items()), ())


def style(name: str) -> tuple[str, dict[str, bytes]]:
    """Return the closure of one folder under styles/."""
    files = {path.name: path.read_bytes() for path in (STYLES / name).glob("*.py")}
    assert files, name
    return digest(files), files


def classes(name: str, *references: str) -> list[type]:
    """Load classes of one style."""
    closure_, files = style(name)
    return [load_class(closure_, files, reference) for reference in references]


def eager(model_class: type, config_class: type, values: dict[str, Any], seed: int = 0) -> Any:
    """Build a model the plain way, with real memory and its own initialisation, then give every weight a random value."""
    torch.manual_seed(seed)
    model = model_class(build_config(config_class, values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + 0.5 * (parameter.dim() == 1))
    return model


def stored(model: Any, *, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return what a checkpoint of the model holds: every entry of its state dict, cloned, but those named."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in without}


def greedy(model: Any, ids: Tensor, steps: int, **inputs: Any) -> Tensor:
    """Return ids [1, T + steps]: the most likely token appended again and again, every forward over the whole text."""
    for _ in range(steps):
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False, **inputs).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
    return ids
