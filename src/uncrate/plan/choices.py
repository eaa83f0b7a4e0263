"""Choices that every route makes alike: the task, the dtype, whether the weights may be read at all."""

from __future__ import annotations

from collections import Counter

from uncrate.checkpoint.manifest import Manifest
from uncrate.plan.values import FLOATS, ITEM_BYTES, Options


def choose_task(manifest: Manifest, options: Options) -> str:
    """A stored class head, or an architecture that names one, means classification."""
    if options.task != "auto":
        return options.task
    named = (manifest.config or {}).get("architectures")
    first = named[0] if isinstance(named, tuple | list) and named else ""
    if "classifier_head.weight" in manifest.weights.tensors or "SequenceClassification" in str(first):
        return "classification"
    return "causal"


def choose_dtype(manifest: Manifest, options: Options, stored: Counter[str]) -> tuple[str, tuple[str, ...]]:
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


def stored_name(dtype: str) -> str:
    """Return safetensors' name of a torch dtype."""
    return next(name for name, torch_name in FLOATS.items() if torch_name == dtype)


def weight_problems(manifest: Manifest, options: Options) -> list[str]:
    """Say why the weights cannot be read, if they cannot: none there, or pickles that nobody allowed."""
    if manifest.weights.format == "none":
        return ["there are no weights"]
    if manifest.weights.format == "pickle" and not options.allow_pickle:
        return ["the weights are pickles (.bin), which can run code when read; --allow-pickle reads them weights-only"]
    return []
