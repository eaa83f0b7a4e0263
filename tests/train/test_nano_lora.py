"""The bundled recipe: its data and configuration are sound, and the figures it wrote are those it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from uncrate.train.recipe import FinetuningConfig
from uncrate.train.records import open_records
from uncrate.train.rows import Limits
from uncrate.train.survey import Reading, messages_of, survey
from uncrate.train.tokenizers import open_words

RECIPE = Path(__file__).parents[2] / "recipes" / "nano-lora"


def test_its_data_is_sound_and_fits_the_configuration(tmp_path):
    # The recipe's modules import one another by their plain names, which is nothing for this process.
    code = (
        f"import sys; sys.path.insert(0, {str(RECIPE)!r})\n"
        "from pathlib import Path\nfrom sums import write_sums\n"
        f"write_sums(Path({str(tmp_path)!r}), 'held-out', 'held-out', count=12, seed=1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    recipe = FinetuningConfig.from_file(RECIPE / "lora.yaml")
    words = open_words("nano")
    limits = Limits(max_input=recipe.max_input_length, max_output=recipe.max_output_length)
    records = open_records(tmp_path / "held-out.jsonl")
    found = survey(records, Reading(tokenizer=words.tokenizer, limits=limits, pictures=True))
    assert len(found.good) == found.pictures == 12 and not found.faults and not found.truncated
    for index in range(12):
        left, plus, right, equals, total = messages_of(records, index)[1]["content"].split()
        assert plus == "+" and equals == "=" and int(left) + int(right) == int(total)
    assert recipe.peft["r"] == 16 and recipe.generation["max_new_tokens"] == 12


def test_the_figures_in_its_readme_are_those_it_promises():
    text = (RECIPE / "README.md").read_text(encoding="utf-8")
    before, after = (float(re.search(rf"\| exact {when} \| ([\d.]+) %", text)[1]) for when in ("before", "after"))
    seconds = int(re.search(r"scenes, (\d+) s as a whole process", text)[1])
    assert before < 5 and after >= 85 and seconds < 300
