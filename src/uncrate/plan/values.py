"""What a plan is made of: the caller's options, the decisions, and every problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uncrate import devices
from uncrate.adapters import AdapterPlan
from uncrate.checkpoint.manifest import Manifest, TensorEntry
from uncrate.errors import PlanError, UsageError, escape
from uncrate.show import plain_sheet, size_text

if TYPE_CHECKING:
    from uncrate.plan.routes import Foreign

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
    allow_pickle: .bin weights may be read, with torch's weights-only reader. auto_class: whose entry of auto_map, or
    whose class of transformers, a foreign route takes ("AutoModelForCausalLM"); None leaves it to the task.
    base: the model under an adapter, in place of the one it names. adapters: folders or hub ids of more, put on top.
    """

    dtype: str = "auto"
    device: str = "auto"
    task: str = "auto"
    route: str = "auto"
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()
    subfolder: str | None = None
    allow_pickle: bool = False
    auto_class: str | None = None
    base: str | None = None
    adapters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype, DTYPES),
            ("task", self.task, TASKS),
            ("route", self.route, ROUTES),
        ):
            if value not in known:
                written = None if isinstance(value, str) else f'write it as text: {name}="{known[-1]}"'
                raise UsageError(
                    f"{name} {escape(repr(value))} is not known; choose from {', '.join(known)}", next=written
                )
        for name in ("allow_missing", "allow_unexpected", "adapters"):
            value = getattr(self, name)
            # Taken letter by letter, the pattern "a.*" would allow everything.
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise UsageError(
                    f"{name} is a tuple of texts, not {escape(repr(value))}", next=f'write {name}=("...",)'
                )


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


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """What will be done.

    `problems` lists all that is wrong, one line each; a plan with problems is shown but not carried out. `config` is
    the
    family's typed config. `class_reference` is text, "module:Class". `assignments` fill parameters from stored tensors;
    `initialised` parameters are not in the file and allowed not to be. `bytes` counts parameters in their final dtype;
    `mapped` says that they stay in the files' pages, without a private copy. `foreign` tells how a model that is not
    native is reached, and whether its code is approved.
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
    adapters: tuple[AdapterPlan, ...] = ()
    foreign: Foreign | None = None

    def __str__(self) -> str:
        return plain_sheet(self.sheet())

    def __repr__(self) -> str:
        return f"<Plan {self.route} of {self.asked.source}: {len(self.problems)} problems>"

    @property
    def asked(self) -> Manifest:
        """What the user named: the outermost adapter of a chain, else the model."""
        return next((item.manifest for item in reversed(self.adapters) if not item.added), self.manifest)

    @property
    def approved(self) -> bool:
        """Whether nothing would run that the lock does not approve; always so on the other roads than custom code."""
        if self.foreign is None or self.foreign.route != "custom":
            return True
        return self.foreign.approval is not None and self.foreign.approval.approved

    @property
    def code_will_run(self) -> tuple[str, ...]:
        """The checkpoint's own files that will be executed; none on the native road."""
        return self.foreign.will_run if self.foreign else ()

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
                "listed": [file.path for file in self.manifest.python_files],
                **(self.foreign.to_dict() if self.foreign else {}),
            },
        }

    def sheet(self) -> list[tuple[str, str]]:
        """Return the plan as label and value rows for a person."""
        asked = self.asked
        where = f"in {len(self.assignments)} tensors" if self.assignments else "by the config; no header lists them"
        rows = [
            ("source", str(asked.source) + (f" @ {asked.commit[:12]}" if asked.commit else "")),
            *(row for item in reversed(self.adapters) for row in item.sheet()),
            ("route", f"{self.route}: {self.why}"),
            ("class", (self.class_reference or "none").replace(":", ".")),
            ("family", f"{self.generation} ({self.family})" if self.family else "none"),
            ("parameters", f"{self.parameters:,} {where}"),
            (
                "memory",
                f"{size_text(self.bytes)} {self.dtype} on {self.device.name}"
                + (", mapped from the files" if self.mapped else ""),
            ),
        ]
        rows.append(("code that runs", some_of(self.code_will_run, 8) or "none of the checkpoint's"))
        rows += self.foreign.sheet() if self.foreign else []
        if self.initialised:
            rows.append(("initialised", some_of(self.initialised)))
        rows += [("left out", f"{escape(item.name)}: {item.why}") for item in self.left_out[:3]]
        if len(self.left_out) > 3:
            rows.append(("left out", f"and {len(self.left_out) - 3} more"))
        rows += [("note", note) for note in self.notes]
        rows += [("problem", problem) for problem in self.problems]
        return rows


def check(plan: Plan) -> None:
    """Raise PlanError with every problem of the plan, NotApproved where code would have to run that nobody approved."""
    if plan.foreign is not None and plan.foreign.route == "custom" and plan.foreign.approval is not None:
        plan.foreign.approval.require(str(plan.asked.source))
    if plan.problems:
        raise PlanError(
            "nothing was loaded, the plan has problems:",
            plan.problems,
            where=str(plan.asked.source),
            next=f"see the whole plan: uncrate plan {plan.asked.source}",
        )


def some_of(names: tuple[str, ...], limit: int = 3) -> str:
    """Return the first names, escaped, and how many more there are."""
    shown = ", ".join(escape(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
