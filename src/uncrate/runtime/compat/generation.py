"""What `generate()` used to hand to a model, given to classes that prepare their inputs in the old way.

A class is old when its `prepare_inputs_for_generation` does not name the arguments of 5.x (`next_sequence_length`,
`is_first_iteration`); for all others every method here steps aside.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any

from uncrate.runtime.compat.hooks import ClassBody, Hooks, Legacy

NEW_ARGUMENTS = ("next_sequence_length", "is_first_iteration")
# The new arguments of the call that an old prepare_inputs_for_generation is serving, for when it calls super().
_step: ContextVar[dict[str, Any] | None] = ContextVar("step", default=None)


class GenerationRoot(Legacy):
    """Marks classes that can generate; every other mixin of this file follows it."""

    @classmethod
    def can_generate(cls) -> bool:
        return True


def _edit_generative_class(body: ClassBody, hooks: Hooks) -> None:
    from transformers.generation.utils import GenerationMixin

    if body.kind != "model":
        return
    prepares = body.namespace.get("prepare_inputs_for_generation")
    generative = any(issubclass(base, GenerationMixin) for base in body.bases)
    if inspect.isfunction(prepares):
        body.namespace["prepare_inputs_for_generation"] = _old_prepare(prepares)
    if not generative and prepares is None:
        return
    if not generative:
        body.bases.append(GenerationMixin)
    if not any(issubclass(base, GenerationRoot) for base in body.bases):
        body.bases[:0] = hooks.mixins.get("generation", [])


def _old_prepare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an old prepare_inputs_for_generation so that it never meets an argument it does not know."""
    parameters = inspect.signature(function).parameters
    if any(name in parameters for name in NEW_ARGUMENTS):
        return function
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    @functools.wraps(function)
    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = {name: kwargs.pop(name) for name in NEW_ARGUMENTS if name in kwargs}
        given = kwargs if takes_all else {name: value for name, value in kwargs.items() if name in parameters}
        token = _step.set(step)
        try:
            made = function(self, *args, **given)
        finally:
            _step.reset(token)
        return _with_flags(self, made, kwargs)

    prepare._uncrate_old = True  # type: ignore[attr-defined]
    return prepare


def _with_flags(model: Any, made: Any, kwargs: dict[str, Any]) -> Any:
    """Pass on output_attentions and output_hidden_states, which generate() itself used to pass to forward."""
    wanted = [name for name in ("output_attentions", "output_hidden_states") if kwargs.get(name)]
    if wanted and isinstance(made, dict):
        accepted = inspect.signature(model.forward).parameters
        made.update({name: kwargs[name] for name in wanted if name not in made and name in accepted})
    return made


def _is_old(model: Any) -> bool:
    return bool(getattr(type(model).prepare_inputs_for_generation, "_uncrate_old", False))


def generation_mixin(hooks: Hooks) -> None:
    """Give generate() to every class that prepares inputs for it."""
    hooks.mixins.setdefault("generation", []).insert(0, GenerationRoot)
    hooks.edits.append(lambda body: _edit_generative_class(body, hooks))


def _mentions(function: Any, name: str) -> bool:
    """Whether a function's code (inner functions included) reads a name, a keyword or a text `name`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and _code_mentions(code, name)


def _code_mentions(code: CodeType, name: str) -> bool:
    if name in code.co_varnames or name in code.co_names or name in code.co_consts:
        return True
    tuples = (item for item in code.co_consts if isinstance(item, tuple))
    return any(name in item for item in tuples) or any(
        _code_mentions(item, name) for item in code.co_consts if isinstance(item, CodeType)
    )


class OldInputs(Legacy):
    """Masks, positions and cache positions as 4.x passed them."""

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Any, model_kwargs: dict[str, Any], model_input_name: Any, generation_config: Any, *rest: Any, **more: Any
    ) -> Any:
        import torch

        length = getattr(generation_config, "_mask_length", None)
        if not _new_style(self) and length and model_kwargs.get("attention_mask", 0) is None:
            # An all-ones mask is dropped today; old code reads its shape, its dtype and its last column.
            model_kwargs["attention_mask"] = torch.ones(
                inputs_tensor.shape[0], length, dtype=torch.long, device=inputs_tensor.device
            )
        if _is_old(self) and model_kwargs.get("position_ids", 0) is None:
            del model_kwargs["position_ids"]
        return super()._maybe_prepare_encoder_kwargs_for_generation(  # type: ignore[misc]
            inputs_tensor, model_kwargs, model_input_name, generation_config, *rest, **more
        )

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        # Old code takes position ids that it is given as already cut to the step; it makes its own.
        return None if _is_old(self) else super()._prepare_position_ids_for_generation(*args, **kwargs)  # type: ignore[misc]

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        made = super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest, **more)  # type: ignore[misc]
        if _is_old(self) and _wants_cache_position(type(self)) and "cache_position" not in model_kwargs:
            model_kwargs["cache_position"] = _first_positions(model_kwargs)
        return made

    def _prefill(self, input_ids: Any, generation_config: Any, model_kwargs: dict[str, Any], is_first_iteration: bool = True) -> Any:
        if not _is_old(self) or generation_config.prefill_chunk_size is not None:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=is_first_iteration)  # type: ignore[misc]
        # What to cut off for a cache that is not empty is decided in the class, and the cache may be a tuple.
        if model_kwargs.get("cache_position", 0) is None:
            model_kwargs["cache_position"] = _positions_up_to(input_ids, model_kwargs)
        inputs = self.prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **model_kwargs)
        return self(**inputs, return_dict=True)  # type: ignore[operator]

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """Serve an old class's call to super(), or a class that has no method of its own."""
        for name, value in (_step.get() or {}).items():
            kwargs.setdefault(name, value)
        made = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        accepted = inspect.signature(self.forward).parameters  # type: ignore[attr-defined]
        key = "decoder_input_ids" if self.config.is_encoder_decoder else "input_ids"  # type: ignore[attr-defined]
        current = made.get("inputs_embeds") if made.get("inputs_embeds") is not None else made.get(key)
        mask = kwargs.get("attention_mask")
        if _is_old(self) and current is not None and "position_ids" in accepted and made.get("position_ids") is None:
            if mask is not None and mask.dim() == 2:
                positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 1)
                made["position_ids"] = positions[:, -current.shape[1] :].contiguous()
        if current is not None and "cache_position" in accepted and made.get("cache_position") is None:
            past = kwargs.get("past_key_values")
            seen = past.get_seq_length() if hasattr(past, "get_seq_length") else 0
            made["cache_position"] = _arange(current.shape[1], current.device) + seen
        return made

    def _update_model_kwargs_for_generation(
        self,
        outputs: Any,
        model_kwargs: dict[str, Any],
        is_encoder_decoder: bool = False,
        standardize_cache_format: bool = False,
        num_new_tokens: int = 1,
        **ignored: Any,
    ) -> dict[str, Any]:
        before = dict(model_kwargs)
        made: dict[str, Any] = super()._update_model_kwargs_for_generation(  # type: ignore[misc]
            outputs, model_kwargs, is_encoder_decoder=is_encoder_decoder, num_new_tokens=num_new_tokens
        )
        if not _is_old(self):
            return made
        key = "decoder_position_ids" if is_encoder_decoder else "position_ids"
        if key in before:
            # Only today's method lengthens them.
            made[key] = before[key]
        if getattr(outputs, "state", None) is not None:
            made["state"] = outputs.state
        position = made.get("cache_position")
        if position is not None:
            made["cache_position"] = _next_positions(position, num_new_tokens, bool(made.get("use_cache", True)))
        return made


