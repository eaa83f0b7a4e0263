"""Whole runs: they stop, go on, survive, refuse and report as they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import uncrate
from uncrate.cli.main import main
from uncrate.errors import DataError, DoesNotFit, RecipeError, UsageError
from uncrate.plan import Options
from uncrate.train import loop, rehearsal, trainer
from uncrate.train.callbacks import Progress, read_log
from uncrate.train.checkpoints import choose_checkpoint, find_checkpoints

TINY = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
CONFIGS = Path(__file__).parent / "configs"


def losses(folder: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_log(folder / "log.jsonl") if "loss" in record}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "model.safetensors")


def same(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def stop_at(step: int, number: int):
    """A progress display that sends this process a signal after a step, as Ctrl-C would come."""

    class Stopping(Progress):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step - 1:
                os.kill(os.getpid(), number)

    return Stopping


def test_a_run_leaves_what_it_promises(start, tmp_path, capsys):
    outcome = start()
    err = capsys.readouterr().err
    folder = tmp_path / "out"
    assert outcome.steps == 6 and not outcome.interrupted and outcome.folder == folder
    for name in ("adapter_model.safetensors", "loss.png", "report.html", "log.jsonl", "predictions.jsonl"):
        assert (folder / name).stat().st_size > 100, name
    assert [step for step, _ in find_checkpoints(folder)] == [2, 4, 6]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(TINY) and config["peft_type"] == "LORA"
    assert set(outcome.metrics) >= {"test_loss", "test_exact", "test_bleu", "test_rouge_l"}
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "What is" in report and "transformers" in report and "max_input_length" in report
    log = read_log(folder / "log.jsonl")
    assert [record["step"] for record in log if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert all(record["tokens_per_second"] > 0 for record in log if "loss" in record)
    assert [record["step"] for record in log if "eval_exact" in record] == [3, 6]
    assert "3,840 trained of 268,304" in err and "⟦" in err and "before training" in err and "step 6/6" in err
    opened = uncrate.open(str(folder), Options(device="cpu"))
    assert opened.plan.adapters


def test_dry_run_shows_and_writes_nothing(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "FineTuner", None)
    start(dry_run=True)
    err = capsys.readouterr().err
    assert "memory" in err and "⟦" in err and "wanted:" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_configurations_run(config, start, tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ds_zero_3.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    short = (
        "max_steps=2",
        "generation_config.max_new_tokens=4",
        "dataloader_num_workers=0",
        "use_cpu=true",
        "log_level=warning",
    )
    outcome = start(*short, config=config.read_text().replace("./output", "OUT"))
    assert outcome.steps == 2
    assert (tmp_path / "out" / "report.html").exists()
    err = capsys.readouterr().err
    if "sft" in config.name:
        assert "deepspeed is not installed" in err and (tmp_path / "out" / "config.json").exists()
        assert uncrate.open(str(tmp_path / "out"), Options(device="cpu")).plan.parameters == 264_464
    if "07" in config.name:
        assert "evaluation_strategy: steps is now eval_strategy: steps" in err


LONG = ("max_steps=12", "save_steps=3", "eval_strategy=no", "data_config.test_file=")


BY_LENGTH = ("train_sampling_strategy=group_by_length", "gradient_accumulation_steps=2")
WHOLE = ("peft_config=", "learning_rate=1e-3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "number"),
    [((), signal.SIGTERM), (BY_LENGTH, signal.SIGINT), (WHOLE, signal.SIGINT)],
    ids=["lora with dropout", "by length, accumulated", "everything"],
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(sets, number, start, tmp_path, monkeypatch, capsys):
    start(*LONG, *sets, name="whole")
    monkeypatch.setattr(loop, "Progress", stop_at(5, number))
    stopped = start(*LONG, *sets, name="cut")
    assert stopped.interrupted and stopped.steps == 5
    assert find_checkpoints(tmp_path / "cut")[-1][0] == 5
    monkeypatch.undo()
    done = start(*LONG, *sets, name="cut", resume="yes")
    assert done.steps == 12 and not done.interrupted
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    same(tmp_path / "cut", tmp_path / "whole")
    assert "from step 5, the newest complete checkpoint" in capsys.readouterr().err


def test_resuming_at_a_step_and_not_at_all(start, tmp_path, capsys):
    start(*LONG, name="whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    start(*LONG, name="again", resume="6")
    same(tmp_path / "again", tmp_path / "whole")
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")
    start("max_steps=1", "eval_strategy=no", "data_config.test_file=", name="again", resume="no")
    assert list(losses(tmp_path / "again")) == [1]
    with pytest.raises(UsageError, match="no complete checkpoint-7"):
        start(*LONG, name="again", resume="7")
    capsys.readouterr()


def test_incomplete_checkpoints_are_passed_over(tmp_path):
    for step in (2, 4, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"global_st')
    assert choose_checkpoint(tmp_path, "yes")[0] == tmp_path / "checkpoint-2"
    assert choose_checkpoint(tmp_path, "no")[0] is None
    assert choose_checkpoint(tmp_path / "none", "yes")[0] is None
    with pytest.raises(UsageError):
        choose_checkpoint(tmp_path, "4")
    with pytest.raises(UsageError):
        choose_checkpoint(tmp_path, "maybe")


def test_worker_processes_change_nothing(start, tmp_path):
    sets = ("max_steps=3", "eval_strategy=no", "data_config.test_file=", "save_strategy=no")
    start(*sets, name="none")
    start(*sets, "dataloader_num_workers=2", name="two")
    assert losses(tmp_path / "none") == losses(tmp_path / "two")


def test_checkpointing_gradients_changes_nothing(start, tmp_path):
    sets = (
        "max_steps=3",
        "eval_strategy=no",
        "data_config.test_file=",
        "save_strategy=no",
        "peft_config.lora_dropout=0",
    )
    start(*sets, name="plain")
    start(*sets, "gradient_checkpointing=true", name="saved")
    assert losses(tmp_path / "saved") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_autocast_over_float32_masters(start, tmp_path):
    sets = (
        "max_steps=3",
        "eval_strategy=no",
        "data_config.test_file=",
        "save_strategy=no",
        "peft_config=",
        "learning_rate=1e-3",
    )
    start(*sets, name="full")
    start(*sets, "bf16=true", name="half")
    full, half = losses(tmp_path / "full"), losses(tmp_path / "half")
    assert half != full and half == pytest.approx(full, abs=0.1)
    assert {tensor.dtype for tensor in weights(tmp_path / "half").values()} == {torch.float32}


def test_overfitting_one_row_answers_it_and_stops(start, data, tmp_path):
    ask = {"role": "user", "content": "How many?", "image": str(TINY / "image.png")}
    row = {"messages": [ask, {"role": "assistant", "content": "twelve of them"}]}
    (data / "train.jsonl").write_text(json.dumps(row))
    quick = ("eval_strategy=no", "data_config.test_file=", "save_strategy=no")
    start("max_steps=40", "peft_config=", "learning_rate=3e-3", "lr_scheduler_type=constant", *quick)
    opened = uncrate.open(str(tmp_path / "out"), Options(device="cpu"))
    answer = opened.generate([[ask]], max_new_tokens=60, temperature=0)[0]
    assert answer.text == "twelve of them" and answer.finish_reason == "stop"


def test_a_failing_evaluation_does_not_end_the_run(start, tmp_path, monkeypatch, capsys):
    real = rehearsal.measure
    calls = []

    def failing(said, wanted, old=False):
        calls.append(len(said))
        if len(calls) == 2:
            raise ValueError("no words")
        return real(said, wanted, old=old)

    monkeypatch.setattr(rehearsal, "measure", failing)
    assert start("load_best_model_at_end=true", "save_steps=3", "metric_for_best_model=exact").steps == 6
    log = read_log(tmp_path / "out" / "log.jsonl")
    assert [record["step"] for record in log if "eval_failed" in record] == [3]
    assert [record["step"] for record in log if "eval_exact" in record] == [6]
    assert "evaluation failed, training goes on: ValueError: no words" in capsys.readouterr().err


def test_a_broken_evaluation_shows_before_the_first_step(start, monkeypatch):
    def failing(said, wanted, old=False):
        raise RecipeError("no such metric")

    monkeypatch.setattr(rehearsal, "measure", failing)
    monkeypatch.setattr(loop, "FineTuner", None)
    with pytest.raises(RecipeError):
        start()


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(start, tmp_path, monkeypatch, capsys):
    real = trainer.check_disk
    calls = []

    def full(folder, needed):
        calls.append(needed)
        if len(calls) == 2:
            raise DoesNotFit("a checkpoint takes 3 MB, and 1 MB are free")
        real(folder, needed)

    monkeypatch.setattr(trainer, "check_disk", full)
    assert start().steps == 6
    assert [step for step, _ in find_checkpoints(tmp_path / "out")] == [2, 6]
    assert "checkpoint-4 was not saved, the last one is intact" in capsys.readouterr().err


def test_a_disk_that_fills_while_saving_leaves_no_half_checkpoint(start, tmp_path, monkeypatch, capsys):
    real = trainer.Trainer._save_optimizer_and_scheduler

    def full(self, output_dir):
        if self.state.global_step == 4:
            raise OSError(28, "No space left on device")
        real(self, output_dir)

    monkeypatch.setattr(trainer.Trainer, "_save_optimizer_and_scheduler", full)
    assert start().steps == 6
    assert [step for step, _ in find_checkpoints(tmp_path / "out")] == [2, 6]
    assert not (tmp_path / "out" / "checkpoint-4").exists()
    assert "No space left" in capsys.readouterr().err


def test_too_small_a_disk_is_refused_before_training(start, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DoesNotFit, match="a checkpoint takes about"):
        start()


def test_faults_are_refused_before_the_model_is_loaded(start, data, monkeypatch, capsys):
    good = (data / "train.jsonl").read_text()
    ask = {"role": "user", "content": "x", "image": "none.png"}
    missing = json.dumps({"messages": [ask, {"role": "assistant", "content": "y"}]})
    (data / "train.jsonl").write_text(good + '{"messages": [\n' + missing + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "open_checkpoint", None)
        with pytest.raises(DataError) as caught:
            start()
    assert "train.jsonl:21: not JSON" in str(caught.value) and "train.jsonl:22: there is no such picture" in str(
        caught.value
    )
    start(dry_run=True, skip_bad=True)
    err = capsys.readouterr().err
    assert "2 conversations of train.jsonl are left out" in err.replace("2 of 22 conversations", "2 conversations")
    assert "20 good" in err


@pytest.mark.parametrize(
    ("sets", "wanted"),
    [
        (("quantize=nf4",), "quantize: nf4 is not possible here"),
        (("freeze=[vision, projector, language]",), "nothing is left to train"),
        (("generation_config.num_beams=4",), "num_beams"),
        (("generation_config.penalty_alpha=4",), "penalty_alpha"),
        (("lr_scheduler_type=upwards",), "transformers refuses the training arguments"),
    ],
)
def test_what_cannot_be_done_is_refused(sets, wanted, start):
    with pytest.raises(RecipeError) as caught:
        start(*sets)
    assert wanted in str(caught.value)


def test_an_output_over_the_base_is_refused(start, tmp_path):
    shutil.copytree(TINY, tmp_path / "out")
    with pytest.raises(UsageError, match="output_dir is MODEL_DIR"):
        start("peft_config=", model=str(tmp_path / "out"))


def test_a_text_only_run_needs_no_picture(start, data, tmp_path):
    lines = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for line in lines:
        line["messages"][0].pop("image", None)
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    start("max_steps=2", "data_config.val_file=", "data_config.test_file=")
    assert len(losses(tmp_path / "out")) == 2


def test_the_command_and_its_exit_codes(data, tmp_path, capsys, monkeypatch):
    config = tmp_path / "c.yaml"
    text = (CONFIGS / "lora-2024-12.yaml").read_text().replace("./output", str(tmp_path / "out"))
    config.write_text(
        text.replace("dataloader_num_workers: 16", "dataloader_num_workers: 0").replace(
            "log_level: info", "log_level: warning"
        )
    )
    sets = ("max_steps=2", "use_cpu=true", "save_steps=1", "generation_config.max_new_tokens=3")
    short = [word for text in sets for word in ("--set", text)]
    assert main(["train", str(data), str(TINY), str(config), "no", *short, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main(["train", str(data), str(TINY), str(config), "1", *short]) == 0
    assert "report" in capsys.readouterr().out
    monkeypatch.setattr(loop, "Progress", stop_at(1, signal.SIGINT))
    assert main(["train", str(data), str(TINY), str(config), "--resume", "no", *short]) == 130
    assert main(["train", str(data), str(TINY), str(config), "--set", "max_stepz=2"]) == 2
    assert main(["train", str(tmp_path / "nowhere"), str(TINY), str(config)]) == 2
    config.write_text(text.replace("combine: True", "combine: yes"))
    assert main(["train", str(data), str(TINY), str(config)]) == 1
    assert f"{config}:8" in capsys.readouterr().err


def test_eval_measures_checkpoints_adapters_and_prefixes(start, data, tmp_path, capsys):
    quick = ("max_steps=1", "eval_strategy=no", "data_config.test_file=", "save_strategy=no")
    start(*quick, name="lora")
    start(*quick, "peft_config={peft_type: PREFIX_TUNING, num_virtual_tokens: 4}", name="prefix")
    capsys.readouterr()
    for where in (TINY, tmp_path / "lora", tmp_path / "prefix"):
        code = main(
            [
                "eval",
                str(where),
                str(data / "dev.jsonl"),
                "--max-output",
                "4",
                "--json",
                "-o",
                str(tmp_path / "said.jsonl"),
            ]
        )
        assert code == 0
        document = json.loads(capsys.readouterr().out)
        assert document["metrics"]["questions"] == 3 and set(document["metrics"]) == {
            "questions",
            "exact",
            "bleu",
            "rouge_l",
        }
        said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(said) == 3 and said[0]["place"].endswith("dev.jsonl:1")
