"""The adapters of an opened model: put on, choose, switch off, take off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from uncrate.adapters import AdapterPlan, adapter_name, plan_adapter
from uncrate.adapters.base import put_on
from uncrate.errors import AdapterError, PlanError, UsageError, escape
from uncrate.families.table import find_family
from uncrate.runtime.lora import Delta, read_deltas, read_replaced, unwrap, wrap

if TYPE_CHECKING:
    from uncrate.plan import Plan


class AdapterSet:
    """The adapters on one model, by name. Those named in `active` count, all together; the others wait.

    opened.adapters.add("./poems")              put one on and use it besides those in use
    opened.adapters.use("poems")                use this one alone; use() none
    with opened.adapters.disabled(): ...        the plain model for a while
    opened.adapters.remove("poems")             take it off and free its memory
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._plans: dict[str, AdapterPlan] = {}
        self._deltas: dict[str, dict[str, Delta]] = {}
        self._replaced: dict[str, dict[str, nn.Parameter]] = {}
        self._originals: dict[str, nn.Parameter] = {}
        self.active: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every adapter that is on the model, in the order in which they were put on."""
        return tuple(self._plans)

    def __getitem__(self, name: str) -> AdapterPlan:
        """Return what is known of an adapter."""
        return self._plans[self._known(name)]

    def add(self, where: str, *, name: str | None = None, use: bool = True) -> str:
        """Put an adapter on: a folder or hub id as PEFT saved it. Returns its name.

        Raises AdapterError for what is no adapter or a name that is taken, PlanError with every tensor that does not
        fit.
        """
        manifest = self._plan.manifest
        assert manifest.config is not None
        claimed = find_family(manifest.config)
        if claimed is None or self._plan.route != "native":
            raise UsageError("adapters are put on models that uncrate runs itself", where=str(manifest.source))
        stacked = put_on(manifest, where)
        name = adapter_name(stacked.manifest.source, taken=self.names) if name is None else name
        expected = claimed[0].expected_tensors(self._plan.config, self._plan.task)
        plan = plan_adapter(stacked, name, expected, self._plan.options.allow_missing)
        if plan.problems:
            raise PlanError("the adapter does not fit this model:", plan.problems, where=escape(where))
        self.attach(plan)
        if not use:
            self.use(*(other for other in self.active if other != name))
        return name

    def attach(self, plan: AdapterPlan) -> None:
        """Put a planned adapter on the model and use it besides those in use."""
        if plan.name in self._plans or not plan.name.isprintable() or not plan.name:
            raise AdapterError(
                f"the name {escape(repr(plan.name))} is taken" if plan.name else "an adapter needs a name",
                next='give another: opened.adapters.add(WHERE, name="...")',
            )
        dtype, device = _kind_of(self._model)
        deltas = read_deltas(plan, dtype=dtype, device=device)
        replaced = read_replaced(plan, dtype=dtype, device=device)
        for module, delta in deltas.items():
            wrap(self._model, module).deltas[plan.name] = delta
        self._plans[plan.name] = plan
        self._deltas[plan.name] = deltas
        self._replaced[plan.name] = {key: nn.Parameter(tensor) for key, tensor in replaced.items()}
        for parameter in replaced:
            self._originals.setdefault(parameter, self._model.get_parameter(parameter))
        self.use(*self.active, plan.name)

    def use(self, *names: str) -> None:
        """Let these adapters count and no others; of whole parameters the last one's holds."""
        for name in names:
            self._known(name)
        self.active = tuple(dict.fromkeys(names))
        for deltas in self._deltas.values():
            for module in deltas:
                wrap(self._model, module).active = self.active
        placed = dict(self._originals)
        for name in self.active:
            placed |= self._replaced[name]
        for parameter, value in placed.items():
            owner, _, last = parameter.rpartition(".")
            self._model.get_submodule(owner)._parameters[last] = value

    def disable(self) -> None:
        """Let no adapter count."""
        self.use()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Let no adapter count while the block runs."""
        before = self.active
        self.use()
        try:
            yield
        finally:
            self.use(*(name for name in before if name in self._plans))

    def remove(self, name: str) -> None:
        """Take an adapter off; modules that no adapter is on any more are the plain ones again."""
        self.use(*(other for other in self.active if other != self._known(name)))
        for module in self._deltas.pop(name):
            del wrap(self._model, module).deltas[name]
            unwrap(self._model, module)
        del self._replaced[name], self._plans[name]

    def _known(self, name: str) -> str:
        if name not in self._plans:
            held = ", ".join(map(escape, self._plans)) or "none"
            raise UsageError(f"there is no adapter {escape(repr(name))} on the model", why=f"there is {held}")
        return name


def _kind_of(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    first = next(model.parameters())
    return first.dtype, first.device
