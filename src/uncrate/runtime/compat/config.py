"""What old configuration classes expect of `PretrainedConfig`."""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type"

from __future__ import annotations

import copy
from typing import Any

from uncrate.runtime.compat.hooks import ClassBody, Hooks, Legacy

# What every config answered until generation moved to GenerationConfig, and its values until 5.0.
GENERATION_DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
OLD_DEFAULTS: dict[str, Any] = {
    "torchscript": False,
    "use_bfloat16": False,
    "tf_legacy_loss": False,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "finetuning_task": None,
    "tokenizer_class": None,
    "prefix": None,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "task_specific_params": None,
    "use_cache": True,
    # What PretrainedConfig.__init__ sets, for a config that never calls it.
    "id2label": None,
    "_name_or_path": "",
    "_output_attentions": False,
    "_attn_implementation_internal": None,
    "_experts_implementation_internal": None,
}


class ConfigRoot(Legacy):
    """Answers for an attribute that nobody set: asks each mixin's `_legacy_value` in turn, then gives up as Python
    does."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for owner in type(self).__mro__:
                answer = owner.__dict__.get("_legacy_value")
                if answer is not None:
                    known, value = answer(self, name)
                    if known:
                        return value
        following = getattr(super(), "__getattr__", None)
        if following is not None:
            return following(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _get_generation_parameters(self) -> dict[str, Any]:
        # Old configs carry generation values as a matter of course; generate() must not refuse them.
        return {}


class OldDefaults(Legacy):
    """`config.pad_token_id`, `config.max_length` and the others had a value whether or not config.json named them."""

    def _legacy_value(self, name: str) -> tuple[bool, Any]:
        for table in (OLD_DEFAULTS, GENERATION_DEFAULTS):
            if name in table:
                return True, copy.copy(table[name])
        return False, None

    @property
    def use_return_dict(self) -> bool:
        # The installed one logs a deprecation; the old one also knew about torchscript.
        return bool(self.return_dict) and not self.torchscript


def old_defaults(hooks: Hooks) -> None:
    """Give the old default attributes back."""
    hooks.mixins.setdefault("config", []).extend([ConfigRoot, OldDefaults])


class GenerationValues(Legacy):
    """Generation values of config.json stay attributes of the config, from where `GenerationConfig` reads them."""

    def __post_init__(self, **kwargs: Any) -> None:
        from transformers import GenerationConfig

        known = GenerationConfig._get_default_generation_params().keys() | GENERATION_DEFAULTS.keys()
        written = {name: kwargs[name] for name in list(kwargs) if name in known}
        super().__post_init__(**kwargs)
        for name, value in written.items():
            if name not in self.__dict__:
                setattr(self, name, value)


def generation_values(hooks: Hooks) -> None:
    """Keep generation values that config.json names."""
    hooks.mixins.setdefault("config", []).append(GenerationValues)


class RopeScaling(Legacy):
    """`rope_scaling` as config.json has it, `rope_theta` as an attribute; `rope_parameters` derived for new code."""

    def __post_init__(self, **kwargs: Any) -> None:
        new_style = "rope_parameters" in getattr(type(self), "__dataclass_fields__", {}) or "rope_parameters" in kwargs
        if new_style:
            super().__post_init__(**kwargs)
            return
        # The installed method would turn these three into rope_parameters and take them away.
        kept = {
            name: kwargs.pop(name) for name in ("rope_scaling", "rope_theta", "partial_rotary_factor") if name in kwargs
        }
        super().__post_init__(**kwargs)
        for name, value in kept.items():
            setattr(self, name, value)

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        if "_rope_scaling" in self.__dict__:
            written: dict[str, Any] | None = self.__dict__["_rope_scaling"]
            return written
        return _old_scaling(self.__dict__.get("rope_parameters"))

    @rope_scaling.setter
    def rope_scaling(self, value: dict[str, Any] | None) -> None:
        if "rope_parameters" in getattr(type(self), "__dataclass_fields__", {}):
            self.rope_parameters = value
            if value is not None and self.__dict__.get("_post_init_done"):
                self.standardize_rope_params()
            return
        if isinstance(value, dict):
            value = dict(value)
            # 4.43 renamed "type" to "rope_type" and filled in whichever was missing; code reads either.
            if "rope_type" in value or "type" in value:
                value.setdefault("rope_type", value.get("type"))
                value.setdefault("type", value.get("rope_type"))
        self.__dict__["_rope_scaling"] = value

    def _legacy_value(self, name: str) -> tuple[bool, Any]:
        parameters = self.__dict__.get("rope_parameters")
        if name in ("rope_theta", "partial_rotary_factor") and isinstance(parameters, dict) and name in parameters:
            return True, parameters[name]
        if name == "rope_parameters" and ("rope_theta" in self.__dict__ or "_rope_scaling" in self.__dict__):
            return True, _new_parameters(self)
        return False, None

    def to_dict(self) -> dict[str, Any]:
        made: dict[str, Any] = super().to_dict()
        if "_rope_scaling" in made:
            made["rope_scaling"] = made.pop("_rope_scaling")
        return made


def _old_scaling(parameters: Any) -> dict[str, Any] | None:
    """Return rope_parameters as the rope_scaling that 4.x had: None for plain rotary embeddings."""
    if not isinstance(parameters, dict):
        return None
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind in ("default", None):
        return None
    return {**{key: value for key, value in parameters.items() if key != "rope_theta"}, "type": kind}


def _new_parameters(config: Any) -> dict[str, Any]:
    """Return what transformers' own rotary classes read today, from the attributes of an old config."""
    scaling = config.__dict__.get("_rope_scaling") or {}
    made = {"rope_theta": getattr(config, "rope_theta", 10000.0), **scaling}
    made.setdefault("rope_type", scaling.get("type", "default"))
    if "partial_rotary_factor" in config.__dict__:
        made.setdefault("partial_rotary_factor", config.__dict__["partial_rotary_factor"])
    if made["rope_type"] in ("llama3", "yarn", "longrope"):
        original = config.__dict__.get("original_max_position_embeddings") or getattr(
            config, "max_position_embeddings", None
        )
        made.setdefault("original_max_position_embeddings", original)
    return made


