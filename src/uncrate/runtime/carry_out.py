"""The one step that imports torch, reads weights and fills memory; it decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from uncrate.plan import Plan
from uncrate.runtime.build import TORCH_NAMES, assign, build_empty, initialise, load_native_class
from uncrate.runtime.mapping import Mapped
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
    with report.step("build"):
        assert plan.class_reference is not None
        model = build_empty(load_native_class(plan.class_reference), plan.config)
    with report.step("weights"):
        entries = [(item.parameter, item.tensor) for item in plan.assignments]
        assign(model, read_tensors(entries, mapped, dtype=dtype, device=device))
        initialise(model, plan.initialised, dtype, device)
    return model.eval()
