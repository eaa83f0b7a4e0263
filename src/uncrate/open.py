"""Open a checkpoint: four lines, four values. Start reading here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from uncrate.adapters import follow_base
from uncrate.checkpoint.manifest import Manifest, read_manifest
from uncrate.checkpoint.source import parse_source
from uncrate.plan import Options, Plan, check, make_plan

if TYPE_CHECKING:
    from uncrate.opened import Opened
    from uncrate.opened_foreign import OpenedForeign
    from uncrate.trust.lock import Approval

Where = str | os.PathLike[str]


def open(where: Where, options: Options | None = None) -> Opened | OpenedForeign:
    """Return the checkpoint that `where` names, opened: "./folder", "owner/name[@revision]" or "nano".

    An adapter is opened with its base. Raises UncrateError: SourceError, CheckpointError, AdapterError and their kin
    while looking, PlanError with every problem of the plan before any weight is read.
    """
    options = options or Options()
    source = parse_source(where)  # text -> Source: no I/O
    manifest = read_manifest(source, subfolder=options.subfolder)  # Source -> Manifest: names, headers, JSON
    model, stack = follow_base(manifest, base=options.base, adapters=options.adapters)  # an adapter leads to its base
    plan = make_plan(model, options, stack)  # Manifest -> Plan: everything is decided

    return carry_out(plan)  # Plan -> Opened | OpenedForeign: the one step that imports torch


def carry_out(plan: Plan) -> Opened | OpenedForeign:
    """Do what a plan says and return the opened checkpoint.

    The disk reads ahead while torch is being imported. Raises PlanError with every problem before anything is read,
    HubError where a file cannot be fetched, MalformedWeights where one changed since the plan.
    """
    check(plan)
    from uncrate.runtime.mapping import map_weights

    mapped = map_weights(plan)
    if plan.route == "native":
        from uncrate import opened

        return opened.carry_out(plan, mapped)
    from uncrate import opened_foreign

    return opened_foreign.carry_out(plan, mapped)


def inspect(where: Where, *, subfolder: str | None = None) -> Manifest:
    """Return what is there: the first two lines of the road. No tensor is read and no code runs."""
    return read_manifest(parse_source(where), subfolder=subfolder)


def plan(where: Where, options: Options | None = None) -> Plan:
    """Return what would be done: the first three lines of the road. torch is not imported."""
    options = options or Options()
    manifest = inspect(where, subfolder=options.subfolder)
    model, stack = follow_base(manifest, base=options.base, adapters=options.adapters)
    return make_plan(model, options, stack)


def verify(where: Where, *, lock: Where | None = None, subfolder: str | None = None) -> Approval:
    """Return whether the code of `where` is approved; offline, nothing is written. `.require()` raises NotApproved."""
    from uncrate.trust.surface import verify as look_up

    return look_up(where, lock=lock, subfolder=subfolder)
