"""Carry out a plan whose route is custom code or transformers' class: classes, config, model, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uncrate.checkpoint.code import Code, EntryPoint
from uncrate.checkpoint.jsonfile import thaw
from uncrate.errors import CodeError, ConfigError, MissingPackage, TokenizerError, escape
from uncrate.plan import Plan
from uncrate.runtime.build import TORCH_NAMES
from uncrate.runtime.carry_out import Report
from uncrate.runtime.custom_code import load_class, module_name
from uncrate.runtime.fill import Filled
from uncrate.runtime.foreign import build_config, open_model
from uncrate.runtime.foreign_tokenizer import open_tokenizer
from uncrate.runtime.mapping import Mapped
from uncrate.runtime.pickles import read_pickles
from uncrate.runtime.tensors import read_tensors
from uncrate.trust.lock import Approval


@dataclass(frozen=True)
class ForeignParts:
    """What a foreign plan makes: the model, its config object, the tokenizer, and what became of every tensor.

    Where `tokenizer` is None, `why_no_tokenizer` says why; the model can be used without one.
    """

    model: Any
    config: Any
    tokenizer: Any
    why_no_tokenizer: str
    filled: Filled


def open_foreign(plan: Plan, mapped: Mapped, report: Report) -> ForeignParts:
    """Return the model of a sound plan by its foreign route, filled with the stored tensors.

    Raises CodeError where the checkpoint's code fails, MissingPackage, ConfigError, and PlanError with every tensor
    that
    does not fit the class.
    """
    assert plan.foreign is not None and plan.manifest.config is not None
    with report.step("classes"):
        config_class, model_class = _custom_classes(plan) if plan.route == "custom" else _own_classes(plan)
        config = build_config(config_class, _named(plan))
        if model_class is None:
            model_class = _auto_class(plan, config)
    with report.step("weights"):
        cpu = torch.device("cpu")
        if plan.manifest.weights.format == "pickle":
            tensors = read_pickles(mapped.paths)
        else:
            entries = [(item.parameter, item.tensor) for item in plan.assignments]
            tensors = read_tensors(entries, mapped, dtype=None, device=cpu)
        model, filled = open_model(
            model_class,
            config,
            tensors,
            dtype=None if plan.options.dtype == "auto" else TORCH_NAMES[plan.dtype],
            new=plan.options.allow_missing,
            generation=plan.manifest.json_files.get("generation_config.json"),
        )
        del tensors
        if plan.device.name != "cpu":
            model.to(plan.device.name)
    with report.step("tokenizer"):
        tokenizer, why = _open_tokenizer(plan)
    return ForeignParts(model.eval(), model.config, tokenizer, why, filled)


def _named(plan: Plan) -> dict[str, Any]:
    """config.json as the class gets it, with the place it came from, as transformers gives it."""
    values: dict[str, Any] = thaw(plan.manifest.config)
    values["name_or_path"] = str(plan.manifest.source)
    return values


def open_config(plan: Plan) -> Any:
    """Return the config object of a plan by a foreign route; of approved code, only what the config's class needs runs.

    Raises NotApproved, CodeError, ConfigError, MissingPackage.
    """
    assert plan.foreign is not None
    entry = plan.foreign.code.entry("AutoConfig", json_file="config.json") if plan.route == "custom" else None
    return build_config(_own_config_class(plan) if entry is None else _load(plan, entry), _named(plan))


def _load(plan: Plan, entry: EntryPoint) -> type:
    assert plan.foreign is not None and plan.foreign.approval is not None
    return load_entry(plan.foreign.code, plan.foreign.approval, entry, where=str(plan.asked.source))


def load_entry(code: Code, approval: Approval, entry: EntryPoint, *, where: str) -> type:
    """Run the approved closure and return the class that an entry point names. Raises NotApproved, CodeError."""
    # The last look before code runs: approved, and the bytes at hand are hashed once more.
    approval.require(where, code)
    files = {file.path: code.read(file.path) for file in code.files}
    siblings = frozenset(name for file in code.files for name in file.siblings)
    return load_class(code.closure, files, f"{module_name(entry.path)}.{entry.class_name}", siblings=siblings)


def _custom_classes(plan: Plan) -> tuple[Any, Any]:
    assert plan.foreign is not None and plan.foreign.entry is not None
    entry = plan.foreign.code.entry("AutoConfig", json_file="config.json")
    model_class = _load(plan, plan.foreign.entry)
    if entry is not None:
        return _load(plan, entry), model_class
    config_class = getattr(model_class, "config_class", None)
    return config_class or _own_config_class(plan), model_class


def _own_config_class(plan: Plan) -> Any:
    mapping = _transformers().CONFIG_MAPPING
    kind = plan.manifest.model_type
    if kind not in mapping:
        raise ConfigError(
            f"there is no config class for model_type {escape(str(kind))}",
            where="config.json",
            why="neither the checkpoint's code nor transformers has one",
        )
    return mapping[kind]


def _own_classes(plan: Plan) -> tuple[Any, Any]:
    assert plan.class_reference is not None
    name = plan.class_reference.partition(":")[2]
    found = None if name.startswith("Auto") else getattr(_transformers(), name, None)
    return _own_config_class(plan), found


def _auto_class(plan: Plan, config: Any) -> Any:
    """The class that transformers' Auto mapping has for a config object."""
    assert plan.class_reference is not None
    name = plan.class_reference.partition(":")[2]
    auto = getattr(_transformers(), name if name.startswith("Auto") else "AutoModelForCausalLM", None)
    mapping = getattr(auto, "_model_mapping", {})
    if auto is None or type(config) not in mapping:
        raise ConfigError(
            f"transformers has no {escape(name)} for model_type {escape(str(plan.manifest.model_type))}",
            where="config.json",
        )
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingPackage(
            "this route needs transformers", why=str(error), next="pip install 'uncrate[transformers]'"
        ) from error
    return transformers


def checkpoint_folder(plan: Plan) -> Path:
    """Return a local folder that holds the checkpoint's small files (a hub's are fetched), never run from."""
    files = plan.manifest.open()
    weights = {file.path for file in plan.manifest.weights.files}
    wanted = [f.path for f in plan.manifest.files if f.path not in weights and not f.path.endswith((".py", ".pyc"))]
    locals_ = files.local_many(wanted)
    folder = locals_[0]
    for _ in Path(wanted[0]).parts:
        folder = folder.parent
    return folder


def _open_tokenizer(plan: Plan) -> tuple[Any, str]:
    """The tokenizer and "", or None and the reason: a model whose tokenizer cannot be had is still a model."""
    if not plan.manifest.tokenizer:
        return None, "the checkpoint has no tokenizer files"
    assert plan.foreign is not None
    entry = plan.foreign.code.entry("AutoTokenizer") if plan.route == "custom" else None
    try:
        custom = None if entry is None else _load(plan, entry)
        return open_tokenizer(checkpoint_folder(plan), custom, where=str(plan.manifest.source)), ""
    except (TokenizerError, MissingPackage, CodeError) as error:
        return None, error.what if error.why is None else f"{error.what}: {error.why}"
