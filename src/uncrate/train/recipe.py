"""The recipe of a fine-tuning: GLM-4's YAML configurations, read strictly, with the line of every fault. No torch.

data_config:            files below DATA_DIR
combine, freezeV        train the last answer only; leave the vision tower as it is
freeze                  any of vision, projector, language
max_input_length, max_output_length
training_args:          transformers' Seq2SeqTrainingArguments, and generation_config
peft_config:            LORA or PREFIX_TUNING; none trains everything
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncrate.errors import RecipeError, UsageError, escape
from uncrate.train.arguments import known_arguments, translate
from uncrate.train.peft_keys import LORA_KEYS, PEFT_TYPES, PREFIX_KEYS
from uncrate.train.yamlfile import Document, parse_value, read_yaml

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import Seq2SeqTrainingArguments

KEYS = (
    "data_config", "combine", "freezeV", "freeze", "max_input_length",
    "max_output_length", "training_args", "peft_config", "quantize", "swanlab",
)  # fmt: skip
DATA_KEYS = ("train_file", "val_file", "test_file", "num_proc")
PARTS = ("vision", "projector", "language")
QUANTIZATIONS = ("none", "nf4", "int8", "int4")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which files below DATA_DIR hold the conversations. `num_proc` is accepted: nothing is preprocessed any more."""

    train_file: str
    val_file: str | None = None
    test_file: str | None = None
    num_proc: int = 1

    def file(self, split: str) -> str | None:
        """Return the file of "train", "validation" or "test", None where the configuration names none."""
        return {"train": self.train_file, "validation": self.val_file, "test": self.test_file}[split]


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """A whole configuration. `training` and `generation` are what transformers is given, `peft` what PEFT is.

    `freeze` names the parts that stay as they are. `notes` say what was read differently from how it was written.
    """

    data_config: DataConfig
    max_input_length: int
    max_output_length: int
    combine: bool
    freeze: tuple[str, ...]
    training: Mapping[str, Any]
    generation: Mapping[str, Any]
    peft: Mapping[str, Any] | None
    quantize: str
    swanlab: str | None
    tensorboard_dir: str | None
    notes: tuple[str, ...]
    where: str

    @classmethod
    def from_file(cls, path: str | Path, sets: Sequence[str] = ()) -> FinetuningConfig:
        """Return the configuration of a YAML file, with `key=value` texts of `sets` put over it.

        Raises RecipeError with file and line, UsageError for a malformed `sets`.
        """
        return read_recipe(read_yaml(path), sets)

    @property
    def freezeV(self) -> bool:
        """Whether the whole vision tower, projector included, stays as it is."""
        return {"vision", "projector"} <= set(self.freeze)

    @property
    def limit(self) -> int:
        """The longest a training conversation may be in tokens, its picture counted as three."""
        return self.max_input_length + self.max_output_length

    @property
    def training_args(self) -> Seq2SeqTrainingArguments:
        """The arguments as transformers' own object. Imports transformers; raises RecipeError for a refused value."""
        from uncrate.train.objects import training_arguments

        return training_arguments(self)

    @property
    def peft_config(self) -> PeftConfig | None:
        """The adapter as PEFT's own object, None for full fine-tuning. Imports PEFT."""
        from uncrate.train.objects import peft_object

        return peft_object(self)


def read_recipe(document: Document, sets: Sequence[str] = ()) -> FinetuningConfig:
    """Return the configuration that a YAML document describes; see `FinetuningConfig.from_file`."""
    values = dict(document.values)
    for text in sets:
        _set(values, text)
    reader = _Reader(document, values)
    reader.only(KEYS, ())
    given = reader.mapping("training_args")
    generation = given.pop("generation_config", None)
    if generation is not None and not isinstance(generation, dict):
        raise reader.fault("should be a list of generation options", "training_args", "generation_config")
    if not given.get("output_dir"):
        raise reader.fault("output_dir is missing: where the results go", "training_args")
    deepspeed = given.pop("deepspeed", None)
    translated = translate(given, lambda name: document.at("training_args", name))
    training = translated.values
    if deepspeed is not None:
        training["deepspeed"] = _deepspeed(deepspeed, document)
    return FinetuningConfig(
        data_config=_read_data(reader),
        max_input_length=reader.length("max_input_length"),
        max_output_length=reader.length("max_output_length"),
        combine=reader.flag("combine"),
        freeze=_read_freeze(reader),
        training=training,
        generation=generation or {},
        peft=_read_peft(reader),
        quantize=_read_quantize(reader),
        swanlab=_read_swanlab(reader),
        tensorboard_dir=translated.tensorboard_dir,
        notes=tuple(translated.notes),
        where=document.where,
    )


