"""A fine-tuning from its four positions to the finished adapter: read, check, plan, show, train, report."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PrefixTuningConfig
from torch import nn
from transformers import IntervalStrategy, set_seed

from uncrate import open as open_checkpoint
from uncrate import settings, show
from uncrate.errors import DataError, RecipeError, UsageError
from uncrate.families.foreign import package_folder
from uncrate.opened import Opened
from uncrate.plan import Options
from uncrate.train.answers import Answerer, read_sampling
from uncrate.train.callbacks import Journal, Progress, StopRequest
from uncrate.train.checkpoints import check_disk, choose_checkpoint
from uncrate.train.dataset import Collator, EvaluationPairs, TrainingRows
from uncrate.train.metrics import OLD_NAMES
from uncrate.train.model import (
    Trainee,
    add_adapter,
    checkpoint_towers,
    freeze,
    own_memory,
    parameter_counts,
)
from uncrate.train.objects import peft_object, training_arguments, wants_checkpointing
from uncrate.train.recipe import FinetuningConfig
from uncrate.train.records import Records, open_records
from uncrate.train.rehearsal import sample_answers, show_rows, text_metrics, try_evaluation, write_predictions
from uncrate.train.report import write_report
from uncrate.train.rows import Limits
from uncrate.train.runplan import RunPlan, count_steps, device_memory, estimate, optimizer_factor
from uncrate.train.saving import Saver, base_name, checkpoint_bytes
from uncrate.train.survey import Reading, Survey, survey
from uncrate.train.tokenizers import Words, model_place, open_words
from uncrate.train.trainer import FineTuner

DECODED_PICTURES = 20_000
"""Up to so many pictures are opened before training; of more only the files are looked for."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The four positions of the old script, and what came with this one."""

    data: Path
    model: str
    recipe: FinetuningConfig
    resume: str | None = None
    labels: str = "answer"
    pairs: str = "answer"
    dry_run: bool = False
    skip_bad: bool = False
    device: str | None = None
    dtype: str = "auto"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, steps and metrics; `interrupted` when it was stopped and can be resumed.

    `main`: this is the process that speaks, of several."""

    folder: Path
    steps: int
    metrics: dict[str, float]
    interrupted: bool
    main: bool = True


@dataclass(frozen=True)
class _File:
    records: Records
    found: Survey


def run(job: Job) -> Outcome:
    """Fine-tune. Raises RecipeError, DataError with every fault, before the model is loaded; DoesNotFit."""
    words = open_words(job.model)
    reading = Reading(
        tokenizer=words.tokenizer,
        limits=Limits(max_input=job.recipe.max_input_length, max_output=job.recipe.max_output_length),
        combine=job.recipe.combine,
        labels=job.labels,
        pairs=job.pairs,
        pictures=words.pictures,
    )
    notes = list(job.recipe.notes)
    job = replace(job, recipe=_without_missing(job.recipe, notes))
    files = {split: _survey(job, split, reading, notes) for split in ("train", "validation", "test")}
    train = files["train"]
    assert train is not None
    return _Run(job, words, reading, train, files["validation"], files["test"], notes).go()


def _without_missing(recipe: FinetuningConfig, notes: list[str]) -> FinetuningConfig:
    """Leave out what needs a package that is not here and changes no result; refuse what would."""
    training = dict(recipe.training)
    if training.get("deepspeed") is not None and package_folder("deepspeed") is None:
        training.pop("deepspeed")
        notes.append("deepspeed is not installed and is left out: it saves memory, and changes no result")
    swanlab = recipe.swanlab
    if swanlab is not None and package_folder("swanlab") is None:
        notes.append("swanlab is not installed and is left out; log.jsonl holds the curve")
        swanlab = None
    if recipe.quantize != "none":
        raise RecipeError(
            f"quantize: {recipe.quantize} is not possible here",
            where=recipe.where,
            why="training over a quantized base is not built in yet",
            next="leave quantize out; LoRA over bfloat16 with gradient_checkpointing: true is the smallest",
        )
    if recipe.data_config.num_proc > 1:
        notes.append("num_proc is not needed: rows are read when they are trained, nothing is preprocessed")
    return replace(recipe, training=training, swanlab=swanlab)


def _survey(job: Job, split: str, reading: Reading, notes: list[str]) -> _File | None:
    name = job.recipe.data_config.file(split)
    if name is None:
        return None
    records = open_records(job.data / name)
    moving = show.is_terminal(sys.stderr)

    def tell(done: int, total: int) -> None:
        if moving and (done % 500 == 0 or done == total > 500):
            print(f"\rchecking {name}: {done:,}/{total:,}", end="", file=sys.stderr, flush=True)

    found = survey(records, reading, decode_pictures=len(records) <= DECODED_PICTURES, progress=tell)
    if moving and len(records) >= 500:
        print(file=sys.stderr)
    if found.faults and not job.skip_bad:
        found.refuse()
    if found.faults:
        notes.append(f"{len(found.faults)} of {found.records} conversations of {name} are left out: --skip-bad")
    if not found.good:
        raise DataError("no conversation is left", where=str(records.path))
    return _File(records, found)


def allow_fsdp_on_cpu() -> None:
    """Let accelerate shard over several CPU processes: torch's FSDP2 does over gloo, accelerate only asks for GPUs."""
    from accelerate.state import DistributedType, PartialState

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


