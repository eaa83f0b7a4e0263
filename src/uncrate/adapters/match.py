"""An adapter's tensors against the model's modules: where each goes, and everything that does not fit.

Keys as PEFT 0.5 to 0.21 writes them, under `base_model.model.`:

    transformer.encoder.layers.0.self_attention.query_key_value.lora_A.weight    [rank, inputs]
    ... .lora_B.weight    [outputs, rank]      .lora_B.bias  .lora_magnitude_vector    [outputs]
    ... .lora_embedding_A [rank, words]        .lora_embedding_B    [size, rank]
    transformer.output_layer.weight            modules_to_save, and biases: whole parameters in place of the base's
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from uncrate.adapters.base import CALLER, Stacked
from uncrate.adapters.lora import LoraConfig, read_lora
from uncrate.adapters.patterns import is_target
from uncrate.checkpoint.adapter import FILE
from uncrate.checkpoint.facts import TensorEntry
from uncrate.checkpoint.manifest import Manifest
from uncrate.checkpoint.source import HubSource, Source
from uncrate.errors import escape

Shape = tuple[int, ...]
FLOATS = ("F64", "F32", "F16", "BF16")
_PREFIX = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?P<kind>\.weight|\.bias)?"
)
# What PEFT's wrappers put into a name, in the versions that leave it there.
_WRAPPERS = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)\.")


@dataclass(frozen=True, kw_only=True)
class LoraModule:
    """One module with a LoRA: `a` [rank, inputs], `b` [outputs, rank], times `scale`; perhaps a bias and DoRA's
    magnitude [outputs]. Of an embedding, inputs are words.
    """

    module: str
    rank: int
    scale: float
    a: TensorEntry
    b: TensorEntry
    bias: TensorEntry | None = None
    magnitude: TensorEntry | None = None
    embedding: bool = False


@dataclass(frozen=True, kw_only=True)
class AdapterPlan:
    """One adapter on the model: its name for `opened.adapters`, its modules, and whole parameters that it replaces.

    `named_by` says who named its base ("adapter_config.json", "--base", "the caller").
    """

    name: str
    manifest: Manifest
    base: str | None
    named_by: str
    config: LoraConfig | None
    modules: tuple[LoraModule, ...]
    replaced: Mapping[str, TensorEntry]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Elements in all tensors of the adapter."""
        return self.manifest.weights.parameters

    def describe(self) -> str:
        """Return the adapter in one line."""
        kind = "none that can be applied"
        if self.config is not None:
            ranks = sorted({module.rank for module in self.modules}) or [self.config.rank]
            kind = f"{'DoRA' if self.config.dora else 'LoRA'} of rank {', '.join(map(str, ranks[:4]))}"
        extra = f" and {len(self.replaced)} whole tensors" if self.replaced else ""
        return f"{kind} on {len(self.modules)} modules{extra}, {self.parameters:,} parameters"

    @property
    def added(self) -> bool:
        """Whether the caller put it on a model, rather than opening it."""
        return self.named_by == CALLER

    def sheet(self) -> list[tuple[str, str]]:
        """Return the link of the chain as label and value rows: the adapter, and the base below it."""
        manifest = self.manifest
        source = escape(str(manifest.source)) + (f" @ {manifest.commit[:12]}" if manifest.commit else "")
        rows = [("adapter", f"{self.name}: {self.describe()}" + (f", from {source}" if self.added else ""))]
        if not self.added:
            rows.append(("base", f"{escape(self.base or 'none')}, named by {self.named_by}"))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the adapter as `uncrate plan --json` prints it."""
        return {
            "name": self.name,
            "source": str(self.manifest.source),
            "commit": self.manifest.commit,
            "peft_type": self.manifest.adapter.peft_type if self.manifest.adapter else None,
            "base": self.base,
            "named_by": self.named_by,
            "modules": len(self.modules),
            "ranks": sorted({module.rank for module in self.modules}),
            "replaced": sorted(self.replaced),
            "parameters": self.parameters,
        }


def adapter_name(source: Source, *, taken: Container[str] = ()) -> str:
    """Return a name for an adapter: the last part of its source, in letters that a module's name may have."""
    last = source.repo.rpartition("/")[2] if isinstance(source, HubSource) else source.folder.resolve().name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", last)[:60] or "adapter"
    return next(name for number in count(1) if (name := plain if number == 1 else f"{plain}-{number}") not in taken)


