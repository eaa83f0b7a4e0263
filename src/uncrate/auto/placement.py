"""device_map: one device, a dict, or "auto". The vision tower is one unit; a map that splits it is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from uncrate.auto.keywords import Given
from uncrate.errors import MissingPackage, UsageError, escape

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# Modules that read a child's weight without calling the child, so that an offloaded one must come back with them.
WHOLE = ["PatchEmbedding", "PrefixEncoder"]
# Parts whose tensors meet in one operation, so that a device for each of their children cannot work.
UNITS = re.compile(r"transformer\.(?:vision|embedding|encoder\.layers\.\d+)(?=\.)")


def one_device(device_map: object) -> str | None:
    """Return the device that a map sends everything to, as torch names it; None where it is a strategy or has several.

    Raises UsageError for what is no device_map.
    """
    if device_map is None:
        return "cpu"
    if isinstance(device_map, bool) or not isinstance(device_map, str | int | torch.device | Mapping):
        raise UsageError(f"device_map is a {type(device_map).__name__}", next='give "auto", a device or a dict')
    if isinstance(device_map, str) and device_map in STRATEGIES:
        return None
    if isinstance(device_map, Mapping):
        targets = {_device(value) for value in device_map.values()}
        return targets.pop() if len(targets) == 1 and targets != {"disk"} and "" in device_map else None
    return _device(device_map)


def _device(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise UsageError(f"device_map names device {value}", next='give "cpu" for the CPU')
        return f"cuda:{value}"
    if value == "disk":
        return "disk"
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"device_map names {escape(repr(value))}, which is no device",
            why=f"devices are cpu, cuda:0, mps; strategies {', '.join(STRATEGIES)}",
        ) from error
    if device.type == "meta":
        raise UsageError(
            "device_map='meta' would load no weights", next="build by from_config under torch.device('meta')"
        )
    return str(device)


def check_units(device_map: Mapping[str, Any]) -> None:
    """Raise UsageError where a map gives parts of one unit different devices."""
    devices: dict[str, set[str]] = {}
    for name, target in device_map.items():
        unit = UNITS.match(name)
        if unit is not None:
            devices.setdefault(unit.group(), set()).add(_device(target))
    split = sorted(unit for unit, targets in devices.items() if len(targets) > 1)
    if split:
        raise UsageError(
            f"device_map splits {', '.join(split[:3])} over devices",
            why="its parts work on one tensor together; the vision tower is placed whole",
            next=f'give one device for all of it: {{"{split[0]}": ...}}',
        )


def dispatch(model: nn.Module, device_map: Any, given: Given) -> None:
    """Spread a model that is in CPU memory over devices, by accelerate. Raises UsageError, MissingPackage."""
    try:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError as error:
        raise MissingPackage("device_map needs accelerate", next="pip install accelerate") from error
    units = list(getattr(model, "_no_split_modules", None) or ())
    if isinstance(device_map, str):
        memory = given.get("max_memory")
        if device_map != "sequential":
            memory = get_balanced_memory(
                model, memory, no_split_module_classes=units, low_zero=device_map == "balanced_low_0"
            )
        placed = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=units)
    else:
        check_units(device_map)
        placed = {name: target if isinstance(target, int) else _device(target) for name, target in device_map.items()}
    targets = set(map(str, placed.values()))
    if targets == {"cpu"}:
        return  # it is there already, and a map would make save_pretrained warn of offloaded parts
    if targets == {"disk"}:
        raise UsageError(
            "device_map would leave the whole model on disk",
            why="what is offloaded comes back part by part, and even one part needs memory",
            next="give more in max_memory, or name a device for a part",
        )
    if "disk" in targets and given.get("offload_folder") is None:
        raise UsageError("device_map puts a part on disk, and no folder is named for it", next="give offload_folder=")
    dispatch_model(
        model,
        device_map=placed,
        offload_dir=given.get("offload_folder"),
        offload_buffers=bool(given.get("offload_buffers")),
        preload_module_classes=WHOLE,
        skip_keys=list(getattr(model, "_skip_keys_device_placement", None) or ()),
    )
