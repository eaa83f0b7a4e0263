"""What a run leaves behind: an adapter folder as PEFT writes it, or a whole checkpoint in the base's own layout."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel, PrefixTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from uncrate.checkpoint.source import LocalSource
from uncrate.errors import AdapterError
from uncrate.opened import Opened
from uncrate.runtime.rewrite import copied_files, copy_files
from uncrate.runtime.shards import STORED_NAMES, Piece, parse_size, write_weights
from uncrate.train.model import trainee_of

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX_KEY = "prompt_embeddings"
SHARD = "5GB"


def base_name(opened: Opened) -> str:
    """Return what adapter_config.json calls the base: the hub id, "nano", or the folder's absolute path."""
    source = opened.plan.manifest.source
    text = str(source)
    return str(source.folder.absolute()) if isinstance(source, LocalSource) and text != "nano" else text


class Saver:
    """Writes the trained part of a model into a folder, and reads a prefix back (PEFT reads adapters itself)."""

    def __init__(self, opened: Opened, prefix: PrefixTuningConfig | None) -> None:
        self._opened = opened
        self.prefix = prefix

    def __call__(self, model: nn.Module, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write `model` (`state`: its tensors, where they had to be gathered from several processes) into `folder`."""
        if isinstance(model, PeftModel):
            # Word embeddings are not an adapter's; "auto" would ask the hub whether they are.
            model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)
        elif self.prefix is not None:
            self.prefix.inference_mode = True
            self.prefix.save_pretrained(str(folder))
            weight = trainee_of(model).transformer.prefix_encoder.embedding.weight
            save_file({PREFIX_KEY: weight.detach().cpu().contiguous()}, folder / ADAPTER_WEIGHTS)
        else:
            self._save_whole(trainee_of(model).state_dict() if state is None else state, folder)

    def _save_whole(self, tensors: dict[str, Tensor], folder: Path) -> None:
        """Write a checkpoint in the base's layout; a run's result in the base's dtype, a step's as it is trained."""
        manifest, result = self._opened.plan.manifest, not folder.name.startswith("checkpoint-")
        dtype: torch.dtype = getattr(torch, self._opened.plan.dtype)
        for old in folder.glob("model*.safetensors*"):  # an earlier run's, which this one replaces
            old.unlink()
        copy_files(manifest, copied_files(manifest), folder)

        def piece(name: str, tensor: Tensor) -> Piece:
            kind = dtype if result and tensor.is_floating_point() else tensor.dtype
            return Piece(name, STORED_NAMES[kind], tuple(tensor.shape), lambda: tensor.detach().to(kind))

        pieces = [piece(name, tensor) for name, tensor in tensors.items()]
        write_weights(pieces, folder, limit=parse_size(SHARD), progress=lambda done, total, name: None)

    def load_prefix(self, model: nn.Module, folder: Path) -> None:
        """Fill the model's prefix from a checkpoint folder. Raises AdapterError where it holds another."""
        weight = trainee_of(model).transformer.prefix_encoder.embedding.weight
        stored = load_file(folder / ADAPTER_WEIGHTS).get(PREFIX_KEY)
        if stored is None or stored.shape != weight.shape:
            raise AdapterError("the prefix in the checkpoint has another shape", where=str(folder))
        with torch.no_grad():
            weight.copy_(stored)


def checkpoint_bytes(model: nn.Module, *, whole: bool, optimizer_factor: float) -> int:
    """Return what a checkpoint takes on disk: the trained weights (or all, `whole`) and the optimizer's state."""
    trained = sum(item.numel() * item.element_size() for item in model.parameters() if item.requires_grad)
    stored = sum(item.numel() * item.element_size() for item in model.parameters()) if whole else trained
    return int(stored + optimizer_factor * trained)
