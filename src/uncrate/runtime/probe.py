"""Build a checkpoint's class before anybody approved it, in a child process that can neither write, talk nor start
programs.

What comes back is JSON and nothing else: the class, its parameters, or the error. It is what the code says of itself,
read with bounds and escaped. No weights are involved; parameters take no memory.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from uncrate.errors import CodeError, UncrateError, escape

MAX_ANSWER = 1 << 20
MAX_SHOWN = 200
_CHILD = "import sys, json; given = json.load(sys.stdin); sys.path[:] = given['path']; "
_CHILD += "from uncrate.runtime.probe import answer; answer(given)"


def probe(
    closure_hash: str,
    files: Mapping[str, bytes],
    reference: str,
    *,
    config: Mapping[str, Any],
    config_reference: str | None = None,
    siblings: frozenset[str] = frozenset(),
    seconds: float = 120.0,
) -> dict[str, Any]:
    """Return what building `reference` from a closure and config.json gives, without approval and without weights.

    Keys: class, parameters (count), tensors (name to shape, the first 200), error (None or text), held (what holds
    back writes, network and programs); where a system can hold nothing back, nothing is run and the error says so.
    Raises `CodeError` when the child does not answer in time, or answers nonsense.
    """
    given = {
        "path": [entry for entry in sys.path if entry],
        "closure": closure_hash,
        "files": {path: base64.b64encode(data).decode() for path, data in files.items()},
        "reference": reference,
        "config": json.loads(json.dumps(config, default=_plain)),
        "config_reference": config_reference,
        "siblings": sorted(siblings),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", _CHILD],
            input=json.dumps(given).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            timeout=seconds,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise CodeError(f"the code did not finish within {seconds:.0f} seconds and was stopped") from error
    try:
        found = json.loads(done.stdout[:MAX_ANSWER])
        return {
            "class": _text(found["class"]),
            "parameters": int(found["parameters"]),
            "tensors": {
                _text(name): [int(size) for size in shape] for name, shape in list(found["tensors"].items())[:MAX_SHOWN]
            },
            "error": None if found["error"] is None else _text(found["error"]),
            "held": {_text(what): [_text(by) for by in names][:9] for what, names in list(found["held"].items())[:9]},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CodeError(
            "the code was not built: its process ended without an answer", why=f"exit status {done.returncode}"
        ) from error


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


def _text(value: Any) -> str:
    return escape(str(value), 500)


def answer(given: Mapping[str, Any]) -> None:
    """Be the child: close down, build, write one JSON document to standard output."""
    import torch
    import transformers  # what is read before the doors close needs no further look

    from uncrate.runtime import compat, custom_code, empty, foreign, sandbox

    del torch, transformers, compat
    channel = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    found: dict[str, Any] = {"class": given["reference"], "parameters": 0, "tensors": {}, "error": None}
    found["held"] = sandbox.close_down()
    if not found["held"]["network"] or len(found["held"]["writes"]) < 2:
        found["error"] = "nothing was run: this system offers neither Landlock nor seccomp to hold the code back"
    else:
        try:
            _build(given, found, custom_code, empty, foreign)
        except UncrateError as error:
            found["error"] = str(error)
        except BaseException as error:  # whatever the code raises, SystemExit included, is its answer
            found["error"] = f"{type(error).__name__}: {error}"
    data = json.dumps(found).encode()
    while data:
        data = data[os.write(channel, data) :]
    os._exit(0)


def _build(given: Mapping[str, Any], found: dict[str, Any], custom_code: Any, empty: Any, foreign: Any) -> None:
    import torch

    files = {path: base64.b64decode(data) for path, data in given["files"].items()}
    options = {"siblings": frozenset(given["siblings"])}
    model_class = custom_code.load_class(given["closure"], files, given["reference"], **options)
    if given["config_reference"]:
        config_class = custom_code.load_class(given["closure"], files, given["config_reference"], **options)
    else:
        config_class = model_class.config_class
    model = empty.build(model_class, foreign.build_config(config_class, given["config"]), dtype=torch.float32)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    found["tensors"] = dict(list(shapes.items())[:MAX_SHOWN])