def _new_style(model: Any) -> bool:
    """Whether the class names the arguments that 5.x introduced."""
    parameters = inspect.signature(inspect.unwrap(type(model).prepare_inputs_for_generation)).parameters
    own = not type(model).prepare_inputs_for_generation.__module__.startswith(("transformers.", "uncrate.runtime.compat"))
    return own and any(name in parameters for name in NEW_ARGUMENTS)


@functools.cache
def _wants_cache_position(model_class: Any) -> bool:
    names = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
    functions = [getattr(model_class, name) for name in names]
    own = [f for f in functions if not f.__module__.startswith(("transformers.", "uncrate.runtime.compat"))]
    return any(_mentions(function, "cache_position") for function in own)


def _arange(length: int, device: Any) -> Any:
    import torch

    return torch.arange(length, dtype=torch.long, device=device)


def _first_positions(model_kwargs: dict[str, Any]) -> Any:
    """Return the positions of an embedded prompt; None leaves it to the first step, which knows the token ids."""
    embeds = model_kwargs.get("inputs_embeds")
    return _arange(embeds.shape[1], embeds.device) if embeds is not None else None


def _positions_up_to(input_ids: Any, model_kwargs: dict[str, Any]) -> Any:
    past = model_kwargs.get("past_key_values")
    seen = past.get_seq_length() if hasattr(past, "get_seq_length") else 0
    key = model_kwargs.get("decoder_attention_mask")
    length = key.shape[1] if key is not None else input_ids.shape[1]
    return _arange(length, input_ids.device)[seen if seen < length else 0 :]


def _next_positions(position: Any, new: int, use_cache: bool) -> Any:
    import torch

    following = position[-1:] + torch.arange(1, new + 1, device=position.device, dtype=position.dtype)
    return position[-1:] + new if use_cache else torch.cat([position, following])


def old_inputs(hooks: Hooks) -> None:
    """Hand the model what generate() used to hand it."""
    hooks.mixins.setdefault("generation", []).append(OldInputs)


class TupleCache(Legacy):
    """No cache object for classes that never said they take one: they make tuples and get them back."""

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        from uncrate.runtime.compat.cache import LegacyDynamicCache, LegacyEncoderDecoderCache, speak_old

        given = model_kwargs.get("past_key_values")
        if isinstance(given, (tuple, list)):
            return None
        by_default = generation_config.cache_implementation in (None, "dynamic")
        if given is None and by_default and generation_config.use_cache is not False and "mamba" not in type(self).__name__.lower():
            if not getattr(self, "_supports_cache_class", False):
                return None
            cache = LegacyDynamicCache()
            both = self.config.is_encoder_decoder  # type: ignore[attr-defined]
            model_kwargs["past_key_values"] = LegacyEncoderDecoderCache(cache, LegacyDynamicCache()) if both else cache
            return None
        made = super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest, **more)  # type: ignore[misc]
        if model_kwargs.get("past_key_values") is not None:
            speak_old(model_kwargs["past_key_values"])
        return made


def tuple_cache(hooks: Hooks) -> None:
    """Leave the cache to classes that do not know cache objects."""
    hooks.mixins.setdefault("generation", []).append(TupleCache)


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
        """Give a generation config its defaults and its special tokens as tensors, as generate() does before it starts."""
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

    def greedy_search(self, input_ids: Any, *, logits_processor: Any = None, stopping_criteria: Any = None, **kwargs: Any) -> Any:
        """Generate greedily with the given processors and stopping rules."""
        return self._search(input_ids, logits_processor, stopping_criteria, do_sample=False, **kwargs)

    def sample(
        self, input_ids: Any, *, logits_processor: Any = None, stopping_criteria: Any = None, logits_warper: Any = None, **kwargs: Any
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
