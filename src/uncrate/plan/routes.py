"""Which road leads to a model that no native family claims: the checkpoint's own code, or transformers' class.

Custom code is a road only when the lock approves its closure; nothing in the checkpoint can change that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uncrate.checkpoint.code import Code, EntryPoint, read_code
from uncrate.checkpoint.manifest import Manifest
from uncrate.errors import escape
from uncrate.families import foreign
from uncrate.trust.approve import lock_for
from uncrate.trust.lock import Approval

# The Auto classes a checkpoint may name for a task, best first.
AUTO_CLASSES = {
    "causal": (
        "AutoModelForCausalLM",
        "AutoModelForSeq2SeqLM",
        "AutoModelForImageTextToText",
        "AutoModelForVision2Seq",
        "AutoModelForConditionalGeneration",
        "AutoModelForMultimodalLM",
        "AutoModelForMaskedLM",
        "AutoModel",
    ),
    "classification": ("AutoModelForSequenceClassification",),
}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """How a foreign model would be opened: `route` is "custom", "transformers" or "none", `why` says what settled it.

    `entry` is the place that names the model's class in custom code. `reference` is the class as text. `problems` say
    what stands in the way; `reachable` which other routes there are and how.
    """

    route: str
    why: str
    reference: str | None
    entry: EntryPoint | None
    code: Code
    approval: Approval | None
    problems: tuple[str, ...]
    reachable: tuple[str, ...]

    @property
    def will_run(self) -> tuple[str, ...]:
        """The files of the closure that will be executed: all of it once approved, else none."""
        approved = self.route == "custom" and self.approval is not None and self.approval.approved
        return tuple(file.path for file in self.code.files) if approved else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the `code` part of `uncrate plan --json`."""
        return {
            "closure": self.code.closure,
            "entry": self.entry.where if self.entry else None,
            "approval": self.approval.to_dict() if self.approval else None,
            "redirects": [redirect.to_dict() for redirect in self.code.redirects],
        }

    def sheet(self) -> list[tuple[str, str]]:
        """Return label and value rows: the closure and what the lock says about it."""
        if self.approval is None or self.route != "custom":
            return []
        files = f"closure {self.code.closure[:8]}, {len(self.code.files)} files"
        return [("approval", f"{files}: {self.approval.why}")]


def choose_route(manifest: Manifest, *, task: str, wanted: str = "auto", entry: str | None = None) -> Foreign:
    """Decide between custom code and transformers' class. `wanted` is Options.route, `entry` an Auto class by name.

    Order: approved custom code, then transformers' class, then unapproved custom code (which will not run).
    """
    lock = lock_for(manifest.source)
    code = read_code(manifest, pins=lock.pins(str(manifest.source)))
    approval = lock.status(code) if code else None
    named = _named(code, manifest.config or {}, task, entry)
    own = _transformers_class(manifest.config or {}, entry)
    blocked = tuple(_faults(code, named))
    custom = named is not None and wanted in ("auto", "custom")
    if custom and approval is not None and approval.approved and named is not None:
        why = f"{named.where} names its own class; {approval.why}"
        return _made("custom", why, named.reference, named, code, approval, blocked)
    if own is not None and wanted in ("auto", "transformers"):
        kind = str((manifest.config or {}).get("model_type"))
        reachable = _how_custom(manifest, named, approval)
        if kind in foreign.CONFUSED:
            reachable = (foreign.CONFUSED[kind], *reachable)
        why = f"transformers has a class for model_type {escape(kind)}"
        return _made("transformers", why, own, None, code, approval, (), reachable)
    if custom and named is not None:
        why = f"{named.where} names a class of the checkpoint's own code, which is not approved"
        return _made("custom", why, named.reference, named, code, approval, blocked)
    return _no_route(manifest, wanted, named, own, code, approval)


def _made(
    route: str,
    why: str,
    reference: str | None,
    entry: EntryPoint | None,
    code: Code,
    approval: Approval | None,
    problems: tuple[str, ...],
    reachable: tuple[str, ...] = (),
) -> Foreign:
    return Foreign(
        route=route,
        why=why,
        reference=reference,
        entry=entry,
        code=code,
        approval=approval,
        problems=problems,
        reachable=reachable,
    )


def _named(code: Code, config: Mapping[str, Any], task: str, entry: str | None) -> EntryPoint | None:
    """Return the entry point to use: the one asked for, else the one whose class the config's `architectures` names,
    which is the class that the weights were saved from, else the best for the task.
    """
    found = [code.entry(auto_class) for auto_class in ((entry,) if entry else AUTO_CLASSES[task])]
    there = [point for point in found if point is not None]
    saved = config.get("architectures") or ()
    return next((point for point in there if point.class_name in saved), there[0] if there else None)


def _faults(code: Code, named: EntryPoint | None) -> list[str]:
    """What would fail when the class is loaded: known before it runs. Other entry points' troubles are not its own.

    The names of missing packages come from the checkpoint: they are told, and never put into a command to copy.
    """
    return list(code.faults(named)) if named is not None else list(code.problems)


def _transformers_class(config: Mapping[str, Any], entry: str | None) -> str | None:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in foreign.transformers_model_types():
        return None
    named = config.get("architectures")
    first = named[0] if isinstance(named, tuple | list) and named and isinstance(named[0], str) else None
    return f"transformers:{entry or first or 'AutoModelForCausalLM'}"


def _how_custom(manifest: Manifest, named: EntryPoint | None, approval: Approval | None) -> tuple[str, ...]:
    if named is None or approval is None:
        return ()
    trust = f"uncrate trust {manifest.source} --sha {approval.closure[:8]}"
    return (f"its own code ({escape(named.reference)}) would run after review and `{trust}`, with --route custom",)


def _no_route(
    manifest: Manifest,
    wanted: str,
    named: EntryPoint | None,
    own: str | None,
    code: Code,
    approval: Approval | None,
) -> Foreign:
    kind = (manifest.config or {}).get("model_type")
    shown = escape(kind) if isinstance(kind, str) else "none"
    problems = [f"model_type {shown}: no native family claims it"] if wanted in ("auto", "native") else []
    if isinstance(kind, str) and kind in foreign.CONFUSED:
        problems.append(foreign.CONFUSED[kind])
    if named is None:
        problems.append("the checkpoint names no code of its own for this task")
    elif wanted not in ("auto", "custom"):
        problems += _how_custom(manifest, named, approval)
    if not foreign.transformers_model_types():
        problems.append("transformers is not installed; pip install 'uncrate[transformers]'")
    elif own is None:
        problems.append("the installed transformers has no class for it")
    elif wanted not in ("auto", "transformers"):
        problems.append("transformers has a class for it: --route transformers")
    why = "no route leads to it" if wanted == "auto" else f"the route {wanted} does not lead to it"
    return _made("none", why, None, None, code, approval, tuple(problems))
