"""Teach the bundled checkpoint a kind of question that it cannot answer, by LoRA, and write the figures to README.md.

    python recipes/nano-lora/run.py [--rows 6000] [--held-out 400] [--check]

Everything goes through the commands that a user types: `uncrate data check`, `uncrate eval`, `uncrate train`,
`uncrate eval` with the adapter. `--check` measures an adapter that is there, without training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from sums import write_sums

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = HERE / "work"
SEED, HELD_OUT_SEED = 11, 97
START, END = "<!-- figures: written by run.py -->", "<!-- end of figures -->"


def uncrate(*arguments: str, capture: bool = False) -> str:
    """Run one command as a user would; returns its stdout where it is wanted."""
    print("$ uncrate", *arguments, file=sys.stderr, flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "uncrate", *arguments]
    done = subprocess.run(command, check=True, env=environment, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""


def measure(where: str, data: Path, *, out: Path) -> dict[str, float]:
    """Return exact match and the rest of a checkpoint or adapter on a data file."""
    options = ("--max-output", "12", "--batch", "100", "--out", str(out), "--json")
    return json.loads(uncrate("eval", where, str(data), *options, capture=True))["metrics"]


def write_figures(figures: dict[str, str]) -> None:
    """Put the figures between the marks of README.md."""
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    table = "| what | figure |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in figures.items())
    readme.write_text(before + START + "\n" + table + END + rest.split(END)[1], encoding="utf-8", newline="\n")


def processor_seconds() -> float:
    """Return what all commands so far have used of the processors: cores may be shared with other work."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000, help="training scenes")
    parser.add_argument("--held-out", type=int, default=400, help="scenes of digits that training never saw")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to uncrate train")
    parser.add_argument("--check", action="store_true", help="measure the adapter in work/ and write nothing")
    given = parser.parse_args()
    output = WORK / "adapter"
    data = WORK / "data"
    held_out = write_sums(data, "held-out", "held-out", count=given.held_out, seed=HELD_OUT_SEED)
    if given.check:
        print(measure(str(output), held_out, out=WORK / "after.jsonl"))
        return
    start = time.perf_counter()
    write_sums(data, "train", "train", count=given.rows, seed=SEED)
    write_sums(data, "dev", "held-out", count=8, seed=SEED)
    drawn = time.perf_counter() - start
    uncrate("data", "check", str(data / "train.jsonl"), "--count", "1")
    before = measure(given.model, held_out, out=WORK / "before.jsonl")
    config = WORK / "lora.yaml"
    config.write_text((HERE / "lora.yaml").read_text(encoding="utf-8").replace("OUTPUT", str(output)), encoding="utf-8")
    sets = [word for text in given.set for word in ("--set", text)]
    start = time.perf_counter()
    worked = processor_seconds()
    uncrate("train", str(data), given.model, str(config), "no", "--dtype", "float32", *sets)
    trained = time.perf_counter() - start
    worked = processor_seconds() - worked
    after = measure(str(output), held_out, out=WORK / "after.jsonl")
    rank = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    size = (output / "adapter_model.safetensors").stat().st_size / 1000
    write_figures(
        {
            "exact before": f"{before['exact']:.1f} %",
            "exact after": f"{after['exact']:.1f} %",
            "held-out questions": f"{after['questions']:.0f}, half English, half Chinese",
            "training": f"{given.rows:,} scenes, {trained:.0f} s as a whole process ({worked:.0f} s of processor time)",
            "drawing the scenes": f"{drawn:.0f} s",
            "adapter": f"rank {rank}, {size:,.0f} kB",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        }
    )
    print(f"exact: {before['exact']:.1f} % before, {after['exact']:.1f} % after, {trained:.0f} s")


if __name__ == "__main__":
    main()
