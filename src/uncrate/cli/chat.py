"""`uncrate chat`: talk to a checkpoint, or ask it one question."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uncrate import show
from uncrate.cli import sampling
from uncrate.cli.options import (
    Adapters,
    AllowMissing,
    AllowPickle,
    AllowUnexpected,
    AsJson,
    Base,
    Device,
    Dtype,
    Route,
    Subfolder,
    Where,
)
from uncrate.cli.output import print_document
from uncrate.cli.waiting import waiting
from uncrate.errors import PictureError, UsageError, escape
from uncrate.open import open as open_checkpoint
from uncrate.plan import Options

if TYPE_CHECKING:
    from uncrate.generate.options import Sampling
    from uncrate.opened import Opened
    from uncrate.opened_foreign import OpenedForeign

Prompt = Annotated[
    str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="Ask this, print the answer, leave; - reads stdin.")
]
Pictures = Annotated[
    list[str] | None, typer.Option("-i", "--image", metavar="FILE", help="The picture that the question is about.")
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message before the first one.")]


def command(
    where: Where,
    prompt: Prompt = None,
    image: Pictures = None,
    system: System = None,
    max_tokens: sampling.MaxTokens = None,
    greedy: sampling.Greedy = False,
    temperature: sampling.Temperature = None,
    top_p: sampling.TopP = None,
    top_k: sampling.TopK = None,
    repetition_penalty: sampling.RepetitionPenalty = None,
    seed: sampling.Seed = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    route: Route = "auto",
    allow_missing: AllowMissing = None,
    allow_unexpected: AllowUnexpected = None,
    allow_pickle: AllowPickle = False,
    subfolder: Subfolder = None,
    base: Base = None,
    adapter: Adapters = None,
    as_json: AsJson = False,
) -> int:
    """Talk to a checkpoint about a picture.

    With -p it answers one question and prints the answer alone.

    What the flags leave open comes from the checkpoint's generation_config.json, else from GLM-4's own demo: at most
    1024 tokens, temperature 0.6, top-p 0.8, repetition penalty 1.2.
    """
    flags = sampling.Flags(
        max_tokens=max_tokens,
        greedy=greedy,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    options = Options(
        dtype=dtype,
        device=device,
        route=route,
        allow_missing=tuple(allow_missing or ()),
        allow_unexpected=tuple(allow_unexpected or ()),
        allow_pickle=allow_pickle,
        subfolder=subfolder,
        base=base,
        adapters=tuple(adapter or ()),
    )
    picture = _one_picture(image or [])
    if as_json and prompt is None:
        raise UsageError("--json answers one question", next='add -p "your question"')
    question = _question(prompt) if prompt is not None else None
    start = time.perf_counter()
    with waiting(f"opening {where}"):
        opened = open_checkpoint(where, options)
    seconds = time.perf_counter() - start
    chosen, remark = flags.choose(opened.plan.manifest.json_files.get("generation_config.json"))
    for line in (*([remark] if remark else []), *opened.remarks):
        print(f"note: {line}", file=sys.stderr)
    if question is not None:
        messages = [{"role": "system", "content": argument_text(system)}] if system else []
        messages.append({"role": "user", "content": question, **({"image": picture} if picture else {})})
        return _answer_once(opened, messages, chosen, seconds if as_json else None)
    from uncrate.cli.talk import Talk

    return Talk(opened, chosen, system=argument_text(system) if system else None, picture=picture).run(seconds)


def argument_text(text: str) -> str:
    """Return a command-line argument as the UTF-8 that was typed, whatever the locale made of it."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def _one_picture(files: list[str]) -> str | None:
    """Return the picture's path, checked to be there before seconds are spent on opening the checkpoint."""
    if len(files) > 1:
        raise UsageError(
            "the model takes one picture a conversation", next="ask about each picture by a command of its own"
        )
    if not files:
        return None
    if not Path(files[0]).exists():
        raise PictureError(
            "there is no such file", where=escape(files[0], 400), next="give the path of a PNG or JPEG file"
        )
    return files[0]


def _question(prompt: str) -> str:
    if prompt != "-":
        text = argument_text(prompt)
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise UsageError(
                "what came on stdin is not UTF-8", why=str(error), next="convert it, say with iconv"
            ) from error
    if not text.strip():
        raise UsageError("the question is empty", next='add -p "your question"')
    return text


def _answer_once(
    opened: Opened | OpenedForeign, messages: list[dict[str, Any]], chosen: Sampling, seconds_to_open: float | None
) -> int:
    """Print the answer as it comes, or with its figures as JSON where `seconds_to_open` is given."""
    stream = opened.stream(messages, **asdict(chosen))
    if seconds_to_open is None:
        for piece in stream:
            print(show.answer_text(piece, sys.stdout), end="", flush=True)
        print()
        return 0
    for _ in stream:
        pass
    answer = stream.result
    print_document(
        {
            "schema": 1,
            "text": answer.text,
            "tokens": list(answer.tokens),
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "finish_reason": answer.finish_reason,
            "seconds": {"open": round(seconds_to_open, 4), **{k: round(v, 4) for k, v in answer.seconds.items()}},
        }
    )
    return 0