class _Run:
    """The steps of one run, in order; each looks at what the ones before it made."""

    def __init__(
        self,
        job: Job,
        words: Words,
        reading: Reading,
        train: _File,
        validation: _File | None,
        test: _File | None,
        notes: list[str],
    ) -> None:
        self.job, self.words, self.reading = job, words, reading
        self.train, self.test, self.notes = train, test, notes
        recipe = job.recipe
        if validation is None and recipe.training.get("eval_strategy", "no") != "no":
            notes.append("there is no val_file, so nothing is evaluated while training")
        no_eval = "no" if validation is None else None
        if recipe.tensorboard_dir:
            settings.set_tensorboard_dir(recipe.tensorboard_dir)
        self.args = training_arguments(recipe, eval_strategy=no_eval)
        self.args.generation_config = None
        self.args.dataloader_pin_memory &= self.args.device.type == "cuda"
        if self.args.fsdp and self.args.device.type == "cpu" and self.args.world_size > 1:
            allow_fsdp_on_cpu()
        self.sampling = read_sampling(recipe.generation, recipe.max_output_length)
        self.folder = Path(str(self.args.output_dir))
        self.resume, self.start = choose_checkpoint(self.folder, job.resume)
        self.rows = TrainingRows(train.records, train.found, reading)
        self.pairs = None
        if validation is not None:
            self.pairs = EvaluationPairs(validation.records, validation.found, reading)
        self.main = self.args.process_index == 0
        best = str(self.args.metric_for_best_model).removeprefix("eval_")
        self.old = job.pairs == "glm4-2024" or best in OLD_NAMES

    def go(self) -> Outcome:
        opened, model = self._open()
        saver, size = self._saver(opened, model)
        answerer = Answerer(opened, self.sampling) if self.args.predict_with_generate and not self.args.fsdp else None
        collator = self._collator(opened)
        plan = self._plan(opened, model, size)
        if self.main:
            print(show.sheet(plan.sheet(), stream=sys.stderr), file=sys.stderr)
            show_rows(self.rows, self.words.tokenizer)
        before = []
        if answerer and self.pairs and self.main:
            before = try_evaluation(opened, self.pairs, collator, self.sampling, old=self.old)
        if self.job.dry_run:
            return Outcome(self.folder, 0, {}, False, self.main)
        stop = StopRequest()
        trainer = FineTuner(
            model=model,
            args=self.args,
            collator=collator,
            rows=self.rows,
            pairs=self.pairs,
            answerer=answerer,
            compute_metrics=text_metrics(answerer, old=self.old) if answerer else None,
            callbacks=[],
            save=saver,
            checkpoint_bytes=size,
        )
        journal = Journal(self.folder, lambda: trainer.tokens_seen * self.args.world_size)
        for callback in (journal, Progress(), stop):
            trainer.add_callback(callback)
        with stop.installed():
            result = trainer.train(resume_from_checkpoint=str(self.resume) if self.resume else None)
        if stop.stopped:
            return Outcome(self.folder, result.global_step, {}, True, self.main)
        trainer.save_model()
        metrics = self._test(trainer, answerer)
        if self.main:
            after = sample_answers(opened, self.pairs, collator, self.sampling) if before and self.pairs else []
            samples = [replace(one, after=two.answer) for one, two in zip(before, after, strict=False)]
            write_report(self.folder, journal.path, plan, self.job.recipe, samples, metrics)
        return Outcome(self.folder, result.global_step, metrics, False, self.main)

    def _open(self) -> tuple[Opened, nn.Module]:
        recipe, args = self.job.recipe, self.args
        # Under torchrun a CPU is called cpu:0.
        device = self.job.device or (str(args.device) if args.device.type == "cuda" else args.device.type)
        opened = open_checkpoint(
            model_place(self.job.model), Options(device=device, dtype=self.job.dtype, route="native", task="causal")
        )
        assert isinstance(opened, Opened)
        if opened.plan.adapters:
            raise UsageError("MODEL_DIR is an adapter", next="name its base; an adapter is resumed from its checkpoint")
        if self.folder.absolute() == Path(base_name(opened)):
            raise UsageError("output_dir is MODEL_DIR: the base would be written over", next="name another output_dir")
        trainee = Trainee(opened, base_name(opened))
        config = peft_object(recipe)
        # Whole training under autocast keeps float32 masters; adapters always are float32.
        master = torch.float32 if config is None and (args.bf16 or args.fp16) else None
        # Trainer seeds when it is made, which is after an adapter has drawn its first weights.
        set_seed(args.seed)
        model: nn.Module = trainee if config is None else add_adapter(trainee, config)
        self.prefix = config if isinstance(config, PrefixTuningConfig) else None
        freeze(model, recipe.freeze)
        own_memory(model, master)
        checkpoint_towers(model, wants_checkpointing(recipe))
        trained, _ = parameter_counts(model)
        if not trained:
            raise RecipeError("nothing is left to train", where=recipe.where, why=f"frozen: {recipe.freeze}")
        self._share(trainee)
        return opened, model

    def _share(self, trainee: Trainee) -> None:
        """Several processes have to run the same modules at every step, or they wait for one another for ever."""
        if self.args.world_size > 1 and self.words.pictures:
            tower = trainee.transformer.vision.parameters()
            trainee.touch_vision = bool(self.args.fsdp) or any(item.requires_grad for item in tower)
        if self.args.world_size > 1 and self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = False

    def _saver(self, opened: Opened, model: nn.Module) -> tuple[Saver, int]:
        whole = self.job.recipe.peft is None
        factor = 0.0 if self.args.save_only_model else optimizer_factor(str(self.args.optim))
        size = checkpoint_bytes(model, whole=whole, optimizer_factor=factor)
        if not self.job.dry_run:
            check_disk(self.folder, size)
        return Saver(opened, self.prefix), size

    def _collator(self, opened: Opened) -> Collator:
        vision = opened.config.vision
        return Collator(self.words.tokenizer, vision.image_size if vision else None)

    def _plan(self, opened: Opened, model: nn.Module, size: int) -> RunPlan:
        args, found, recipe = self.args, self.train.found, self.job.recipe
        steps, epochs = count_steps(args, len(self.rows))
        trained, parameters = parameter_counts(model)
        batch = args.per_device_train_batch_size
        device = opened.plan.device.name
        kind = recipe.peft["peft_type"] if recipe.peft else "every parameter"
        frozen = f", frozen: {', '.join(recipe.freeze)}" if recipe.freeze else ""
        how = f"; labels as {self.job.labels}" if self.job.labels != "answer" else ""
        rate = "generated" if self.args.predict_with_generate and not args.fsdp else "loss only"
        strategy = IntervalStrategy(args.eval_strategy).value
        every = {"no": "before and after", "epoch": "every epoch"}.get(strategy, f"every {args.eval_steps} steps")
        return RunPlan(
            model=base_name(opened),
            method=f"{kind}{frozen}{how}",
            data=f"{found.path}: {len(found.good)} good, {found.pictures} with a picture, {found.truncated} cut",
            trained=trained,
            parameters=parameters,
            dtype=opened.plan.dtype,
            device=device,
            memory=estimate(
                model,
                opened.config,
                rows=batch,
                tokens=max(found.lengths),
                pictures=found.pictures > 0,
                trained_tokens=max(found.trained),
                optimizer=str(args.optim),
                checkpointing=wants_checkpointing(recipe),
            ),
            free=device_memory(device)[0],
            rows=len(self.rows),
            row_tokens=found.tokens,
            picture_positions=found.pictures * self.words.picture_positions,
            epochs=epochs,
            steps=steps,
            batch=f"{batch} rows x {args.gradient_accumulation_steps} accumulated x {args.world_size} processes",
            evaluation=f"{len(self.pairs)} questions {every}, {rate}" if self.pairs else "none",
            output=str(args.output_dir),
            checkpoint=size,
            start=self.start,
            notes=self.notes,
        )

    def _test(self, trainer: FineTuner, answerer: Answerer | None) -> dict[str, float]:
        """Evaluate on the test file and write every prediction, as the old script did at its end."""
        if self.test is None or answerer is None:
            return {}
        pairs = EvaluationPairs(self.test.records, self.test.found, self.reading)
        result = trainer.predict(pairs, metric_key_prefix="test")
        assert result.label_ids is not None
        if self.main:
            path = self.folder / "predictions.jsonl"
            write_predictions(path, pairs, answerer, list(result.predictions), list(result.label_ids))
        return {name: float(value) for name, value in (result.metrics or {}).items()}