def plan_adapter(
    stacked: Stacked, name: str, expected: Mapping[str, Shape], allow_missing: Iterable[str] = ()
) -> AdapterPlan:
    """Match one adapter against the parameters that the base implies (name to shape); faults are collected."""
    manifest = stacked.manifest
    assert manifest.adapter is not None
    lora, faults = read_lora(manifest.adapter)
    notes: list[str] = []
    matched = _Matched()
    problems = [f"{FILE}: {fault}" for fault in faults]
    if manifest.weights.format != "safetensors":
        held = {"none": "there are no weights", "pickle": "the weights are a pickle, which can run code when read"}
        problems.append(held[manifest.weights.format])
    elif lora is not None:
        matched = _match(manifest.weights.tensors, lora, expected, problems)
        _check_targets(lora, matched, expected, tuple(allow_missing), problems, notes)
        if manifest.adapter.config.get("fan_in_fan_out") is True:
            notes.append(f"adapter {name}: fan_in_fan_out means nothing for these modules and is passed over")
    return AdapterPlan(
        name=name,
        manifest=manifest,
        base=None if stacked.base is None else str(stacked.base),
        named_by=stacked.named_by,
        config=lora,
        modules=tuple(matched.modules.values()),
        replaced=matched.replaced,
        problems=tuple(f"adapter {name}: {problem}" for problem in problems),
        notes=(*stacked.notes, *notes),
    )


@dataclass
class _Matched:
    modules: dict[str, LoraModule] = field(default_factory=dict)
    replaced: dict[str, TensorEntry] = field(default_factory=dict)


def _match(
    tensors: Mapping[str, TensorEntry], lora: LoraConfig, expected: Mapping[str, Shape], problems: list[str]
) -> _Matched:
    parts: dict[str, dict[str, TensorEntry]] = {}
    matched = _Matched()
    for key, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            problems.append(f"wrong dtype: {escape(key)} is stored as {tensor.dtype}, a floating type belongs there")
            continue
        name = key.removeprefix(_PREFIX)
        found = _LORA.fullmatch(name)
        if found:
            part = found["part"] + (".bias" if found["kind"] == ".bias" else "")
            if parts.setdefault(found["module"], {}).setdefault(part, tensor) is not tensor:
                problems.append(f"twice: {escape(key)} is in the file under another spelling as well")
        else:
            _match_whole(key, name, tensor, lora, expected, matched, problems)
    for module, held in parts.items():
        made = _make_module(module, held, lora, expected, problems)
        if made is not None:
            matched.modules[module] = made
    return matched


def _match_whole(
    key: str,
    name: str,
    tensor: TensorEntry,
    lora: LoraConfig,
    expected: Mapping[str, Shape],
    matched: _Matched,
    problems: list[str],
) -> None:
    """A parameter that replaces the base's: of a module in modules_to_save, or a bias that was trained along."""
    plain = (
        name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".").replace(".base_layer.", ".")
    )
    module, _, last = plain.rpartition(".")
    saved = any(_within(module, target) for target in lora.modules_to_save)
    if plain not in expected:
        problems.append(f"unexpected: {escape(key)} {list(tensor.shape)} names nothing in the base")
    elif not saved and not (last == "bias" and lora.bias != "none"):
        problems.append(f"unexpected: {escape(key)} is a whole parameter that modules_to_save does not name")
    elif tensor.shape != expected[plain]:
        problems.append(f"wrong shape: {escape(key)} is {list(tensor.shape)}, the base has {list(expected[plain])}")
    else:
        matched.replaced[plain] = tensor


