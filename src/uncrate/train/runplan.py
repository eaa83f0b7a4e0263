"""What a run will do and take, before its first step: sizes, memory by part, steps, where the output goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from uncrate.devices import read_devices
from uncrate.errors import escape
from uncrate.families.chatglm import ChatGLMConfig
from uncrate.models.chatglm.model import LOSS_CHUNK
from uncrate.show import size_text

# Bytes an optimizer keeps for each byte of a trained parameter; others are taken for AdamW.
OPTIMIZERS = {"sgd": 0.0, "adafactor": 0.05, "rmsprop": 1.0, "adagrad": 1.0, "lion": 1.0}


def optimizer_factor(name: str) -> float:
    """Return how many times a trained parameter's bytes the optimizer keeps."""
    if "8bit" in name or "4bit" in name:
        return 0.5
    return next((factor for start, factor in OPTIMIZERS.items() if start in name), 2.0)


@dataclass(frozen=True)
class Memory:
    """An estimate in bytes by part, on one device."""

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.gradients + self.optimizer + self.activations + self.logits

    def text(self) -> str:
        return (
            f"{size_text(self.total)}: frozen {size_text(self.frozen)}, trained {size_text(self.trained)}, "
            f"gradients {size_text(self.gradients)}, optimizer {size_text(self.optimizer)}, "
            f"activations {size_text(self.activations)}, logits {size_text(self.logits)}"
        )


def estimate(
    model: nn.Module,
    config: ChatGLMConfig,
    *,
    rows: int,
    tokens: int,
    pictures: bool,
    trained_tokens: int,
    optimizer: str,
    checkpointing: bool,
) -> Memory:
    """Return the memory of a training step of `rows` rows of `tokens` positions each, pictures not yet expanded."""
    parts = {True: 0, False: 0}
    for parameter in model.parameters():
        parts[parameter.requires_grad] += parameter.numel() * parameter.element_size()
    size = next(
        item.element_size() for item in model.parameters() if not item.requires_grad or item.is_floating_point()
    )
    positions = rows * (tokens + (config.vision.image_tokens - 1 if pictures and config.vision else 0))
    # What one block keeps for backward: norms and residuals, q k v and attention's output, gate, value and product.
    layer = 6 * config.hidden_size + config.qkv_size + 2 * config.attention_size + 4 * config.ffn_hidden_size
    kept = _kept(config.num_layers, positions, layer, config.hidden_size, checkpointing)
    if pictures and config.vision is not None:
        vision = config.vision
        inner = 6 * vision.hidden_size + 4 * vision.hidden_size + 2 * vision.intermediate_size
        patches = rows * vision.num_positions
        kept += _kept(vision.num_hidden_layers, patches, inner, vision.hidden_size, checkpointing)
    labelled = min(rows * trained_tokens, LOSS_CHUNK)
    return Memory(
        frozen=parts[False],
        trained=parts[True],
        gradients=parts[True],
        optimizer=int(parts[True] * optimizer_factor(optimizer)),
        activations=kept * size,
        # The logits as the model gives them, in float32, their softmax and its gradient.
        logits=labelled * config.padded_vocab_size * (size + 12),
    )


def _kept(layers: int, positions: int, layer: int, hidden: int, checkpointing: bool) -> int:
    return positions * (layers * hidden + layer) if checkpointing else positions * layers * layer


def device_memory(name: str) -> tuple[int | None, int | None]:
    """Return the free and the total bytes of a torch device, None where nobody says."""
    wanted = "cuda:0" if name == "cuda" else name
    for device in read_devices():
        if device.name == wanted:
            return device.free, device.total
    return None, None


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The sheet that stands before the first step."""

    model: str
    method: str
    data: str
    trained: int
    parameters: int
    dtype: str
    device: str
    memory: Memory
    free: int | None
    rows: int
    row_tokens: int
    picture_positions: int
    epochs: float
    steps: int
    batch: str
    evaluation: str
    output: str
    checkpoint: int
    start: str
    notes: Sequence[str]

    def sheet(self) -> list[tuple[str, str]]:
        """Return the plan as label and value rows."""
        share = 100 * self.trained / max(self.parameters, 1)
        fits = "" if self.free is None else f"; {size_text(self.free)} are free"
        positions = f", {self.picture_positions:,} picture positions" if self.picture_positions else ""
        rows = [
            ("model", f"{self.model}, {self.dtype} on {self.device}"),
            ("training", self.method),
            ("parameters", f"{self.trained:,} trained of {self.parameters:,} ({share:.2f} %)"),
            ("data", self.data),
            ("an epoch", f"{self.rows:,} rows, {self.row_tokens:,} tokens{positions}"),
            ("steps", f"{self.steps:,} of {self.batch}, {self.epochs:.3g} epochs, {self.start}"),
            ("memory", f"about {self.memory.text()}{fits}"),
            ("evaluation", self.evaluation),
            ("output", f"{escape(self.output, 400)}, about {size_text(self.checkpoint)} a checkpoint"),
        ]
        if self.free is not None and self.memory.total > self.free:
            rows.append(("problem", "this may not fit: gradient_checkpointing: true or a smaller batch need less"))
        return rows + [("note", note) for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        return {name: value if not isinstance(value, Memory) else vars(value) for name, value in vars(self).items()}


def count_steps(args: Any, rows: int) -> tuple[int, float]:
    """Return the optimizer steps of a run and the epochs they are, as Trainer counts them."""
    batches = math.ceil(rows / max(1, args.per_device_train_batch_size * args.world_size))
    if args.dataloader_drop_last:
        batches = max(1, rows // (args.per_device_train_batch_size * args.world_size))
    an_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    if args.max_steps > 0:
        return args.max_steps, args.max_steps / an_epoch
    return math.ceil(args.num_train_epochs * an_epoch), args.num_train_epochs
