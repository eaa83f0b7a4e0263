"""What a LoRA's adapter_config.json says about its arithmetic; everything it says that is not done is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

from uncrate.adapters.patterns import compiled, first_match
from uncrate.checkpoint.facts import Adapter
from uncrate.checkpoint.jsonfile import thaw
from uncrate.errors import escape

# Keys of PEFT's LoraConfig (0.5 to 0.21) that change nothing once the adapter is trained.
_SILENT = frozenset(
    (
        "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
        "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
        "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_type",
        "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
        "task_type", "use_dora", "use_rslora",
    )
)  # fmt: skip
# Keys whose presence means other arithmetic than W + scale * B @ A, and what to say about it.
_REFUSED = {
    "alora_invocation_tokens": "an activated LoRA, which starts at a token of the prompt",
    "kasa_config": "KaSA, which adds singular values",
    "layer_replication": "repeated layers, which make another model",
    "megatron_config": "a LoRA over Megatron's split layers",
    "monteclora_config": "MonteCLoRA, which samples its weights",
    "target_parameters": "a LoRA on bare parameters",
    "trainable_token_indices": "trained rows of the word embedding",
    "use_bdlora": "a block-diagonal LoRA",
    "use_qalora": "QALoRA, which pools its input",
    "velora_config": "VeLoRA",
}
# Ways to begin training that also change the base's weights: the adapter fits only the changed ones.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """One LoRA: rank and scale of every module, and what else it replaces.

    `targets` is PEFT's target_modules; `partial` says that other keys (layers_to_transform, exclude_modules) narrow it.
    `bias` is "none", "all" or "lora_only".
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool
    dora: bool
    lora_bias: bool
    bias: str
    targets: tuple[str, ...] | str
    partial: bool
    modules_to_save: tuple[str, ...]

    def rank_of(self, module: str) -> int:
        """The rank that the config implies for `module`."""
        found = first_match(self.ranks, module)
        return self.rank if found is None else self.ranks[found]

    def scale_of(self, module: str) -> float:
        """What B @ A is multiplied by on `module`: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
        found = first_match(self.alphas, module)
        alpha = self.alpha if found is None else self.alphas[found]
        rank = self.rank_of(module)
        return alpha / (sqrt(rank) if self.rslora else rank)


def read_lora(adapter: Adapter) -> tuple[LoraConfig | None, tuple[str, ...]]:
    """Return the LoRA that an adapter_config.json describes, and every fault of it; None where it is no LoRA."""
    config = adapter.config
    if adapter.peft_type != "LORA":
        return None, (f"{_kind_sentence(adapter.peft_type)}; uncrate applies LORA adapters alone",)
    faults = [
        f"/{key}: {what}, which uncrate does not apply" for key, what in _REFUSED.items() if _is_set(config.get(key))
    ]
    faults += [
        f"/{escape(key)} is unknown, and set: {escape(thaw(value))}"
        for key, value in config.items()
        if key not in _SILENT and key not in _REFUSED and _is_set(value)
    ]
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        faults.append(
            f"/init_lora_weights is {escape(start)}, which changes the base's weights as well; "
            "save it as a plain LoRA (PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        table = config.get(key) or {}
        if not isinstance(table, Mapping):
            faults.append(f"/{key} must be an object, and is {escape(thaw(table))}")
        else:
            faults += [
                f"/{key}: {escape(name)} is not a module's name or a short pattern of one"
                for name in table
                if compiled(name) is None
            ]
    lora = LoraConfig(
        rank=config["r"],
        alpha=_number(config, "lora_alpha", 8.0, faults),
        ranks=_table(config, "rank_pattern"),
        alphas={name: _number({name: v}, name, 0.0, faults) for name, v in _table(config, "alpha_pattern").items()},
        rslora=_flag(config, "use_rslora", faults),
        dora=_flag(config, "use_dora", faults),
        lora_bias=_flag(config, "lora_bias", faults),
        bias=_bias(config, faults),
        targets=_targets(config),
        partial=any(_is_set(config.get(key)) for key in ("layers_to_transform", "exclude_modules")),
        modules_to_save=tuple(config.get("modules_to_save") or ()),
    )
    return lora, tuple(faults)


def _kind_sentence(kind: str) -> str:
    known = {
        "PREFIX_TUNING": "this is prefix tuning (p-tuning v2), trained keys and values before the prompt",
        "P_TUNING": "this is p-tuning, a trained prompt",
        "PROMPT_TUNING": "this is prompt tuning, a trained prompt",
    }
    return known.get(kind, f"this is an adapter of type {escape(kind)}")


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != {} and value != () and value != ""


def _number(config: Mapping[str, Any], key: str, default: float, faults: list[str]) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value) or abs(value) > 1e6:
        faults.append(f"/{escape(key)} must be a number, and is {escape(thaw(value))}")
        return default
    return float(value)


def _flag(config: Mapping[str, Any], key: str, faults: list[str]) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        faults.append(f"/{key} must be true or false, and is {escape(thaw(value))}")
    return value is True


def _bias(config: Mapping[str, Any], faults: list[str]) -> str:
    value = config.get("bias") or "none"
    if value not in ("none", "all", "lora_only"):
        faults.append(f"/bias must be none, all or lora_only, and is {escape(thaw(value))}")
    return str(value)


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


def _targets(config: Mapping[str, Any]) -> tuple[str, ...] | str:
    value = config.get("target_modules")
    return value if isinstance(value, str) else tuple(value or ())
