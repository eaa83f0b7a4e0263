"""Everything is decided here, from the manifest alone: torch is not imported and no tensor is read."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from uncrate import devices
from uncrate.adapters import AdapterPlan, Stacked, adapter_name, plan_adapter
from uncrate.checkpoint.manifest import Manifest, TensorEntry
from uncrate.errors import AdapterError, CheckpointError, PlanError, UsageError, escape
from uncrate.families import foreign
from uncrate.families.family import Family
from uncrate.families.table import find_family

# safetensors' names for the floating types a parameter may be stored in, and torch's.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
DTYPES = ("auto", *ITEM_BYTES)
TASKS = ("auto", "causal", "classification")
ROUTES = ("auto", "native", "custom", "transformers")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller may choose; "auto" leaves the choice to the plan.

    dtype: of the parameters in memory; "auto" keeps the stored one. device: "auto", "cpu", "cuda", "cuda:1", "mps".
    task: "causal" or "classification". route: "native", "custom", "transformers". allow_missing, allow_unexpected:
    tensor name patterns (fnmatch) whose absence or presence is accepted. subfolder: of the checkpoint, where it stands.
    base: the model under an adapter, in place of the one it names. adapters: folders or hub ids of more, put on top.
    """

    dtype: str = "auto"
    device: str = "auto"
    task: str = "auto"
    route: str = "auto"
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()
    subfolder: str | None = None
    base: str | None = None
    adapters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype, DTYPES),
            ("task", self.task, TASKS),
            ("route", self.route, ROUTES),
        ):
            if value not in known:
                raise UsageError(f"{name} {escape(repr(value))} is not known; choose from {', '.join(known)}")


@dataclass(frozen=True)
class Assignment:
    """One parameter: its name, and the stored tensor that fills it."""

    parameter: str
    tensor: TensorEntry


