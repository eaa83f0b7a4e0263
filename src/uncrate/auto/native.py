"""Native checkpoints as transformers models: the plan's tensors in the wrapping class, without a second loader."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from uncrate.checkpoint.jsonfile import thaw
from uncrate.errors import UsageError, escape
from uncrate.families.chatglm import INV_FREQ
from uncrate.models.chatglm.hf import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    ChatGLMForSequenceClassification,
    ChatGLMPreTrainedModel,
)
from uncrate.models.chatglm.hf_base import RotaryFrequencies
from uncrate.plan import Plan
from uncrate.runtime.build import TORCH_NAMES, assign, build_empty, initialise
from uncrate.runtime.mapping import Mapped
from uncrate.runtime.tensors import TORCH_DTYPES, read_tensors

CLASSES: dict[str, type[ChatGLMForConditionalGeneration] | type[ChatGLMForSequenceClassification]] = {
    "causal": ChatGLMForConditionalGeneration,
    "classification": ChatGLMForSequenceClassification,
}


def build_native(
    plan: Plan, mapped: Mapped, config: ChatGLMConfig, model_args: Sequence[Any], *, copy: bool
) -> tuple[ChatGLMForConditionalGeneration | ChatGLMForSequenceClassification, set[str]]:
    """Return the transformers model of a sound native plan, filled and in evaluation mode, and what no file holds.

    `copy` takes the weights out of the mapped files. A task head that no file holds is initialised, with a warning.
    """
    cls = CLASSES[plan.task]
    dtype, device = TORCH_NAMES[plan.dtype], torch.device(plan.device.name)
    config.dtype = dtype
    model = build_empty(lambda given: cls(given, *model_args), config)
    assert isinstance(model, ChatGLMForConditionalGeneration | ChatGLMForSequenceClassification)
    assign(model, filled(plan, mapped, dtype, device))
    initialise(model, plan.initialised, dtype, device)
    rotary = model.transformer.rotary_pos_emb
    assert isinstance(rotary, RotaryFrequencies)
    stored = frequencies(plan)
    rotary.inv_freq = (rotary.computed() if stored is None else stored).to(device)
    missing = set(plan.initialised)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    if copy:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    warn_of_new([name for name in plan.initialised if name in missing])
    set_generation(model, plan)
    return model.eval(), missing


def filled(plan: Plan, mapped: Mapped, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Return the plan's parameters by name, views of the mapped files where they need no conversion."""
    entries = [(item.parameter, item.tensor) for item in plan.assignments]
    return read_tensors(entries, mapped, dtype=dtype, device=device)


def quantizable(plan: Plan, mapped: Mapped, config: ChatGLMConfig) -> dict[str, Tensor]:
    """Return every tensor of the model for transformers' quantizing loader, new ones included."""
    config.dtype = TORCH_NAMES[plan.dtype]
    tensors = filled(plan, mapped, TORCH_NAMES[plan.dtype], torch.device("cpu"))
    warn_of_new(plan.initialised)
    return tensors


def frequencies(plan: Plan) -> Tensor | None:
    """Return the stored rotary frequencies as they are; None where the checkpoint has none."""
    entry = plan.manifest.weights.tensors.get(INV_FREQ)
    if entry is None or entry.dtype not in TORCH_DTYPES:
        return None
    data = bytearray(plan.manifest.open().read_range(entry.file, entry.start, entry.end))
    return torch.frombuffer(data, dtype=torch.uint8).view(TORCH_DTYPES[entry.dtype]).view(entry.shape)


def warn_of_new(names: Sequence[str], *, stacklevel: int = 5) -> None:
    """Warn of parameters that no file holds: the model answers at random until it is trained."""
    if names:
        shown = ", ".join(map(escape, names[:4])) + (" and more" if len(names) > 4 else "")
        warnings.warn(
            f"{shown}: not in the checkpoint and newly initialised; train the model before using it",
            UserWarning,
            stacklevel=stacklevel,
        )


def set_generation(model: ChatGLMPreTrainedModel, plan: Plan) -> None:
    """Give a generating model the values of generation_config.json; without one it has those of config.json."""
    values = plan.manifest.json_files.get("generation_config.json")
    if values is not None and model.can_generate():
        model.generation_config = GenerationConfig.from_dict(thaw(values))


def put_adapters(model: ChatGLMPreTrainedModel, plan: Plan, name: str | None) -> None:
    """Put the plan's adapters on the model through PEFT, each under its own name (`name` for a single one).

    PEFT is told the modules that the plan matched: it would run the adapter's patterns as regular expressions, however
    long they take.
    """
    from peft import PeftConfig

    for adapter in plan.adapters:
        files = adapter.manifest.open()
        names = [file.path for file in adapter.manifest.files if file.path.startswith("adapter_")]
        folder = files.local_many(names)[0].parent
        called = name or "default" if len(plan.adapters) == 1 else adapter.name
        config: Any = PeftConfig.from_pretrained(str(folder))
        if adapter.modules:
            config.target_modules = {module.module for module in adapter.modules}
            config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
        model.load_adapter(str(folder), adapter_name=called, peft_config=config)


def refuse_several(plan: Plan, name: str | None) -> None:
    """Raise UsageError where one name is given for several adapters."""
    if name is not None and len(plan.adapters) > 1:
        raise UsageError(f"adapter_name: there are {len(plan.adapters)} adapters", next="leave adapter_name out")