def rope_scaling(hooks: Hooks) -> None:
    """Give rope_scaling and rope_theta back as they are written."""
    hooks.mixins.setdefault("config", []).append(RopeScaling)


class PlainConfig(Legacy):
    """A hand-written `__init__` was all there was: no dataclass, no validation of what a checkpoint chose to store."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from transformers.configuration_utils import PreTrainedConfig

        following = super().__init__
        if getattr(following, "__func__", None) is PreTrainedConfig.__init__:
            # The installed __init__ is wrapped once more by validators of new-style fields (layer_types, head_dim,
            # ...).
            getattr(PreTrainedConfig.__init__, "__wrapped__", PreTrainedConfig.__init__)(self, *args, **kwargs)
        else:
            following(*args, **kwargs)

    def validate(self) -> None:
        """Old configs have no rules to break."""

    validate.__is_defined_by_strict_decorator__ = True


def _same_attributes(self: Any, other: Any) -> bool:
    return type(self) is type(other) and self.__dict__ == other.__dict__


def _edit_config_class(body: ClassBody) -> None:
    if body.kind != "config":
        return
    own = body.namespace
    hand_written = "__init__" in own
    if not hand_written and any(getattr(base, "_uncrate_own_init", False) for base in body.bases):
        # The installed base class would generate an __init__ that never calls the parent's.
        parent = next(base for base in body.bases if getattr(base, "_uncrate_own_init", False))

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            parent.__init__(self, *args, **kwargs)

        own["__init__"] = __init__
        hand_written = True
    if hand_written:
        own["_uncrate_own_init"] = True
        # Annotations of an old class are remarks; as dataclass fields, a list as a value would be refused.
        own["__annotations__"] = {}
        own.setdefault("__eq__", _same_attributes)


def plain_class(hooks: Hooks) -> None:
    """Keep config classes what they were: plain classes with a hand-written `__init__`."""
    hooks.mixins.setdefault("config", []).append(PlainConfig)
    hooks.edits.append(_edit_config_class)


class _FacadeMeta(type):
    """A config of transformers' own is an instance of the stand-in that a checkpoint holds for its class."""

    def __instancecheck__(cls, instance: object) -> bool:
        real = cls.__dict__.get("_uncrate_real")
        return isinstance(instance, real) if real is not None else type.__instancecheck__(cls, instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = cls.__dict__.get("_uncrate_real")
        return issubclass(subclass, real) if real is not None else type.__subclasscheck__(cls, subclass)


_facades: dict[type, type] = {}


def facade_of(real: type) -> type:
    """Return the subclass of one of transformers' config classes that answers old questions; it is made once."""
    if real not in _facades:
        mixins = (ConfigRoot, OldDefaults, GenerationValues, RopeScaling)
        namespace = {"_uncrate_real": real, "__module__": "uncrate.runtime.compat.facades", "__doc__": real.__doc__}
        _facades[real] = _FacadeMeta(real.__name__, (*mixins, real), namespace)
    return _facades[real]


def _facade_if_config(value: type) -> type | None:
    from transformers.configuration_utils import PreTrainedConfig

    inside = value.__module__.startswith("transformers.models.")
    if inside and issubclass(value, PreTrainedConfig) and value is not PreTrainedConfig:
        return facade_of(value)
    return None


def facade(hooks: Hooks) -> None:
    """Hand out stand-ins for the configs of transformers' own models."""
    hooks.replace_class.append(_facade_if_config)