@dataclass(frozen=True)
class LeftOut:
    """One stored tensor that will not be read, and why."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done.

    `problems` lists all that is wrong, one line each; a plan with problems is shown but not carried out. `config` is
    the
    family's typed config. `class_reference` is text, "module:Class". `assignments` fill parameters from stored tensors;
    `initialised` parameters are not in the file and allowed not to be. `bytes` counts parameters in their final dtype;
    `mapped` says that they stay in the files' pages, without a private copy.
    """

    manifest: Manifest
    options: Options
    route: str
    why: str
    family: str | None
    generation: str | None
    task: str
    class_reference: str | None
    config: Any
    dtype: str
    device: devices.Device
    assignments: tuple[Assignment, ...]
    initialised: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    parameters: int
    bytes: int
    mapped: bool
    code_will_run: tuple[str, ...] = ()
    adapters: tuple[AdapterPlan, ...] = ()

    @property
    def asked(self) -> Manifest:
        """What the user named: the outermost adapter of a chain, else the model."""
        return next((item.manifest for item in reversed(self.adapters) if not item.added), self.manifest)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as `uncrate plan --json` prints it."""
        return {
            "schema": 1,
            "source": str(self.asked.source),
            "commit": self.asked.commit,
            "model": {"source": str(self.manifest.source), "commit": self.manifest.commit},
            "adapters": [item.to_dict() for item in self.adapters],
            "family": self.family,
            "generation": self.generation,
            "task": self.task,
            "route": self.route,
            "why": self.why,
            "class": self.class_reference,
            "dtype": self.dtype,
            "device": self.device.name,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "mapped": self.mapped,
            "initialised": list(self.initialised),
            "left_out": [{"name": item.name, "why": item.why} for item in self.left_out],
            "problems": list(self.problems),
            "notes": list(self.notes),
            "code": {
                "will_run": list(self.code_will_run),
                "listed": [file.path for file in self.manifest.files if file.path.endswith(".py")],
            },
        }

    def sheet(self) -> list[tuple[str, str]]:
        """Return the plan as label and value rows for a person."""
        asked = self.asked
        rows = [
            ("source", str(asked.source) + (f" @ {asked.commit[:12]}" if asked.commit else "")),
            *(row for item in reversed(self.adapters) for row in item.sheet()),
            ("route", f"{self.route}: {self.why}"),
            ("class", (self.class_reference or "none").replace(":", ".")),
            ("family", f"{self.generation} ({self.family})" if self.family else "none"),
            ("parameters", f"{self.parameters:,} in {len(self.assignments)} tensors"),
            (
                "memory",
                f"{size_text(self.bytes)} {self.dtype} on {self.device.name}"
                + (", mapped from the files" if self.mapped else ""),
            ),
        ]
        rows.append(("code that runs", ", ".join(self.code_will_run) or "none of the checkpoint's"))
        if self.initialised:
            rows.append(("initialised", _some(self.initialised)))
        rows += [("left out", f"{escape(item.name)}: {item.why}") for item in self.left_out[:3]]
        if len(self.left_out) > 3:
            rows.append(("left out", f"and {len(self.left_out) - 3} more"))
        rows += [("note", note) for note in self.notes]
        rows += [("problem", problem) for problem in self.problems]
        return rows


def check(plan: Plan) -> None:
    """Raise PlanError with every problem of the plan; return when there is none."""
    if plan.problems:
        raise PlanError(
            "nothing was loaded, the plan has problems:",
            plan.problems,
            where=str(plan.asked.source),
            next=f"see the whole plan: uncrate plan {plan.asked.source}",
        )


def make_plan(manifest: Manifest, options: Options | None = None, stack: Sequence[Stacked] = ()) -> Plan:
    """Decide everything about opening a checkpoint; problems are collected in the plan, not raised.

    `stack` are the adapters on it, the innermost first, as `follow_base` found them. Raises CheckpointError or
    ConfigError where there is no config to plan from, UsageError for a device that is not here.
    """
    options = options or Options()
    if manifest.adapter is not None:
        raise AdapterError(
            "this is an adapter; a plan is made of the model under it",
            where=str(manifest.source),
            next="uncrate.plan(WHERE), or make_plan(*follow_base(manifest))",
        )
    if manifest.config is None:
        raise CheckpointError(
            "there is no config.json, so nothing says which model this is",
            where=str(manifest.source),
            next="look what is there: uncrate inspect " + str(manifest.source),
        )
    device = devices.choose_device(options.device, devices.read_devices())
    claimed = find_family(manifest.config)
    if claimed is not None and options.route in ("auto", "native"):
        return _plan_native(manifest, options, device, stack, *claimed)
    plan = _plan_foreign(manifest, options, device)
    refused = "adapters are put on models that uncrate runs itself, and this is none"
    return replace(plan, problems=(*plan.problems, refused)) if stack else plan


def _plan_native(
    manifest: Manifest,
    options: Options,
    device: devices.Device,
    stack: Sequence[Stacked],
    family: Family,
    generation: str,
) -> Plan:
    assert manifest.config is not None
    config = family.read_config(manifest.config, "config.json")
    task = _choose_task(manifest, options)
    match = _match(manifest, options, family, task, family.expected_tensors(config, task))
    dtype, notes = _choose_dtype(manifest, options, match.stored)
    parameters = sum(prod(entry.tensor.shape) for entry in match.assignments)
    parameters += sum(prod(match.expected[name]) for name in match.initialised)
    size = parameters * ITEM_BYTES[dtype]
    mapped = device.name == "cpu" and set(match.stored) <= {_stored_name(dtype)}
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


def _plan_foreign(manifest: Manifest, options: Options, device: devices.Device) -> Plan:
    """Say which routes there are for a model that no native family claims."""
    assert manifest.config is not None
    kind = manifest.config.get("model_type")
    shown = escape(kind) if isinstance(kind, str) else "none"
    problems = [f"model_type {shown}: no native family claims it"]
    if isinstance(kind, str) and kind in foreign.CONFUSED:
        problems.append(foreign.CONFUSED[kind])
    size = sum(entry.end - entry.start for entry in manifest.weights.tensors.values())
    return Plan(
        manifest=manifest,
        options=options,
        route="none",
        why="no route can open it yet",
        family=None,
        generation=None,
        task=_choose_task(manifest, options),
        class_reference=None,
        config=None,
        dtype=options.dtype,
        device=device,
        assignments=(),
        initialised=(),
        left_out=(),
        problems=tuple(problems),
        notes=(),
        parameters=sum(prod(entry.shape) for entry in manifest.weights.tensors.values()),
        bytes=size,
        mapped=False,
    )


@dataclass(frozen=True)
class _Match:
    expected: Mapping[str, tuple[int, ...]]
    assignments: tuple[Assignment, ...]
    initialised: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    problems: tuple[str, ...]
    stored: Counter[str]


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
            elif manifest.weights.format == "safetensors":
                problems.append(f"missing: {name} {list(shape)} is not in the files")
        elif tensor.dtype not in FLOATS:
            problems.append(f"wrong dtype: {name} is stored as {escape(tensor.dtype)}, a floating type belongs there")
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
    if manifest.weights.format != "safetensors":
        held = {"none": "there are no weights", "pickle": "the weights are pickles, which can run code when read"}
        problems.insert(0, held[manifest.weights.format])
    floats = Counter(entry.tensor.dtype for entry in assignments)
    return _Match(expected, tuple(assignments), tuple(initialised), tuple(left_out), tuple(problems), floats)


def _allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _choose_task(manifest: Manifest, options: Options) -> str:
    """A stored class head, or an architecture that names one, means classification."""
    if options.task != "auto":
        return options.task
    named = (manifest.config or {}).get("architectures")
    first = named[0] if isinstance(named, tuple | list) and named else ""
    if "classifier_head.weight" in manifest.weights.tensors or "SequenceClassification" in str(first):
        return "classification"
    return "causal"


def _choose_dtype(manifest: Manifest, options: Options, stored: Counter[str]) -> tuple[str, tuple[str, ...]]:
    """Keep the stored dtype unless told otherwise; where several are stored, the one most tensors have."""
    if options.dtype != "auto":
        return options.dtype, ()
    if not stored:
        named = (manifest.config or {}).get("torch_dtype") or (manifest.config or {}).get("dtype")
        return (named if named in ITEM_BYTES else "float32"), ()
    most = stored.most_common(1)[0][0]
    if len(stored) == 1:
        return FLOATS[most], ()
    mixed = ", ".join(f"{count} {FLOATS[kind]}" for kind, count in stored.most_common())
    return FLOATS[most], (f"stored in several dtypes ({mixed}): all become {FLOATS[most]}",)


def _stored_name(dtype: str) -> str:
    return next(name for name, torch_name in FLOATS.items() if torch_name == dtype)


def _some(names: tuple[str, ...], limit: int = 3) -> str:
    shown = ", ".join(escape(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def size_text(count: int) -> str:
    """Return a byte count for a person: 17.5 GB, 3.2 MB (powers of ten)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
