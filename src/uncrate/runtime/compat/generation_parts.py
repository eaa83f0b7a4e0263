"""The private parts of `generate()` that chat methods and cache hooks of old checkpoints call by name."""

from __future__ import annotations

import dis
import sys
from types import FrameType
from typing import Any

from uncrate.runtime.compat.hooks import Hooks, Legacy


class ExtractPast(Legacy):
    """The cache out of a model's output: alone, or with its name where the caller unpacks two values."""

    def _extract_past_from_model_output(self, outputs: Any, standardize_cache_format: bool | None = None) -> Any:
        past, name = None, "past_key_values"
        for key in ("past_key_values", "mems", "past_buckets_states", "cache_params"):
            if key in outputs:
                past, name = outputs[key], "cache_params" if key == "cache_params" else name
                break
        # The return value changed in 4.44 and no argument tells which is meant; what the caller does with it does.
        return (name, past) if _caller_unpacks_two(sys._getframe(1)) else past


def _caller_unpacks_two(frame: FrameType) -> bool:
    following = (item for item in dis.get_instructions(frame.f_code) if item.offset > frame.f_lasti)
    instruction = next((item for item in following if item.opname not in ("CACHE", "EXTENDED_ARG", "NOP")), None)
    return instruction is not None and instruction.opname == "UNPACK_SEQUENCE" and instruction.argval == 2


def extract_past(hooks: Hooks) -> None:
    """Give _extract_past_from_model_output back."""
    hooks.mixins.setdefault("generation", []).append(ExtractPast)


class _ClassOnRequest:
    """A class attribute whose value needs transformers, imported when it is read."""

    def __get__(self, instance: object, owner: type | None = None) -> type:
        from uncrate.runtime.compat.generation_config import LegacyGenerationConfig

        return LegacyGenerationConfig


class GenerationDefaults(Legacy):
    """The model's generation config answers the checkpoint's code as it did: with defaults, never None."""

    generation_config_class = _ClassOnRequest()


def generation_config(hooks: Hooks) -> None:
    """Hand out generation configs whose unset fields have their old values."""
    hooks.mixins.setdefault("generation", []).append(GenerationDefaults)

    def legacy(real: Any) -> Any:
        from uncrate.runtime.compat.generation_config import LegacyGenerationConfig

        return LegacyGenerationConfig

    hooks.replace[("transformers.generation.configuration_utils", "GenerationConfig")] = legacy


class RemovedGenerationMethods(Legacy):
    """The parts of generate() that chat and streaming methods of old checkpoints call one by one."""

    def _filled(self, config: Any) -> Any:
        """Give a generation config its defaults and its special tokens as tensors, as generate() does before it
        starts."""
        defaults = config._get_default_generation_params()
        config.update(**{name: value for name, value in defaults.items() if config.__dict__.get(name) is None})
        if "_eos_token_tensor" not in config.__dict__:
            self._prepare_special_tokens(config, device=self.device)  # type: ignore[attr-defined]
        return config

    def _get_logits_processor(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        names = ("input_ids_seq_length", "encoder_input_ids", "prefix_allowed_tokens_fn", "logits_processor")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for name in names:
            given.setdefault(name, None)
        return super()._get_logits_processor(generation_config=self._filled(generation_config), **given)  # type: ignore[misc]

    def _get_logits_warper(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        from transformers.generation.logits_process import LogitsProcessorList

        # Warpers are among the processors now, and would be applied twice.
        return LogitsProcessorList()

    def _get_stopping_criteria(self, generation_config: Any, stopping_criteria: Any = None, **kwargs: Any) -> Any:
        return super()._get_stopping_criteria(  # type: ignore[misc]
            generation_config=self._filled(generation_config), stopping_criteria=stopping_criteria, **kwargs
        )

    def _validate_model_class(self) -> None:
        """Nothing to check: the class can generate."""

    def greedy_search(
        self, input_ids: Any, *, logits_processor: Any = None, stopping_criteria: Any = None, **kwargs: Any
    ) -> Any:
        """Generate greedily with the given processors and stopping rules."""
        return self._search(input_ids, logits_processor, stopping_criteria, do_sample=False, **kwargs)

    def sample(
        self,
        input_ids: Any,
        *,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        logits_warper: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Generate by sampling with the given processors, warpers and stopping rules."""
        processors = [*(logits_processor or []), *(logits_warper or [])]
        return self._search(input_ids, processors, stopping_criteria, do_sample=True, **kwargs)

    def _search(self, input_ids: Any, processors: Any, criteria: Any, **kwargs: Any) -> Any:
        from transformers.generation.logits_process import LogitsProcessorList
        from transformers.generation.stopping_criteria import StoppingCriteriaList

        return self.generate(  # type: ignore[attr-defined]
            input_ids,
            logits_processor=LogitsProcessorList(processors or []),
            stopping_criteria=StoppingCriteriaList(criteria or []),
            **kwargs,
        )


def removed_methods(hooks: Hooks) -> None:
    """Give back the methods that old chat loops call."""
    hooks.mixins.setdefault("generation", []).append(RemovedGenerationMethods)
