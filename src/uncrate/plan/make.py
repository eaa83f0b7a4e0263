"""Everything is decided here, from the manifest alone: torch is not imported and no tensor is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from uncrate import devices
from uncrate.adapters import Stacked
from uncrate.checkpoint.manifest import Manifest
from uncrate.errors import AdapterError, CheckpointError
from uncrate.families.table import find_family
from uncrate.plan.native import plan_native
from uncrate.plan.values import Options, Plan


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
        return plan_native(manifest, options, device, stack, *claimed)
    # Reading code needs syntax trees, the lock and hashes: imported only where there is code to think about.
    from uncrate.plan.foreign import plan_foreign

    plan = plan_foreign(manifest, options, device)
    refused = "adapters are put on models that uncrate runs itself, and this is none"
    return replace(plan, problems=(*plan.problems, refused)) if stack else plan
