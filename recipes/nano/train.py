"""Train the bundled nano checkpoint: `python recipes/nano/train.py`, two cores, no GPU, no download.

Learns the tokenizer, trains, writes the checkpoint in the hub's layout, draws the sample pictures, and measures answers
on digits never seen into RESULTS.md. Kill it at any time: the next run goes on from the last save, with the batches
that an unbroken run would have seen.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from conversations import Encoder, make_batch, make_pictures
from evaluate import CHECKPOINT, RESULTS, measure
from layout import Sizes, config_json, write_small_files, write_weights
from looking import Reader, waves
from progress import Progress
from samples import write_samples
from scenes import load_bank
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from vocabulary import learn, write

from uncrate.families.chatglm import read_config
from uncrate.models.chatglm.model import ChatGLMForConditionalGeneration
from uncrate.models.chatglm.tokenizer import ChatGLMTokenizer

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Round:
    """A stretch of training with a learning rate of its own: a straight warm-up, then half a cosine down to a floor."""

    steps: int
    cosine: int  # a round may end before its cosine does
    rate: float
    floor: float
    warmup: int = 0
    talking: bool = False
    order: bool = False  # whether the reader also learns which digit is first, second, ... from each side
    drill: tuple[str, ...] = ()  # kinds of question that are asked more often


LATE = ("colour of a digit", "describe")  # what is learned last
ROUNDS = (
    Round(steps=2200, cosine=2200, rate=2e-3, floor=0.2, warmup=200),
    Round(steps=2200, cosine=2200, rate=2e-3, floor=0.2),
    Round(steps=2700, cosine=3600, rate=1.2e-3, floor=0.02, warmup=200, talking=True),
    Round(steps=1400, cosine=3800, rate=1.2e-3, floor=0.02, warmup=100, talking=True, order=True),
    Round(steps=3400, cosine=3400, rate=1.2e-3, floor=0.02, talking=True, order=True, drill=LATE),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the result depends on, and how often the state is saved."""

    seed: int = 2026
    rounds: tuple[Round, ...] = ROUNDS
    looking_rows: int = 64
    talking_rows: int = 32
    beside: float = 0.3  # weight of looking while talking
    freed_from: int = 500  # over these steps places and sizes come to vary
    freed_at: int = 1200
    decay: float = 0.05
    clip: float = 1.0
    save_every: int = 100

    @property
    def steps(self) -> int:
        return sum(one.steps for one in self.rounds)

    def at(self, step: int) -> tuple[Round, int]:
        """The round that a step is in, and how many of the round's steps came before it."""
        for one in self.rounds:
            if step < one.steps:
                return one, step
            step -= one.steps
        raise IndexError("no round has such a step")


def initialise(model: ChatGLMForConditionalGeneration, sizes: Sizes) -> None:
    """Random parameters: unit-variance projections, decoder branches scaled down by depth, small words."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("word_embeddings", "output_layer", "cls_embedding", "boi", "eoi")):
            nn.init.normal_(parameter, std=0.02)
        elif parameter.dim() > 1:
            deep = "encoder" in name and name.endswith(("dense.weight", "dense_4h_to_h.weight"))
            std = 0.8 / math.sqrt(parameter[0].numel())
            nn.init.normal_(parameter, std=std / math.sqrt(2 * sizes.layers) if deep else std)
        elif "norm" in name and name.endswith("weight"):
            # The vision tower normalises what its branches add, so their size is set here and not by the projections.
            nn.init.constant_(parameter, 0.5 if "vision.transformer" in name else 1.0)
        else:
            nn.init.zeros_(parameter)
    positions = model.transformer.vision.patch_embedding.position_embedding.weight
    with torch.no_grad():
        positions[1:] = waves(sizes.picture // sizes.patch, sizes.vision_hidden)


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW; biases, norms and other vectors are not decayed."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.rounds[0].rate, betas=(0.9, 0.98), fused=True)


def rate_at(step: int, settings: Settings) -> float:
    """The learning rate of a step."""
    one, begun = settings.at(step)
    cosine = 0.5 * (1 + math.cos(math.pi * begun / one.cosine))
    return one.rate * min(1.0, (begun + 1) / max(one.warmup, 1)) * (one.floor + (1 - one.floor) * cosine)


class State:
    """The file that a broken run goes on from; written beside and renamed, so that it is always whole."""

    def __init__(self, path: Path, settings: Settings, sizes: Sizes) -> None:
        self._path = path
        self._made_by = {**asdict(settings), **asdict(sizes)}

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "made_by": self._made_by,
        }
        torch.save(state, beside)
        os.replace(beside, self._path)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """The number of steps done; 0 where there is no state yet. Another run's state is refused, not mixed in."""
        if not self._path.exists():
            return 0
        state = torch.load(self._path, weights_only=True)
        if state["made_by"] != self._made_by:
            sys.exit(
                f"{self._path} belongs to a run with other settings: remove it to start anew, or restore the settings"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])


