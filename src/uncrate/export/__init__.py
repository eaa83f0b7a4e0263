"""A checkpoint again, with our own ChatGLM code as its custom code, for stock transformers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncrate.checkpoint.jsonfile import thaw
from uncrate.checkpoint.manifest import CONFIG
from uncrate.errors import TokenizerError, UsageError, escape
from uncrate.export.code import CONFIGURATION, MODELING, TOKENIZATION, code_files
from uncrate.open import Where
from uncrate.open import plan as make_plan
from uncrate.plan import Options, Plan, check
from uncrate.runtime.rewrite import Written, rewrite
from uncrate.runtime.shards import Progress

TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATING = f"{MODELING}.ChatGLMForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": f"{CONFIGURATION}.ChatGLMConfig",
    "AutoModel": _GENERATING,
    "AutoModelForCausalLM": _GENERATING,
    "AutoModelForSeq2SeqLM": _GENERATING,
    "AutoModelForSequenceClassification": f"{MODELING}.ChatGLMForSequenceClassification",
}
# What names another place: a folder of this name, a repository, would be asked for code before the exported folder.
_POINTERS = ("_name_or_path", "name_or_path")


@dataclass(frozen=True)
class Exported:
    """What `export` wrote; `proven` is the characters on which tokenizer.json gave the tokenizer's own ids (None: none
    was wanted).
    """

    written: Written
    plan: Plan
    code: tuple[str, ...]
    left_behind: tuple[str, ...]
    proven: int | None


def export(
    where: Where,
    out: str | Path,
    *,
    base: str | None = None,
    adapters: tuple[str, ...] = (),
    self_contained: bool = False,
    dtype: str = "auto",
    shard_size: str = "5GB",
    tokenizer_json: bool = False,
    force: bool = False,
    subfolder: str | None = None,
    progress: Progress = lambda done, total, name: None,
) -> Exported:
    """Write the ChatGLM checkpoint at `where` into the new folder `out`, so that transformers opens it with our code.

    The code is in the folder and needs no uncrate. Adapters are folded in. The checkpoint's own Python files stay
    behind. self_contained: nothing in it points outside, and tokenizer.json lets it do without tiktoken. Raises
    UsageError for a model of another family or a place that is taken, PlanError, DoesNotFit, TokenizerError where
    tokenizer.json would give other ids.
    """
    options = Options(base=base, adapters=adapters, device="cpu", subfolder=subfolder)
    plan = make_plan(where, options)
    if plan.family != "chatglm":
        raise UsageError(
            f"{escape(str(where))} is no ChatGLM checkpoint that uncrate runs itself, and only those are exported",
            why="; ".join(plan.problems[:2]) or plan.why,
        )
    check(plan)
    python = tuple(file.path for file in plan.manifest.python_files)
    proven: list[int] = []
    code: list[str] = []

    def finish(folder: Path) -> None:
        code.extend(_write_code(plan, folder, self_contained))
        if tokenizer_json or self_contained:
            proven.append(_write_tokenizer_json(folder, required=tokenizer_json))

    written = rewrite(
        plan,
        Path(out),
        dtype=dtype,
        shard_size=shard_size,
        force=force,
        finish=finish,
        skip=lambda path: path.endswith(".py") or "/" in path,
        progress=progress,
    )
    return Exported(written, plan, tuple(code), python, proven[0] if proven else None)


def add_code(folder: str | Path) -> tuple[str, ...]:
    """Put our code into a ChatGLM folder that is there already, such as one that `save_pretrained` wrote.

    Its configs then name the three files, which are returned; stock transformers opens it. Raises UsageError for a
    model of another family.
    """
    plan = make_plan(Path(folder), Options(device="cpu"))
    if plan.family != "chatglm":
        raise UsageError(f"{escape(str(folder))} is no ChatGLM checkpoint", why=plan.why)
    return tuple(_write_code(plan, Path(folder), self_contained=False))


def _write_code(plan: Plan, folder: Path, self_contained: bool) -> list[str]:
    """Write the three files and name their classes in the configs; every other key stays as it was."""
    config = dict(plan.manifest.config or {})
    tokenizer = dict(plan.manifest.json_files.get(TOKENIZER_CONFIG, {}))
    named = tokenizer.get("tokenizer_class")
    is_class = isinstance(named, str) and re.fullmatch(r"[A-Z][A-Za-z0-9]{0,40}Tokenizer", named)
    tokenizer_class = str(named) if is_class else "ChatGLM4Tokenizer"
    files = code_files(tokenizer_class)
    if not (folder / "tokenizer.model").is_file():
        del files[f"{TOKENIZATION}.py"]
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    changed = {**config, **_only(folder / CONFIG, ("torch_dtype", "dtype")), "auto_map": AUTO_MAP}
    _write(folder / CONFIG, _without_pointers(changed) if self_contained else changed)
    if f"{TOKENIZATION}.py" in files:
        tokenizer |= {"auto_map": {"AutoTokenizer": [f"{TOKENIZATION}.{tokenizer_class}", None]}}
        tokenizer["tokenizer_class"] = tokenizer_class
        if plan.generation in ("ChatGLM2", "ChatGLM3"):
            tokenizer["chat_layout"] = plan.generation.lower()
        _write(folder / TOKENIZER_CONFIG, _without_pointers(tokenizer) if self_contained else tokenizer)
    return list(files)


def _only(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    values = json.loads(path.read_bytes())
    return {key: values[key] for key in keys if key in values}


def _without_pointers(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _POINTERS}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(thaw(values), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tokenizer_json(folder: Path, *, required: bool) -> int:
    """Write tokenizer.json and hold it against the tokenizer on a large text; returns the characters compared."""
    from uncrate.export.proof import prove_tokenizer
    from uncrate.export.tokenizer_json import FILE, dumped
    from uncrate.models.chatglm.tokenizer import ChatGLMTokenizer, load_tokenizer

    if not (folder / "tokenizer.model").is_file():
        raise TokenizerError("the checkpoint has no tokenizer.model", where=escape(str(folder.parent)))
    tokenizer = load_tokenizer(folder)
    if not isinstance(tokenizer, ChatGLMTokenizer):
        if required:
            raise UsageError("the tokenizer is a SentencePiece model, of which no tokenizer.json is made")
        return 0
    (folder / FILE).write_text(dumped(tokenizer), encoding="utf-8")
    return prove_tokenizer(tokenizer, folder / FILE)


__all__ = ["Exported", "add_code", "export"]
