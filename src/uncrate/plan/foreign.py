"""The plan of a model that no native family claims: custom code, or transformers' class.

Which parameters the class has is known only once its code runs, so here every stored tensor is listed; the class holds
its own parameters against them when the plan is carried out.
"""

from __future__ import annotations

from collections import Counter
from math import prod

from uncrate import devices
from uncrate.checkpoint.legacy import likely
from uncrate.checkpoint.manifest import Manifest
from uncrate.plan.choices import choose_dtype, choose_task, stored_name, weight_problems
from uncrate.plan.routes import Foreign, choose_route
from uncrate.plan.values import FLOATS, ITEM_BYTES, Assignment, Options, Plan
from uncrate.show import size_text


def plan_foreign(manifest: Manifest, options: Options, device: devices.Device) -> Plan:
    """Return the plan by the best foreign route; where there is none, the problems say what could be reached."""
    task = choose_task(manifest, options)
    route = choose_route(manifest, task=task, wanted=options.route, entry=options.auto_class)
    tensors = manifest.weights.tensors
    floats = Counter(entry.dtype for entry in tensors.values() if entry.dtype in FLOATS)
    dtype, notes = choose_dtype(manifest, options, floats)
    size = sum(
        prod(entry.shape) * ITEM_BYTES[dtype] if entry.dtype in FLOATS else entry.end - entry.start
        for entry in tensors.values()
    )
    mapped = device.name == "cpu" and set(floats) <= {stored_name(dtype)}
    problems = [*route.problems, *weight_problems(manifest, options)]
    if device.free is not None and not mapped and size > device.free:
        problems.append(f"{size_text(size)} of parameters do not fit in {size_text(device.free)} free on {device.name}")
    return Plan(
        manifest=manifest,
        options=options,
        route=route.route,
        why=route.why,
        family=None,
        generation=None,
        task=task,
        class_reference=route.reference,
        config=None,
        dtype=dtype,
        device=device,
        assignments=tuple(Assignment(name, entry) for name, entry in tensors.items()),
        initialised=(),
        left_out=(),
        problems=tuple(problems),
        notes=notes + route.reachable + _shims(route),
        parameters=manifest.weights.parameters,
        bytes=size,
        mapped=mapped,
        foreign=route,
    )


def _shims(route: Foreign) -> tuple[str, ...]:
    """Say what of older transformers the checkpoint's code seems to lean on; it alone gets that back."""
    if route.route != "custom":
        return ()
    names = [api.name for api in likely(data.decode("utf-8", "replace") for data in route.code.sources.values())]
    return (f"{len(names)} shims for code written for older transformers: {', '.join(names)}",) if names else ()
