"""Fine-tuning: the successor of GLM-4's finetune scripts. The names of their tutorials are found here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uncrate.train.legacy import (
        DataManager,
        compute_metrics,
        load_tokenizer_and_model,
        process_batch,
        process_batch_eval,
    )
    from uncrate.train.loop import Job, run
    from uncrate.train.recipe import DataConfig, FinetuningConfig

# Looked up on first use: the recipe needs no torch, the loop needs all of transformers.
_PLACES = {
    "DataConfig": "recipe",
    "FinetuningConfig": "recipe",
    "DataManager": "legacy",
    "compute_metrics": "legacy",
    "load_tokenizer_and_model": "legacy",
    "process_batch": "legacy",
    "process_batch_eval": "legacy",
    "Job": "loop",
    "run": "loop",
}

__all__ = [
    "DataConfig",
    "DataManager",
    "FinetuningConfig",
    "Job",
    "compute_metrics",
    "load_tokenizer_and_model",
    "process_batch",
    "process_batch_eval",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'uncrate.train' has no attribute {name!r}")
    return getattr(import_module(f"uncrate.train.{_PLACES[name]}"), name)
