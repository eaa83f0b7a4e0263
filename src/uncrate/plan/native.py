"""The plan of a model that uncrate runs itself: the files' tensors held against those that the config implies."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from uncrate import devices
from uncrate.adapters import AdapterPlan, Stacked, adapter_name, plan_adapter
from uncrate.checkpoint.manifest import Manifest
from uncrate.errors import escape
from uncrate.families.family import Family
from uncrate.plan.choices import choose_dtype, choose_task, stored_name, weight_problems
from uncrate.plan.values import FLOATS, ITEM_BYTES, Assignment, LeftOut, Options, Plan
from uncrate.show import size_text


def plan_native(
    manifest: Manifest,
    options: Options,
    device: devices.Device,
    stack: Sequence[Stacked],
    family: Family,
    generation: str,
) -> Plan:
    assert manifest.config is not None
    config = family.read_config(manifest.config, f"{manifest.source}/config.json")
    task = choose_task(manifest, options)
    match = _match(manifest, options, family, task, family.expected_tensors(config, task))
    dtype, notes = choose_dtype(manifest, options, match.stored)
    # What a pickle holds is known once it is read; until then the config says what the model will take.
    counted = match.expected if manifest.weights.format != "safetensors" else match.filled
    parameters = sum(prod(match.expected[name]) for name in counted)
    size = parameters * ITEM_BYTES[dtype]
    mapped = device.name == "cpu" and set(match.stored) == {stored_name(dtype)}
    adapters = _plan_adapters(stack, match.expected, options)
    problems = match.problems + tuple(problem for item in adapters for problem in item.problems)
    notes += tuple(note for item in adapters for note in item.notes)
    if device.free is not None and not mapped and size > device.free:
        problems += (f"{size_text(size)} of parameters do not fit in {size_text(device.free)} free on {device.name}",)
    if any(file.path.endswith(".py") for file in manifest.files) or "auto_map" in manifest.config:
        notes += ("the checkpoint's own code is not needed and will not run",)
    return Plan(
        manifest=manifest,
        options=options,
        route="native",
        why=f"config.json is a {generation}, which uncrate runs itself",
        family=family.name,
        generation=generation,
        task=task,
        class_reference=family.classes[task],
        config=config,
        dtype=dtype,
        device=device,
        assignments=match.assignments,
        initialised=match.initialised,
        left_out=match.left_out,
        problems=problems,
        notes=notes,
        parameters=parameters,
        bytes=size,
        mapped=mapped,
        adapters=adapters,
    )


def _plan_adapters(
    stack: Sequence[Stacked], expected: Mapping[str, tuple[int, ...]], options: Options
) -> tuple[AdapterPlan, ...]:
    """Match every adapter against the model; each gets a name of its own, from the end of its source."""
    plans: list[AdapterPlan] = []
    for stacked in stack:
        name = adapter_name(stacked.manifest.source, taken={item.name for item in plans})
        plans.append(plan_adapter(stacked, name, expected, options.allow_missing))
    return tuple(plans)


@dataclass(frozen=True)
class _Match:
    expected: Mapping[str, tuple[int, ...]]
    assignments: tuple[Assignment, ...]
    initialised: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    problems: tuple[str, ...]
    stored: Counter[str]

    @property
    def filled(self) -> tuple[str, ...]:
        """The parameters that will have a value."""
        return (*(item.parameter for item in self.assignments), *self.initialised)


def _match(
    manifest: Manifest, options: Options, family: Family, task: str, expected: dict[str, tuple[int, ...]]
) -> _Match:
    """Hold the tensors in the files against those that the config implies; tell every difference."""
    stored = manifest.weights.tensors
    assignments, initialised, left_out, problems = [], [], [], []
    for name, shape in expected.items():
        tensor = stored.get(name)
        if tensor is None:
            if _allowed(name, options.allow_missing) or name.startswith(family.heads[task]):
                initialised.append(name)
            elif manifest.weights.format == "safetensors":  # what a pickle holds is known once it is read
                problems.append(f"missing: {name} {list(shape)} is not in the files")
        elif tensor.dtype not in FLOATS:
            problems.append(f"wrong dtype: {name} is stored as {escape(tensor.dtype)}, {_FLOATING} belongs there")
        elif tensor.shape != shape:
            problems.append(f"wrong shape: {name} is stored as {list(tensor.shape)}, the config implies {list(shape)}")
        else:
            assignments.append(Assignment(name, tensor))
    for name in stored:
        if name in expected:
            continue
        why = family.derived(name, task)
        if why is None and _allowed(name, options.allow_unexpected):
            why = "not implied by the config; allowed"
        if why is None:
            found = f"{escape(name)} {list(stored[name].shape)}"
            problems.append(f"unexpected: {found} is in the files, the config implies no such tensor")
        else:
            left_out.append(LeftOut(name, why))
    problems[:0] = weight_problems(manifest, options)
    floats = Counter(entry.tensor.dtype for entry in assignments)
    return _Match(expected, tuple(assignments), tuple(initialised), tuple(left_out), tuple(problems), floats)


_FLOATING = f"a floating type ({', '.join(FLOATS)})"


def _allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