class _Reader:
    """Typed reads of the document, each fault with its line."""

    def __init__(self, document: Document, values: dict[str, Any]) -> None:
        self.document = document
        self.values = values

    def fault(self, what: str, *path: str | int, next: str | None = None, why: str | None = None) -> RecipeError:
        return RecipeError(what, where=self.document.at(*path), next=next, why=why)

    def only(self, known: Sequence[str], path: tuple[str, ...]) -> None:
        mapping = self.values
        for key in path:
            mapping = mapping[key]
        for key in mapping:
            if key not in known:
                near = [name for name in known if name.lower() == key.lower()]
                near = near or get_close_matches(key, known, n=1, cutoff=0.5)
                raise self.fault(
                    f"the key {escape(repr(key))} is unknown" + (f" in {'.'.join(path)}" if path else ""),
                    *path,
                    key,
                    why=f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}",
                    next=f"write {near[0]}" if near else _belongs(key),
                )

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.values.get(key)
        if not isinstance(value, dict):
            missing = f"{key} is missing" if value is None else f"{key} should be a list of `key: value` lines"
            raise self.fault(missing, key)
        return dict(value)

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            why = "in YAML 1.2 yes, no, on and off are text" if isinstance(value, str) else None
            raise self.fault(f"{key} should be true or false, is {escape(repr(value))}", key, why=why)
        return value

    def length(self, key: str) -> int:
        value = self.values.get(key)
        if value is None:
            raise self.fault(f"{key} is missing: a number of tokens", key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 24:
            raise self.fault(f"{key} should be a number of tokens from 1, is {escape(repr(value))}", key)
        return value


def _belongs(key: str) -> str | None:
    return f"put {key} under training_args" if key in known_arguments() else None


def _set(values: dict[str, Any], text: str) -> None:
    """Put one `key=value` over the configuration: `training_args.max_steps=10`, or `max_steps=10` where it is plain."""
    key, sign, written = text.partition("=")
    path = key.strip().split(".")
    where = f"--set {escape(text)}"
    if not sign or not all(path):
        raise UsageError(f"--set takes key=value, not {escape(repr(text))}", next="--set training_args.max_steps=10")
    if path[0] == "generation_config":
        path = ["training_args", *path]
    if len(path) == 1 and path[0] not in KEYS:
        if path[0] not in known_arguments():
            near = get_close_matches(path[0], [*KEYS, *known_arguments()], n=1)
            raise UsageError(f"there is no key {escape(repr(path[0]))}", next=f"--set {near[0]}=..." if near else None)
        path = ["training_args", *path]
    target = values
    for step in path[:-1]:
        inner = target.get(step)
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise UsageError(f"{step} holds no keys", where=where)
        target[step] = dict(inner)  # the document stays as it was read
        target = target[step]
    value = parse_value(written, where) if written.strip() else None
    if value is None and len(path) == 1:
        target.pop(path[-1], None)
    else:
        target[path[-1]] = value


def _read_data(reader: _Reader) -> DataConfig:
    values = reader.mapping("data_config")
    reader.only(DATA_KEYS, ("data_config",))
    files: dict[str, str | None] = {}
    for key in DATA_KEYS[:3]:
        value = values.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise reader.fault(f"{key} should be a file name, is {escape(repr(value))}", "data_config", key)
        files[key] = value
    train = files["train_file"]
    if train is None:
        raise reader.fault("train_file is missing", "data_config")
    count = values.get("num_proc", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise reader.fault(f"num_proc should be a whole number, is {escape(repr(count))}", "data_config", "num_proc")
    return DataConfig(train_file=train, val_file=files["val_file"], test_file=files["test_file"], num_proc=count)


def _read_freeze(reader: _Reader) -> tuple[str, ...]:
    named = reader.values.get("freeze") or []
    if isinstance(named, str):
        named = [named]
    if not isinstance(named, list) or any(part not in PARTS for part in named):
        raise reader.fault(f"freeze should list some of {', '.join(PARTS)}, is {escape(named)}", "freeze")
    frozen = {*named, *(("vision", "projector") if reader.flag("freezeV") else ())}
    return tuple(part for part in PARTS if part in frozen)


def _read_quantize(reader: _Reader) -> str:
    value = reader.values.get("quantize") or "none"
    if value not in QUANTIZATIONS:
        raise reader.fault(f"quantize should be one of {', '.join(QUANTIZATIONS)}, is {escape(value)}", "quantize")
    return str(value)


def _read_swanlab(reader: _Reader) -> str | None:
    value = reader.values.get("swanlab")
    if value is not None and not isinstance(value, str):
        raise reader.fault(f"swanlab should be local, cloud or offline, is {escape(repr(value))}", "swanlab")
    return value


def _read_peft(reader: _Reader) -> dict[str, Any] | None:
    if reader.values.get("peft_config") is None:
        return None
    values = reader.mapping("peft_config")
    kind = values.get("peft_type")
    if kind not in PEFT_TYPES:
        raise reader.fault(
            "peft_type is missing" if kind is None else f"peft_type {escape(kind)} is not supported",
            "peft_config",
            "peft_type",
            why=f"supported are {' and '.join(PEFT_TYPES)}; without peft_config everything is trained",
        )
    reader.only(LORA_KEYS if kind == "LORA" else PREFIX_KEYS, ("peft_config",))
    needed = ("r",) if kind == "LORA" else ("num_virtual_tokens",)
    for key in needed:
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_536:
            raise reader.fault(f"{key} should be a whole number from 1, is {escape(value)}", "peft_config", key)
    if kind == "LORA":
        values.setdefault("target_modules", ["query_key_value"])
        values.setdefault("lora_alpha", 32)
    return values


def _deepspeed(value: Any, document: Document) -> Any:
    """A mapping as it is; a path below the working directory, or else beside the YAML, as the old script's users do."""
    where = document.at("training_args", "deepspeed")
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise RecipeError("deepspeed should be a path or a configuration", where=where)
    beside = Path(document.where).parent
    tried = [Path(value), beside / value, beside.parent / value]
    for path in tried:
        if path.is_file():
            return str(path)
    raise RecipeError(
        f"there is no DeepSpeed configuration {escape(value)}",
        where=where,
        why=f"looked in the working directory and in {escape(str(beside))}",
        next="correct the path, or take the line out",
    )