def _within(module: str, target: str) -> bool:
    """Whether `module` is the saved module that `target` names by its end, or lies inside it."""
    return f".{target}." in f".{module}."


def _make_module(
    module: str,
    held: Mapping[str, TensorEntry],
    lora: LoraConfig,
    expected: Mapping[str, Shape],
    problems: list[str],
) -> LoraModule | None:
    shown = escape(module, 200)
    weight = expected.get(f"{module}.weight")
    before = len(problems)
    embedding = "lora_embedding_A" in held or "lora_embedding_B" in held
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if weight is None:
        problems.append(f"unexpected: the base has no module {shown}")
        return None
    if len(weight) != 2 or embedding is not ("embedding" in module.rpartition(".")[2]):
        what = "an embedding" if "embedding" in module.rpartition(".")[2] else f"of shape {list(weight)}"
        problems.append(f"unexpected: {shown} is {what} in the base, and the adapter's tensors are not for such a one")
        return None
    problems += [f"missing: {shown}.{part} is not in the file" for part in (first, second) if part not in held]
    if len(problems) > before:
        return None
    rank = lora.rank_of(module)
    outputs, inputs = (weight[1], weight[0]) if embedding else weight
    wanted = {first: (rank, inputs), second: (outputs, rank)}
    for part, tensor in held.items():
        shape = wanted.get(part, (outputs,))
        if tensor.shape != shape:
            of = f"rank {rank} implies" if part in wanted else "the base implies"
            problems.append(f"wrong shape: {shown}.{part} is {list(tensor.shape)}, {of} {list(shape)}")
    if ("lora_magnitude_vector" in held) is not lora.dora:
        is_there = "is in the file" if "lora_magnitude_vector" in held else "is not in the file"
        problems.append(f"{shown}.lora_magnitude_vector {is_there}, and use_dora is {str(lora.dora).lower()}")
    if ("lora_B.bias" in held) is not lora.lora_bias and not embedding:
        is_there = "is in the file" if "lora_B.bias" in held else "is not in the file"
        problems.append(f"{shown}.lora_B.bias {is_there}, and lora_bias is {str(lora.lora_bias).lower()}")
    if "lora_A.bias" in held or (embedding and lora.dora):
        problems.append(f"{shown}: a bias on lora_A, or DoRA on an embedding, is not applied")
    if len(problems) > before:
        return None
    return LoraModule(
        module=module,
        rank=rank,
        scale=lora.scale_of(module),
        a=held[first],
        b=held[second],
        bias=held.get("lora_B.bias"),
        magnitude=held.get("lora_magnitude_vector"),
        embedding=embedding,
    )


def _check_targets(
    lora: LoraConfig,
    matched: _Matched,
    expected: Mapping[str, Shape],
    allowed: tuple[str, ...],
    problems: list[str],
    notes: list[str],
) -> None:
    """Every module that target_modules means must have its tensors: a cut file is an error, not a weaker adapter."""
    if problems:
        return
    for target in lora.modules_to_save:
        for name in expected:
            allowed_here = any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)
            if _within(name.rpartition(".")[0], target) and name not in matched.replaced and not allowed_here:
                problems.append(f"missing: {name} is not in the file, and modules_to_save names it")
    if lora.partial or lora.targets in ((), "", "all-linear"):
        return
    for module in (name.removesuffix(".weight") for name, shape in expected.items() if len(shape) == 2):
        wanted = is_target(lora.targets, module)
        if wanted is None:
            notes.append("target_modules is a pattern that is not run; the adapter's own tensors say where it goes")
            return
        saved = any(_within(module, target) for target in lora.modules_to_save)
        key = f"{module}.lora_A.weight"
        if (
            wanted
            and module not in matched.modules
            and not saved
            and not any(fnmatch.fnmatchcase(key, p) for p in allowed)
        ):
            problems.append(f"missing: {module}.lora_A and lora_B are not in the file, and target_modules names it")
