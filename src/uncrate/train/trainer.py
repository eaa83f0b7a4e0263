"""transformers' Trainer with our rows, our answers, and a run that survives its evaluations and a full disk."""

from __future__ import annotations

import errno
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback

from uncrate.errors import DoesNotFit, UncrateError, escape
from uncrate.train.answers import Answerer, padded
from uncrate.train.checkpoints import check_disk
from uncrate.train.dataset import Collator, EvaluationPairs, GroupedByLength, TrainingRows
from uncrate.train.saving import Saver

_PROMPT = ("prompt_ids", "prompt_mask", "prompt_positions", "answers")


class FineTuner(Trainer):
    """Trainer with three differences: generated evaluation, failures that do not end the run, and how it saves.

    `save` writes the model's part of a checkpoint; `checkpoint_bytes` is what one takes on disk.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        args: Any,
        collator: Collator,
        rows: TrainingRows,
        pairs: EvaluationPairs | None,
        answerer: Answerer | None,
        compute_metrics: Callable[[Any], dict[str, float]] | None,
        callbacks: list[TrainerCallback],
        save: Saver,
        checkpoint_bytes: int,
    ) -> None:
        self._rows = rows
        self._answerer = answerer
        self._folder = Path(str(args.output_dir))
        self._save_model = save
        self._checkpoint_bytes = checkpoint_bytes
        self.tokens_seen = 0
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=rows,
            eval_dataset=pairs,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
        )
        # It prints dictionaries to stdout; our callback reports instead.
        self.remove_callback(PrinterCallback)

    def _network(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy == "group_by_length":
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return GroupedByLength(self._rows.lengths, size, seed)
        return super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self.tokens_seen += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, num_items_in_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the loss over the answers, the generated tokens [B, A] and the wanted ones; -100 is padding."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            whole = {name: value for name, value in inputs.items() if name not in _PROMPT}
            loss = model(**whole)["loss"].detach()
            if self._answerer is None or prediction_loss_only:
                return loss, None, None
            tokens = self._answerer.tokens(inputs)
        return loss, padded(tokens, loss.device), inputs["answers"]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; a failure is told and logged, and the run goes on."""
        if not self.is_in_train:
            return super().evaluate(*args, **kwargs)
        try:
            return super().evaluate(*args, **kwargs)
        except Exception as error:
            # Hours of training must not end here, whatever it is: a metric's package, memory, a picture gone.
            if self.args.world_size > 1:
                raise  # the other processes wait for this one
            traceback.print_exc(file=sys.stderr)
            what = error.what if isinstance(error, UncrateError) else f"{type(error).__name__}: {error}"
            print(f"evaluation failed, training goes on: {escape(what, 400)}", file=sys.stderr)
            self.log({"eval_failed": 1.0})
            return {}
        finally:
            self._network().train()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        return bool(metrics) and super()._determine_best_metric(metrics, trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save when the disk holds it; else say so, keep the last checkpoint, and go on."""
        folder = self._folder / f"checkpoint-{self.state.global_step}"
        try:
            if self.args.should_save:
                check_disk(self._folder, self._checkpoint_bytes)
            super()._save_checkpoint(model, trial)
        except DoesNotFit as error:
            self._not_saved(str(error))
        except (OSError, RuntimeError) as error:
            # torch.save reports a full disk as a RuntimeError of its zip writer.
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full and shutil.disk_usage(self._folder).free > self._checkpoint_bytes:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            self._not_saved(f"the disk is full: {error}")

    def _not_saved(self, why: str) -> None:
        print(f"checkpoint-{self.state.global_step} was not saved, the last one is intact: {why}", file=sys.stderr)
        self.log({"save_failed": 1.0})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._save_model.prefix is not None:
            self._save_model.load_prefix(self._network(), Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self._folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._save_model(self.accelerator.unwrap_model(self.model), folder, state_dict)


class Clock:
    """Seconds and tokens since the last reading, for a rate."""

    def __init__(self) -> None:
        self._time = time.perf_counter()
        self._tokens = 0

    def rate(self, tokens: int) -> float:
        """Return tokens a second since the last call; `tokens` is the count so far."""
        now = time.perf_counter()
        rate = (tokens - self._tokens) / max(now - self._time, 1e-9)
        self._time, self._tokens = now, tokens
        return rate
