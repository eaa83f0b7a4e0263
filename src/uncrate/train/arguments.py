"""Names of the installed transformers' training arguments, and what became of the names it dropped. No import of it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

from uncrate.errors import MissingPackage, RecipeError, escape
from uncrate.families.foreign import package_folder

_SOURCES = (
    ("training_args.py", "TrainingArguments"),
    ("training_args_seq2seq.py", "Seq2SeqTrainingArguments"),
)


@cache
def known_arguments() -> dict[str, str]:
    """Return every argument's name and its annotation as written, read from transformers' source without running it."""
    folder = package_folder("transformers")
    if folder is None:
        raise MissingPackage("training needs the package transformers", next="pip install 'uncrate[train]'")
    out: dict[str, str] = {}
    for name, cls in _SOURCES:
        for node in ast.parse((folder / name).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == cls:
                out |= {
                    item.target.id: ast.unparse(item.annotation)
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _settable(item)
                }
    return out


def _settable(item: ast.AnnAssign) -> bool:
    if item.value is None or not isinstance(item.value, ast.Call):
        return not ast.unparse(item.annotation).startswith("ClassVar")
    return not any(word.arg == "init" and ast.unparse(word.value) == "False" for word in item.value.keywords)


@dataclass
class Translation:
    """Arguments under the installed version's names, one line for each change, and what stands outside of them now."""

    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    tensorboard_dir: str | None = None


def translate(given: dict[str, Any], at: Callable[[str], str]) -> Translation:
    """Return `training_args` as the installed transformers takes them. `at` tells where a key stands.

    Raises RecipeError for a name nobody knows, with the nearest one.
    """
    known = known_arguments()
    out = Translation({})
    for name, value in given.items():
        if name in known:
            out.values[name] = _typed(name, value, known[name], at(name))
        elif name in IGNORED:
            out.notes.append(f"{name} is ignored: {IGNORED[name]}")
        elif name in RENAMED:
            _rename(name, value, given, out)
        elif name in SPECIAL:
            SPECIAL[name](value, given, out)
        else:
            near = get_close_matches(name, [*known, *RENAMED, *SPECIAL], n=1, cutoff=0.6)
            raise RecipeError(
                f"training_args has no {escape(repr(name))}",
                where=at(name),
                why=f"did you mean {near[0]}?" if near else "it is no Seq2SeqTrainingArguments field",
                next=f"write {near[0]}, or take the line out" if near else "take the line out",
            )
    return out


RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}

IGNORED = {
    "overwrite_output_dir": "an output folder is never emptied, and resumed from only when asked",
    "save_safetensors": "weights are always saved as safetensors",
    "jit_mode_eval": "transformers dropped it",
    "use_legacy_prediction_loop": "transformers dropped it",
    "use_ipex": "transformers dropped it",
    "use_mps_device": "an Apple GPU is used when it is there",
    "fp16_backend": "transformers dropped it",
    "fp16_opt_level": "transformers dropped it",
    "half_precision_backend": "transformers dropped it",
    "torchdynamo": "transformers dropped it; torch_compile_backend is its successor",
    "past_index": "transformers dropped it",
    "mp_parameters": "transformers dropped it",
    "ray_scope": "transformers dropped it",
    "tpu_num_cores": "transformers dropped it",
    "tpu_metrics_debug": "transformers dropped it",
    "dispatch_batches": "accelerator_config is its successor",
    "split_batches": "accelerator_config is its successor",
    "include_tokens_per_second": "tokens/s are always logged",
    "place_model_on_device": "transformers decides it",
}


def _rename(name: str, value: Any, given: dict[str, Any], out: Translation) -> None:
    new = RENAMED[name]
    if new in given:
        out.notes.append(f"{name} is ignored: {new} is given as well")
        return
    out.values[new] = value
    out.notes.append(f"{name}: {value} is now {new}: {value}")


def _warmup_ratio(value: Any, given: dict[str, Any], out: Translation) -> None:
    if given.get("warmup_steps"):
        out.notes.append("warmup_ratio is ignored: warmup_steps is given as well")
        return
    out.values["warmup_steps"] = value
    out.notes.append(f"warmup_ratio: {value} is now warmup_steps: {value} (below 1 it is a share of all steps)")


def _group_by_length(value: Any, given: dict[str, Any], out: Translation) -> None:
    if value is True:
        out.values["train_sampling_strategy"] = "group_by_length"
        out.notes.append("group_by_length: true is now train_sampling_strategy: group_by_length")
    else:
        out.notes.append("group_by_length: false is what train_sampling_strategy is by default")


def _include_inputs(value: Any, given: dict[str, Any], out: Translation) -> None:
    if value is True:
        out.values["include_for_metrics"] = ["inputs"]
        out.notes.append("include_inputs_for_metrics: true is now include_for_metrics: [inputs]")
    else:
        out.notes.append("include_inputs_for_metrics: false is the default")


def _logging_dir(value: Any, given: dict[str, Any], out: Translation) -> None:
    out.tensorboard_dir = str(value)
    out.notes.append(f"logging_dir: {escape(value)} is now the variable TENSORBOARD_LOGGING_DIR, set for this run")


def _adafactor(value: Any, given: dict[str, Any], out: Translation) -> None:
    if value is True:
        out.values["optim"] = "adafactor"
        out.notes.append("adafactor: true is now optim: adafactor")


SPECIAL: dict[str, Callable[[Any, dict[str, Any], Translation], None]] = {
    "warmup_ratio": _warmup_ratio,
    "group_by_length": _group_by_length,
    "include_inputs_for_metrics": _include_inputs,
    "logging_dir": _logging_dir,
    "adafactor": _adafactor,
}


def _typed(name: str, value: Any, annotation: str, where: str) -> Any:
    """Refuse what the annotation rules out, and read numbers that were quoted: YAML 1.1 users write '5e-4' so."""
    first = annotation.split("|")[0].strip()
    if value is None or "str" in annotation.replace("Strategy", ""):
        return value
    if first == "bool" and not isinstance(value, bool):
        raise RecipeError(
            f"{name} should be true or false, is {escape(repr(value))}",
            where=where,
            why="in YAML 1.2 yes, no, on and off are text"
            if str(value).lower() in ("yes", "no", "on", "off")
            else None,
        )
    if first in ("int", "float"):
        wanted = "a whole number" if first == "int" else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise RecipeError(f"{name} should be {wanted}, is {escape(repr(value))}", where=where)
        try:
            number = float(value)
        except ValueError as error:
            raise RecipeError(f"{name} should be {wanted}, is {escape(repr(value))}", where=where) from error
        if first == "int":
            if number != int(number):
                raise RecipeError(f"{name} should be a whole number, is {escape(repr(value))}", where=where)
            return int(number)
        return value if isinstance(value, int | float) else number
    return value
