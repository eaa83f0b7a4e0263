"""GLM-4's configurations read unchanged, and every fault told with its line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uncrate.errors import RecipeError, UncrateError, UsageError
from uncrate.train.arguments import IGNORED, RENAMED, SPECIAL, known_arguments
from uncrate.train.recipe import FinetuningConfig, read_recipe
from uncrate.train.yamlfile import parse_yaml

CONFIGS = Path(__file__).parent / "configs"
SHORT = """\
data_config:
  train_file: train.jsonl
max_input_length: 128
max_output_length: 64
training_args:
  output_dir: ./out
  learning_rate: 5e-4
"""


NINE = "[{}]".format(", ".join(["*{}"] * 9))
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} {NINE.replace('{}', before)}\n" for before, name in zip("abcd", "bcde", strict=True)
)


def read(text: str, *sets: str) -> FinetuningConfig:
    return read_recipe(parse_yaml(text, "x.yaml"), sets)


@pytest.fixture
def deepspeed(monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ds_zero_3.json").write_text("{}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_configurations_parse_unchanged(path, deepspeed):
    recipe = FinetuningConfig.from_file(path)
    assert recipe.data_config.file("train") == "train.jsonl"
    assert isinstance(recipe.training["learning_rate"], float)
    assert recipe.generation == {"max_new_tokens": 512}
    assert recipe.training["eval_strategy"] == "steps"
    assert set(recipe.training) <= set(known_arguments())


def test_what_each_configuration_trains(deepspeed):
    kinds = {path.stem: FinetuningConfig.from_file(path).peft for path in CONFIGS.glob("*.yaml")}
    assert kinds["lora-2024-12"]["peft_type"] == kinds["lora-2024-07"]["peft_type"] == "LORA"
    assert kinds["ptuning_v2-2024-12"]["num_virtual_tokens"] == 512
    assert kinds["sft-2024-12"] is None
    assert kinds["lora-2024-07"]["target_modules"] == ["query_key_value"]


def test_optional_keys_have_the_old_defaults():
    recipe = read(SHORT)
    assert not recipe.combine and not recipe.freezeV and recipe.freeze == () and recipe.peft is None
    assert recipe.limit == 192
    assert recipe.training["learning_rate"] == 5e-4


def test_freeze_names_parts_and_freezeV_means_the_whole_tower():
    assert read(SHORT + "freezeV: true\n").freeze == ("vision", "projector")
    assert read(SHORT + "freeze: [language]\n").freeze == ("language",)
    assert not read(SHORT + "freeze: [vision]\n").freezeV


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("evaluation_strategy: steps", "eval_strategy", "steps"),
        ("warmup_ratio: 0.1", "warmup_steps", 0.1),
        ("group_by_length: true", "train_sampling_strategy", "group_by_length"),
        ("no_cuda: true", "use_cpu", True),
        ("include_inputs_for_metrics: true", "include_for_metrics", ["inputs"]),
        ("adafactor: true", "optim", "adafactor"),
        ("learning_rate: '5e-4'", "learning_rate", 5e-4),
        ("max_steps: 10.0", "max_steps", 10),
    ],
)
def test_old_names_are_translated(line, name, value):
    text = SHORT.replace("  learning_rate: 5e-4\n", "") + f"  {line}\n"
    recipe = read(text)
    assert recipe.training[name] == value
    if line.split(":")[0] not in known_arguments():
        assert len(recipe.notes) == 1 and line.split(":")[0] in recipe.notes[0]


@pytest.mark.parametrize(
    "name", ["overwrite_output_dir", "save_safetensors", "jit_mode_eval", "use_legacy_prediction_loop"]
)
def test_dropped_names_are_ignored_with_a_line(name):
    recipe = read(SHORT + f"  {name}: true\n")
    assert name not in recipe.training
    assert [note for note in recipe.notes if note.startswith(name)]


def test_logging_dir_becomes_the_variable():
    recipe = read(SHORT + "  logging_dir: ./logs\n")
    assert recipe.tensorboard_dir == "./logs" and "TENSORBOARD_LOGGING_DIR" in recipe.notes[0]


def test_translations_only_concern_names_that_are_gone():
    assert not (set(RENAMED) | set(SPECIAL) | set(IGNORED)) & set(known_arguments())
    assert set(RENAMED.values()) <= set(known_arguments())


def test_known_arguments_equal_the_dataclass():
    from dataclasses import fields

    from transformers import Seq2SeqTrainingArguments

    assert set(known_arguments()) == {field.name for field in fields(Seq2SeqTrainingArguments) if field.init}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("  max_stepps: 3\n", "x.yaml:8: training_args has no 'max_stepps'\n  why: did you mean max_steps?"),
        ("freezev: true\n", "x.yaml:8: the key 'freezev' is unknown\n  why: did you mean freezeV?"),
        ("max_steps: 3\n", "next: put max_steps under training_args"),
        ("combine: yes\n", "x.yaml:8: combine should be true or false, is 'yes'\n  why: in YAML 1.2"),
        ("freeze: [visions]\n", "x.yaml:8: freeze should list some of vision, projector, language"),
        ("  bf16: on\n", "x.yaml:8: bf16 should be true or false"),
        ("  learning_rate: 5e-4\n", "x.yaml:8: not YAML: found duplicate key"),
        ("\tcombine: true\n", "x.yaml:8: not YAML"),
        ("peft_config:\n  r: 8\n", "x.yaml:8: peft_type is missing"),
        ("peft_config:\n  peft_type: ADALORA\n", "x.yaml:9: peft_type ADALORA is not supported"),
        ("peft_config:\n  peft_type: LORA\n  r: 0\n", "x.yaml:10: r should be a whole number from 1, is 0"),
        (
            "peft_config:\n  peft_type: LORA\n  r: 8\n  lora_alfa: 3\n",
            "x.yaml:11: the key 'lora_alfa' is unknown in peft_config",
        ),
        ("quantize: int3\n", "x.yaml:8: quantize should be one of"),
        ("  deepspeed: none.json\n", "x.yaml:8: there is no DeepSpeed configuration none.json"),
        ("  generation_config: 3\n", "x.yaml:8: should be a list of generation options"),
    ],
)
def test_faults_name_their_line(change, wanted):
    with pytest.raises(RecipeError) as caught:
        read(SHORT + change)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- a\n- b\n", "a configuration is a list of `key: value` lines"),
        ("training_args: 3\n", "training_args should be a list"),
        (SHORT.replace("  output_dir: ./out\n", ""), "output_dir is missing"),
        (SHORT.replace("max_input_length: 128\n", ""), "max_input_length is missing"),
        (SHORT.replace("  train_file: train.jsonl", "  val_file: a"), "train_file is missing"),
        (BOMB, "too many"),
    ],
)
def test_what_is_no_configuration(text, wanted):
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert wanted in str(caught.value)


def test_set_puts_values_over_the_file():
    recipe = read(
        SHORT, "max_steps=7", "training_args.learning_rate=1e-5", "freeze=[vision]", "data_config.val_file=v.jsonl"
    )
    assert recipe.training["max_steps"] == 7 and recipe.training["learning_rate"] == 1e-5
    assert recipe.freeze == ("vision",) and recipe.data_config.val_file == "v.jsonl"
    assert read(SHORT + "peft_config: {peft_type: LORA, r: 4}\n", "peft_config=").peft is None
    with pytest.raises(UsageError, match="key=value"):
        read(SHORT, "max_steps")
    with pytest.raises(UsageError) as caught:
        read(SHORT, "max_stepz=3")
    assert "max_steps" in str(caught.value)


def test_deepspeed_is_looked_for_beside_the_file_too(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ds.json").write_text("{}")
    file = tmp_path / "configs" / "x.yaml"
    for written in ("ds.json", "configs/ds.json"):
        file.write_text(SHORT + f"  deepspeed: {written}\n")
        assert Path(FinetuningConfig.from_file(file).training["deepspeed"]).is_file()


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_a_recipe_or_a_typed_error(text):
    with pytest.raises(UncrateError):
        read(text)


def test_reading_imports_no_torch():
    code = (
        "import sys\nfrom uncrate.train.recipe import FinetuningConfig\n"
        f"FinetuningConfig.from_file({str(CONFIGS / 'lora-2024-12.yaml')!r})\n"
        "import uncrate.train.survey, uncrate.cli.dataset\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
