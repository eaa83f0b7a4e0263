"""The native families, and the one that claims a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncrate.families import chatglm
from uncrate.families.family import Family


def _chatglm_derived(name: str, task: str) -> str | None:
    if name == chatglm.INV_FREQ:
        return "computed from the config, not a parameter"
    if task == "classification" and name.startswith("transformer.output_layer."):
        return "a classifier has no output layer"
    if task == "causal" and name.startswith("classifier_head."):
        return "a class head; open with task classification to use it"
    return None


FAMILIES: tuple[Family, ...] = (
    Family(
        name="chatglm",
        claims=chatglm.claims,
        read_config=chatglm.read_config,
        expected_tensors=chatglm.expected_tensors,
        classes={
            "causal": "uncrate.models.chatglm.model:ChatGLMForConditionalGeneration",
            "classification": "uncrate.models.chatglm.model:ChatGLMForSequenceClassification",
        },
        heads={"causal": (), "classification": ("classifier_head.",)},
        derived=_chatglm_derived,
    ),
)


def find_family(config: Mapping[str, Any]) -> tuple[Family, str] | None:
    """Return the family that claims a config.json and the generation within it, or None."""
    for family in FAMILIES:
        generation = family.claims(config)
        if generation is not None:
            return family, generation
    return None


def left_out_because(family: str | None, name: str, task: str) -> str | None:
    """Return why a family leaves a stored tensor out, or None where it does not know the name."""
    return next((known.derived(name, task) for known in FAMILIES if known.name == family), None)
