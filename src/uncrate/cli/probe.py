"""`uncrate probe`: build a checkpoint's class before anybody approved it, held in a child process."""

from __future__ import annotations

import sys
from typing import Any

from uncrate import show
from uncrate.checkpoint.jsonfile import thaw
from uncrate.cli.options import AsJson, Subfolder, Task, Where
from uncrate.cli.output import print_document
from uncrate.errors import CodeError, escape
from uncrate.open import inspect
from uncrate.plan import Options
from uncrate.plan.choices import choose_task
from uncrate.plan.routes import choose_route


def command(where: Where, task: Task = "auto", subfolder: Subfolder = None, as_json: AsJson = False) -> int:
    """Build a checkpoint's own class, held back, before approval.

    The code runs in a child process without weights, network, writes or programs; what it says of itself comes back.
    Exit code 1 when the class cannot be built.
    """
    manifest = inspect(where, subfolder=subfolder)
    route = choose_route(manifest, task=choose_task(manifest, Options(task=task)), wanted="custom")
    if route.entry is None or route.problems:
        raise CodeError(
            "there is no class of the checkpoint's own that could be built",
            where=escape(str(manifest.source)),
            why="; ".join(route.problems[:3]) or None,
            next=f"see what is there: uncrate inspect {escape(where)}",
        )
    from uncrate.runtime.custom_code import module_name
    from uncrate.runtime.probe import probe

    config = route.code.entry("AutoConfig", json_file="config.json")
    found = probe(
        route.code.closure,
        {file.path: route.code.read(file.path) for file in route.code.files},
        f"{module_name(route.entry.path)}.{route.entry.class_name}",
        config=thaw(manifest.config),
        config_reference=f"{module_name(config.path)}.{config.class_name}" if config else None,
        siblings=frozenset(name for file in route.code.files for name in file.siblings),
    )
    if as_json:
        print_document({"schema": 1, "source": str(manifest.source), "closure": route.code.closure, **found})
    else:
        print(show.sheet(_rows(found), stream=sys.stdout))
    return 1 if found["error"] else 0


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("class", escape(str(found["class"]))), ("parameters", f"{found['parameters'] or 0:,}")]
    rows += [("held", escape(str(line), 400)) for line in _listed(found["held"])]
    if found["error"]:
        rows.append(("problem", escape(str(found["error"]), 400)))
    return rows


def _listed(held: Any) -> list[Any]:
    if isinstance(held, dict):
        return [f"{name} by {', '.join(value)}" for name, value in held.items()]
    return list(held) if isinstance(held, list | tuple) else [held]
