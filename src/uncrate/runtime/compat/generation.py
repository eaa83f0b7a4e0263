"""What `generate()` used to hand to a model, given to classes that prepare their inputs in the old way.

A class is old when its `prepare_inputs_for_generation` does not name the arguments of 5.x (`next_sequence_length`,
`is_first_iteration`); for all others every method here steps aside.
"""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type,operator"

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from types import CodeType
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

    prepare._uncrate_old = True
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
        self,
        inputs_tensor: Any,
        model_kwargs: dict[str, Any],
        model_input_name: Any,
        generation_config: Any,
        *rest: Any,
        **more: Any,
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
        return super()._maybe_prepare_encoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, generation_config, *rest, **more
        )

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        # Old code takes position ids that it is given as already cut to the step; it makes its own.
        return None if _is_old(self) else super()._prepare_position_ids_for_generation(*args, **kwargs)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *rest: Any, **more: Any
    ) -> Any:
        made = super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest, **more)
        if _is_old(self) and _wants_cache_position(type(self)) and "cache_position" not in model_kwargs:
            model_kwargs["cache_position"] = _first_positions(model_kwargs)
        return made

    def _prefill(
        self, input_ids: Any, generation_config: Any, model_kwargs: dict[str, Any], is_first_iteration: bool = True
    ) -> Any:
        if not _is_old(self) or generation_config.prefill_chunk_size is not None:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=is_first_iteration)
        # What to cut off for a cache that is not empty is decided in the class, and the cache may be a tuple.
        if model_kwargs.get("cache_position", 0) is None:
            model_kwargs["cache_position"] = _positions_up_to(input_ids, model_kwargs)
        inputs = self.prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **model_kwargs)
        return self(**inputs, return_dict=True)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """Serve an old class's call to super(), or a class that has no method of its own."""
        for name, value in (_step.get() or {}).items():
            kwargs.setdefault(name, value)
        made = super().prepare_inputs_for_generation(*args, **kwargs)
        accepted = inspect.signature(self.forward).parameters
        key = "decoder_input_ids" if self.config.is_encoder_decoder else "input_ids"
        current = made.get("inputs_embeds") if made.get("inputs_embeds") is not None else made.get(key)
        mask = kwargs.get("attention_mask")
        counted = _is_old(self) and current is not None and mask is not None and mask.dim() == 2
        if counted and "position_ids" in accepted and made.get("position_ids") is None:
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
        made: dict[str, Any] = super()._update_model_kwargs_for_generation(
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
    own = not type(model).prepare_inputs_for_generation.__module__.startswith(
        ("transformers.", "uncrate.runtime.compat")
    )
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

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *rest: Any, **more: Any
    ) -> Any:
        from uncrate.runtime.compat.cache import LegacyDynamicCache, LegacyEncoderDecoderCache, speak_old

        given = model_kwargs.get("past_key_values")
        if isinstance(given, (tuple, list)):
            return None
        by_default = generation_config.cache_implementation in (None, "dynamic")
        if (
            given is None
            and by_default
            and generation_config.use_cache is not False
            and "mamba" not in type(self).__name__.lower()
        ):
            if not getattr(self, "_supports_cache_class", False):
                return None
            cache = LegacyDynamicCache()
            both = self.config.is_encoder_decoder
            model_kwargs["past_key_values"] = LegacyEncoderDecoderCache(cache, LegacyDynamicCache()) if both else cache
            return None
        made = super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest, **more)
        if model_kwargs.get("past_key_values") is not None:
            speak_old(model_kwargs["past_key_values"])
        return made


def tuple_cache(hooks: Hooks) -> None:
    """Leave the cache to classes that do not know cache objects."""
    hooks.mixins.setdefault("generation", []).append(TupleCache)