class Lesson(nn.Module):
    """The model, the reader beside it, and the loss of each step, whose batch follows from seed and number alone."""

    def __init__(
        self, model: ChatGLMForConditionalGeneration, encoder: Encoder, settings: Settings, sizes: Sizes
    ) -> None:
        super().__init__()
        self.model, self.reader = model, Reader(sizes.hidden)
        self._encoder, self._settings, self._sizes = encoder, settings, sizes
        self._bank = load_bank("train")
        self._seen: list[torch.Tensor] = []
        model.transformer.vision.register_forward_hook(lambda module, inputs, output: self._seen.append(output))

    def forward(self, step: int) -> torch.Tensor:
        settings, size = self._settings, self._sizes.picture
        rng = np.random.default_rng([settings.seed, step])
        self._seen.clear()
        now, _ = settings.at(step)
        if not now.talking:
            freedom = (step - settings.freed_from) / (settings.freed_at - settings.freed_from)
            scenes, images = make_pictures(
                rng, self._bank, rows=settings.looking_rows, size=size, freedom=min(max(freedom, 0.0), 1.0)
            )
            return self.reader(self.model.transformer.vision(images), scenes)
        batch = make_batch(rng, self._bank, self._encoder, rows=settings.talking_rows, size=size, drill=now.drill)
        answers = self.model(batch.input_ids, batch.images, labels=batch.labels, return_logits=False).loss
        return answers + settings.beside * self.reader(self._seen[0], batch.scenes, order=now.order)


def train(lesson: Lesson, settings: Settings, sizes: Sizes, work: Path) -> None:
    """Take the steps that are left, saving now and then."""
    optimizer = build_optimizer(lesson, settings)
    state = State(work / "state.pt", settings, sizes)
    done, total = state.load(lesson, optimizer), settings.steps
    if done:
        print(f"going on after step {done} of {total}", file=sys.stderr)
    lesson.train()
    with Progress(done, total, work / "log.jsonl") as progress:
        for step in range(done, total):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, settings)
            # Plain attention is quicker here on short sequences than the blocked kind, whose bfloat16 backward is slow.
            with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                loss = lesson(step)
                loss.backward()
            nn.utils.clip_grad_norm_(lesson.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.step(loss.item(), rate_at(step, settings))
            if (step + 1) % settings.save_every == 0 or step + 1 == total:
                state.save(step + 1, lesson, optimizer)


def main() -> None:
    """The whole recipe; see the module's first lines."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    settings, sizes = Settings(), Sizes()
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    tokenizer_model = write(learn(load_bank("train"), settings.seed))
    draft = arguments.work / "checkpoint"
    write_small_files(draft, sizes, tokenizer_model)
    encoder = Encoder(ChatGLMTokenizer.from_folder(draft))
    model = ChatGLMForConditionalGeneration(read_config(config_json(sizes)))
    initialise(model, sizes)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", file=sys.stderr)
    try:
        train(Lesson(model, encoder, settings, sizes), settings, sizes, arguments.work)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from the last save")
    write_weights(draft, model, sizes)
    print(f"{draft}: written after {time.monotonic() - started:.0f} s of this run", file=sys.stderr)
    write_samples(draft / "pictures")
    figures = measure(draft)
    shutil.copytree(draft, arguments.out, dirs_exist_ok=True)
    RESULTS.write_text(figures, encoding="utf-8", newline="\n")
    print(figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the bundled nano checkpoint.")
    parser.add_argument("--threads", type=int, default=2, help="cores to use (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="where the run keeps its state")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="where the checkpoint goes in the end")
    return parser.parse_args()


if __name__ == "__main__":
    main()
