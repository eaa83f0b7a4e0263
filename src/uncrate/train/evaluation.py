"""`uncrate eval`: a checkpoint's or an adapter's answers to every question of a data file, and how near they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PrefixTuningConfig

from uncrate import open as open_checkpoint
from uncrate import show
from uncrate.checkpoint.source import LocalSource, parse_source
from uncrate.errors import TokenizerError, UsageError
from uncrate.generate.options import Sampling
from uncrate.opened import Opened
from uncrate.plan import Options
from uncrate.train.answers import Answerer
from uncrate.train.dataset import Collator, EvaluationPairs
from uncrate.train.metrics import measure
from uncrate.train.model import Trainee, add_prefix
from uncrate.train.records import open_records
from uncrate.train.rows import Limits
from uncrate.train.saving import Saver, base_name
from uncrate.train.survey import Reading, survey
from uncrate.train.tokenizers import model_place


@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """What to evaluate and how. `out` is where predictions go, one JSON line a question."""

    where: str
    data: Path
    out: Path | None = None
    adapter: str | None = None
    base: str | None = None
    limits: Limits
    batch: int = 8
    pairs: str = "answer"
    old_metrics: bool = False
    skip_bad: bool = False
    device: str = "auto"
    dtype: str = "auto"


def evaluate(job: EvalJob) -> dict[str, float]:
    """Return the metrics, with `questions` counted. Raises DataError with every fault before the model is loaded."""
    records = open_records(job.data)
    opened = None
    prefix = _prefix_folder(job)
    if prefix is None:
        adapters = (job.adapter,) if job.adapter else ()
        options = Options(device=job.device, dtype=job.dtype, route="native", task="causal", adapters=adapters)
        where = model_place(job.where)
        opened = open_checkpoint(where, replace(options, base=job.base) if job.base else options)
    else:
        opened = _open_prefix(job, prefix)
    assert isinstance(opened, Opened)
    if opened.tokenizer is None:
        raise TokenizerError("the checkpoint has no tokenizer.model", where=job.where)
    vision = opened.config.vision
    reading = Reading(tokenizer=opened.tokenizer, limits=job.limits, pairs=job.pairs, pictures=vision is not None)
    found = survey(records, reading)
    if not job.skip_bad:
        found.refuse()
    pairs = EvaluationPairs(records, found, reading)
    answerer = Answerer(opened, Sampling(max_new_tokens=job.limits.max_output))
    collator = Collator(opened.tokenizer, vision.image_size if vision else None)
    said, wanted, lines = [], [], []
    for index, right, answer in _answers(pairs, answerer, collator, job.batch, opened.device):
        said.append(answer)
        wanted.append(right)
        lines.append(json.dumps({"place": pairs.place(index), "wanted": right, "said": answer}, ensure_ascii=False))
    if job.out is not None:
        job.out.parent.mkdir(parents=True, exist_ok=True)
        job.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"questions": float(len(said)), **measure(said, wanted, old=job.old_metrics)}


def _answers(
    pairs: EvaluationPairs, answerer: Answerer, collator: Collator, size: int, device: torch.device
) -> Iterator[tuple[int, str, str]]:
    moving = show.is_terminal(sys.stderr)
    for start in range(0, len(pairs), size):
        asked = [pairs[index] for index in range(start, min(start + size, len(pairs)))]
        batch = {name: value.to(device) for name, value in collator(asked).items()}
        for number, tokens in enumerate(answerer.tokens(batch)):
            yield start + number, answerer.text(asked[number].answer), answerer.text(tokens)
        if moving:
            done = start + len(asked)
            print(f"\r{done}/{len(pairs)}", end="\n" if done == len(pairs) else "", file=sys.stderr, flush=True)


def _prefix_folder(job: EvalJob) -> Path | None:
    """Return the folder where it holds a prefix (P-tuning v2), which the road of adapters does not take."""
    for text in (job.adapter, job.where):
        if text is None:
            continue
        source = parse_source(model_place(text))
        file = source.folder / "adapter_config.json" if isinstance(source, LocalSource) else None
        if file is not None and file.is_file():
            try:
                kind = json.loads(file.read_bytes()).get("peft_type")
            except (ValueError, AttributeError):
                return None
            return file.parent if kind == "PREFIX_TUNING" else None
    return None


def _open_prefix(job: EvalJob, folder: Path) -> Opened:
    config = PrefixTuningConfig.from_pretrained(str(folder))
    base = job.base or (job.where if job.adapter else config.base_model_name_or_path)
    if not base:
        raise UsageError("the prefix names no base", where=str(folder), next="add --base WHERE")
    opened = open_checkpoint(
        model_place(base), Options(device=job.device, dtype=job.dtype, route="native", task="causal")
    )
    assert isinstance(opened, Opened)
    trainee = Trainee(opened, base_name(opened))
    add_prefix(trainee, config)
    Saver(opened, config).load_prefix(trainee, folder)
    trainee.eval()
    return opened
