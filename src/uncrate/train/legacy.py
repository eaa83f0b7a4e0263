"""The names that GLM-4's script and its tutorials use, over what stands in the other files.

tokenizer, model = load_tokenizer_and_model("THUDM/glm-4v-9b", ft_config.peft_config)
data = DataManager("data/", ft_config.data_config)
rows = data.get_dataset("train", functools.partial(process_batch, tokenizer=tokenizer, ...))
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftConfig, PrefixTuningConfig, get_peft_model
from torch import nn

from uncrate.auto import AutoModelForCausalLM, AutoTokenizer
from uncrate.devices import choose_device, read_devices
from uncrate.errors import UsageError
from uncrate.models.chatglm.hf import ChatGLMTokenizer
from uncrate.models.chatglm.tokens import Tokenizer
from uncrate.train.metrics import measure
from uncrate.train.model import own_memory, parameter_counts
from uncrate.train.recipe import DataConfig
from uncrate.train.records import open_records
from uncrate.train.rows import IGNORED, Limits, evaluation_pairs, training_row
from uncrate.train.survey import messages_of
from uncrate.train.tokenizers import model_place

Process = Callable[[Mapping[str, Sequence[Any]]], Mapping[str, Sequence[Any]]]


def load_tokenizer_and_model(
    model_dir: str, peft_config: PeftConfig | None = None, *, dtype: str = "bfloat16", device: str = "auto"
) -> tuple[ChatGLMTokenizer, nn.Module]:
    """Return transformers' tokenizer and model, ready to train in `dtype`, with a fresh adapter if one is configured.

    As in the tutorial: no key-value cache, and the count of trainable parameters is printed. The model is a
    PreTrainedModel, a PeftModel over one for LoRA, for P-tuning v2 one whose prefix alone is trained.
    """
    where = model_place(model_dir)
    tokenizer = AutoTokenizer.from_pretrained(where)
    place = choose_device(device, read_devices()).name
    given: dict[str, Any] = {"dtype": dtype, "device_map": place, "use_cache": False}
    model: nn.Module
    if isinstance(peft_config, PrefixTuningConfig):
        with warnings.catch_warnings():
            # That the prefix is new is what was asked for.
            warnings.filterwarnings("ignore", message=".*newly initialised")
            model = AutoModelForCausalLM.from_pretrained(where, **given, pre_seq_len=peft_config.num_virtual_tokens)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".prefix_encoder." in name)
    else:
        model = AutoModelForCausalLM.from_pretrained(where, **given)
        model = model if peft_config is None else get_peft_model(model, peft_config)
    own_memory(model)
    trained, total = parameter_counts(model)
    print(f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}")
    return tokenizer, model


def _words(tokenizer: Tokenizer | ChatGLMTokenizer) -> Tokenizer:
    """The native tokenizer inside transformers'; both know the same words."""
    return tokenizer.native if isinstance(tokenizer, ChatGLMTokenizer) else tokenizer


class DataManager:
    """The files of a data configuration, by split: "train", "validation", "test"."""

    def __init__(self, data_dir: str | Path, data_config: DataConfig) -> None:
        self._folder = Path(data_dir)
        self._config = data_config
        self._num_proc = data_config.num_proc

    def get_dataset(
        self,
        split: Any,
        process_fn: Process | None = None,
        batched: bool = True,
        remove_orig_columns: bool = True,
    ) -> ProcessedRows | None:
        """Return a split's rows after `process_fn`, made when they are asked for; None where no file is configured.

        `batched` and `remove_orig_columns` are the old signature's: a function gets a batch, its columns replace all.
        """
        name = self._config.file(str(getattr(split, "_name", split)))
        if name is None:
            return None
        if not (batched and remove_orig_columns):
            raise UsageError("process functions get batches, and their columns replace the file's")
        return ProcessedRows(self._folder / name, process_fn)


class ProcessedRows(Sequence[dict[str, Any]]):
    """Rows of a data file as a process function makes them; it may make several of one conversation."""

    def __init__(self, path: Path, process_fn: Process | None) -> None:
        self._records = open_records(path)
        self._process = process_fn
        self._places: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self._index())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        record, number = self._index()[index]
        return self._rows(record)[number]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for record in range(len(self._records)):
            yield from self._rows(record)

    def _index(self) -> list[tuple[int, int]]:
        if self._places is None:
            self._places = [(record, n) for record in range(len(self._records)) for n in range(len(self._rows(record)))]
        return self._places

    def _rows(self, record: int) -> list[dict[str, Any]]:
        messages = messages_of(self._records, record)
        if self._process is None:
            return [{"messages": messages}]
        columns = self._process({"messages": [messages]})
        count = len(next(iter(columns.values()), ()))
        return [{name: values[row] for name, values in columns.items()} for row in range(count)]


def process_batch(
    batch: Mapping[str, Sequence[Any]],
    tokenizer: Tokenizer | ChatGLMTokenizer,
    max_input_length: int,
    max_output_length: int,
    combine: bool = False,
    labels: str = "answer",
) -> dict[str, list[Any]]:
    """Return training columns of a batch {"messages": [conversation, ...]}: input_ids, attention_mask, position_ids,
    labels, images (paths, opened by the collator).
    """
    limits = Limits(max_input=max_input_length, max_output=max_output_length)
    rows = [training_row(_words(tokenizer), talk, limits, combine=combine, labels=labels) for talk in batch["messages"]]
    return {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [[1] * len(row.ids) for row in rows],
        "position_ids": [list(range(len(row.ids))) for row in rows],
        "labels": [row.labels for row in rows],
        "images": [row.image for row in rows],
    }


def process_batch_eval(
    batch: Mapping[str, Sequence[Any]],
    tokenizer: Tokenizer | ChatGLMTokenizer,
    max_input_length: int,
    max_output_length: int,
    combine: bool = False,
    eval_pairs: str = "answer",
) -> dict[str, list[Any]]:
    """Return evaluation columns of a batch: a row for each answer, with input_ids up to it and output_ids."""
    limits = Limits(max_input=max_input_length, max_output=max_output_length)
    pairs = [
        pair
        for talk in batch["messages"]
        for pair in evaluation_pairs(_words(tokenizer), talk, limits, style=eval_pairs)
    ]
    if combine and pairs:
        pairs = pairs[-1:] if len(batch["messages"]) == 1 else pairs
    return {
        "input_ids": [pair.prompt for pair in pairs],
        "attention_mask": [[1] * len(pair.prompt) for pair in pairs],
        "position_ids": [list(range(len(pair.prompt))) for pair in pairs],
        "output_ids": [pair.answer for pair in pairs],
        "images": [pair.image for pair in pairs],
    }


def compute_metrics(eval_preds: Any, tokenizer: Tokenizer | ChatGLMTokenizer) -> dict[str, float]:
    """Return exact, bleu and rouge_l of (predictions, labels), arrays of ids, and the old script's four numbers."""
    predictions, labels = eval_preds
    said, wanted = ([_text(row, _words(tokenizer)) for row in np.asarray(part)] for part in (predictions, labels))
    return measure(said, wanted, old=True)


def _text(row: Any, tokenizer: Tokenizer) -> str:
    kept = [int(token) for token in row if token != IGNORED]
    return tokenizer.decode(kept, skip_special_tokens=True).strip()
