"""The one step that imports torch, reads weights and fills memory; it decides nothing."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from uncrate.errors import PlanError, escape
from uncrate.families.table import left_out_because
from uncrate.plan import Plan
from uncrate.runtime.build import TORCH_NAMES, assign, build_empty, initialise, load_native_class
from uncrate.runtime.mapping import Mapped
from uncrate.runtime.pickles import read_pickles
from uncrate.runtime.tensors import read_tensors


@dataclass
class Report:
    """What carrying out took: seconds a step, and the process's peak resident bytes after it."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.peak_bytes[name] = _peak_resident()


def _peak_resident() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fill(plan: Plan, mapped: Mapped, report: Report) -> nn.Module:
    """Return the native model of a sound plan, filled from its mapped files and ready (evaluation mode)."""
    dtype, device = TORCH_NAMES[plan.dtype], torch.device(plan.device.name)
    with torch.inference_mode(False):  # a model that is opened inside inference mode can be trained later
        return _fill(plan, mapped, report, dtype, device)


def _fill(plan: Plan, mapped: Mapped, report: Report, dtype: torch.dtype, device: torch.device) -> nn.Module:
    with report.step("build"):
        assert plan.class_reference is not None
        model = build_empty(load_native_class(plan.class_reference), plan.config)
    with report.step("weights"):
        if plan.manifest.weights.format == "pickle":
            tensors = _matched(plan, model, read_pickles(mapped.paths))
            assign(model, {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()})
        else:
            entries = [(item.parameter, item.tensor) for item in plan.assignments]
            assign(model, read_tensors(entries, mapped, dtype=dtype, device=device))
        initialise(model, plan.initialised, dtype, device)
    return model.eval()


def _matched(plan: Plan, model: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hold a pickle's tensors, whose names no header told the plan, against the model's; raise PlanError with all
    faults.
    """
    faults: list[str] = []
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name not in plan.initialised}
    for name, parameter in wanted.items():
        found = stored.get(name)
        if found is None:
            faults.append(f"missing: {name} {list(parameter.shape)} is not in the files")
        elif not found.is_floating_point():
            faults.append(f"wrong dtype: {name} is stored as {found.dtype}, a floating type belongs there")
        elif found.shape != parameter.shape:
            faults.append(
                f"wrong shape: {name} is stored as {list(found.shape)}, the config implies {list(parameter.shape)}"
            )
    for name in stored:
        allowed = any(fnmatch.fnmatchcase(name, pattern) for pattern in plan.options.allow_unexpected)
        if name not in wanted and not allowed and not left_out_because(plan.family, name, plan.task):
            faults.append(f"unexpected: {escape(name)} is in the files, the config implies no such tensor")
    if faults:
        raise PlanError("the weights do not fit the model:", faults, where=str(plan.manifest.source))
    return {name: stored[name] for name in wanted}
