"""The one step that imports torch, reads weights and fills memory; it decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from uncrate.checkpoint.files import Files, open_files
from uncrate.errors import PlanError
from uncrate.plan import Plan
from uncrate.runtime.build import TORCH_NAMES, assign, build_empty, initialise, load_native_class
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


def check(plan: Plan) -> None:
    """Raise PlanError with every problem of the plan; return when there is none."""
    if plan.problems:
        raise PlanError(
            "nothing was loaded, the plan has problems:",
            plan.problems,
            where=str(plan.manifest.source),
            next=f"see the whole plan: uncrate plan {plan.manifest.source}",
        )


def fill(plan: Plan, report: Report) -> nn.Module:
    """Return the native model of a sound plan, filled and ready (evaluation mode)."""
    dtype, device = TORCH_NAMES[plan.dtype], torch.device(plan.device.name)
    with report.step("fetch"):
        files = open_files(plan.manifest.source, commit=plan.manifest.commit, subfolder=plan.options.subfolder)
        paths = local_paths(plan, files)
    with report.step("build"):
        assert plan.class_reference is not None
        model = build_empty(load_native_class(plan.class_reference), plan.config)
    with report.step("weights"):
        sizes = {file.path: file.size for file in plan.manifest.weights.files}
        entries = ((item.parameter, item.tensor) for item in plan.assignments)
        assign(model, read_tensors(entries, paths, sizes, dtype=dtype, device=device))
        initialise(model, plan.initialised, dtype, device)
    return model.eval()


def local_paths(plan: Plan, files: Files) -> dict[str, Path]:
    """Return where each weight file that the plan reads lies on this machine; a hub's files are fetched."""
    names = list(dict.fromkeys(item.tensor.file for item in plan.assignments))
    return dict(zip(names, files.local_many(names), strict=True))
