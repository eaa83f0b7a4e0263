"""A recipe as transformers' and PEFT's own objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft import LoraConfig, PeftConfig, PrefixTuningConfig
from transformers import GenerationConfig, Seq2SeqTrainingArguments

from uncrate.errors import RecipeError, escape

if TYPE_CHECKING:
    from uncrate.train.recipe import FinetuningConfig

# Rows are opened in the collator and checkpointing is a flag of our towers: transformers must do neither.
_OURS = ("gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing", "remove_unused_columns")
_CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")


def wants_checkpointing(recipe: FinetuningConfig) -> bool:
    """Whether the recipe asks for gradient checkpointing, under either of its names."""
    return any(recipe.training.get(name) for name in _CHECKPOINTING)


def training_arguments(recipe: FinetuningConfig, *, eval_strategy: str | None = None) -> Seq2SeqTrainingArguments:
    """Return the recipe's training arguments; `eval_strategy` replaces the recipe's.

    Raises RecipeError with transformers' own words for a value that it refuses.
    """
    values: dict[str, Any] = {key: value for key, value in recipe.training.items() if key not in _OURS}
    if eval_strategy is not None:
        values["eval_strategy"] = eval_strategy
        values.pop("eval_steps", None)
    # transformers' bar goes to stdout, and ours shows more.
    values.setdefault("disable_tqdm", True)
    values.setdefault("report_to", "none")
    if recipe.swanlab and values["report_to"] == "none":
        values["report_to"] = "swanlab"
    generation = GenerationConfig(**recipe.generation) if recipe.generation else None
    try:
        return Seq2SeqTrainingArguments(**values, remove_unused_columns=False, generation_config=generation)
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        raise RecipeError(
            "transformers refuses the training arguments", where=recipe.where, why=escape(str(error), 600)
        ) from error


def peft_object(recipe: FinetuningConfig) -> PeftConfig | None:
    """Return the recipe's adapter configuration, None for full fine-tuning. Raises RecipeError."""
    if recipe.peft is None:
        return None
    values = {key: value for key, value in recipe.peft.items() if key != "peft_type"}
    kind = LoraConfig if recipe.peft["peft_type"] == "LORA" else PrefixTuningConfig
    values.setdefault("task_type", "CAUSAL_LM")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise RecipeError("PEFT refuses peft_config", where=recipe.where, why=escape(str(error), 600)) from error
