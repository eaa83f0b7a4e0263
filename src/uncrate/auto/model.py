"""AutoModel and its kin: a checkpoint as a transformers model, planned first."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

from transformers import GenerationConfig, PretrainedConfig

from uncrate.auto.config import attributes_of, config_object, is_attribute, set_attention, set_attributes
from uncrate.auto.keywords import MODEL, Given, dtype_of, refuse_unknown, sort_keywords
from uncrate.auto.looking import Found, Where, find, name_of, with_config
from uncrate.checkpoint.jsonfile import thaw
from uncrate.checkpoint.manifest import Manifest
from uncrate.errors import UsageError, escape
from uncrate.families.chatglm import INV_FREQ
from uncrate.families.table import find_family
from uncrate.plan import ITEM_BYTES, Options, Plan, check, make_plan

FOREIGN_HEADS = ("score.*", "classifier.*", "classifier_head.*", "classification_head.*", "pre_classifier.*")
PREFIX, OUTPUT = "transformer.prefix_encoder.", "transformer.output_layer."


class _Auto:
    """What the Auto classes for models share; `_task` is what the plan calls it."""

    _task: ClassVar[str] = "auto"

    def __init__(self) -> None:
        name = type(self).__name__
        raise UsageError(f"{name} is not built itself", next=f"{name}.from_pretrained(WHERE) or .from_config(config)")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Where, *model_args: Any, **kwargs: Any) -> Any:
        """Return the model of a checkpoint, in evaluation mode; or (model, info) with `output_loading_info=True`.

        Everything is decided before a weight is read. Keywords are transformers' (see keywords.py); those that are
        attributes of the configuration set them. Raises UncrateError: UsageError for refused and unknown keywords,
        PlanError with every problem, NotApproved for code that nobody approved.
        """
        given = sort_keywords(kwargs, MODEL)
        found = find(pretrained_model_name_or_path, given)
        config, found = _choose_config(found, given)
        plan = _plan(found, given, config, cls)
        check(plan)
        if plan.route != "native":
            return _open_foreign(plan, given)
        return _open_native(plan, given, config, model_args)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Any:
        """Return a model with fresh weights. Raises UsageError for unknown keywords, NotApproved for foreign code."""
        given = sort_keywords(kwargs, MODEL)
        refuse_unknown(given.others, MODEL)
        config = copy.deepcopy(config)
        set_attention(config, given)
        dtype = dtype_of(given)
        chosen = {} if dtype == "auto" else {"dtype": dtype}
        from uncrate.models.chatglm.hf import ChatGLMConfig

        if isinstance(config, ChatGLMConfig):
            from uncrate.auto.native import CLASSES

            return CLASSES["causal" if cls._task == "auto" else cls._task]._from_config(config, **chosen)
        from uncrate.auto.foreign import model_class_of

        own = model_class_of(config, cls.__name__)
        if own is not None:
            return own._from_config(config, **chosen)  # type: ignore[attr-defined]
        import transformers

        return getattr(transformers, cls.__name__).from_config(config, trust_remote_code=False, **chosen)


class AutoModel(_Auto):
    """The model as the checkpoint says it is: GLM-4V's auto_map names the one that answers."""


class AutoModelForCausalLM(_Auto):
    """The model that answers."""

    _task = "causal"


class AutoModelForSeq2SeqLM(_Auto):
    """The model that answers, by the name that early ChatGLM programs use."""

    _task = "causal"


class AutoModelForSequenceClassification(_Auto):
    """The model with a class head; one that the checkpoint does not hold is initialised, with a warning."""

    _task = "classification"


def _choose_config(found: Found, given: Given) -> tuple[PretrainedConfig | None, Found]:
    """Return the configuration object where it is native, and what is planned from: as stored, given, or changed."""
    chosen = given.get("config")
    model = found.model
    if isinstance(chosen, PretrainedConfig):
        config = copy.deepcopy(chosen)
        if given.others:
            raise UsageError(
                f"config is given, and {', '.join(sorted(map(escape, given.others)))} besides",
                why="a given configuration is used as it is",
                next="set them on the configuration",
            )
        model = with_config(model, config.to_diff_dict(), "the configuration is the caller's, not config.json")
    else:
        if chosen is not None:
            other = find(chosen, Given({key: value for key, value in given.known.items() if key != "base"}, {})).model
            model = with_config(model, thaw(other.config), f"config.json is that of {other.source}")
        if model.config is None or find_family(model.config) is None:
            return None, replace(found, model=_with_foreign_attributes(model, given))
        config = config_object(model)
        refuse_unknown(set_attributes(config, given.others), MODEL, attributes_of(config))
        if given.others:
            names = ", ".join(sorted(map(escape, given.others)))
            model = with_config(model, config.to_diff_dict(), f"set by the caller: {names}")
    set_attention(config, given)
    config.name_or_path = name_of(model.source)
    return config, replace(found, model=model)


def _with_foreign_attributes(model: Manifest, given: Given) -> Manifest:
    """Set keywords that are attributes of a foreign configuration in what is planned from."""
    wanted = dict(given.others)
    if wanted:
        config = config_object(model)
        unknown = [name for name in wanted if not is_attribute(config, name)]
        refuse_unknown(unknown, MODEL, attributes_of(config))
    if given.get("attn_implementation") is not None:
        wanted["attn_implementation"] = given.get("attn_implementation")
    if not wanted:
        return model
    names = ", ".join(sorted(map(escape, wanted)))
    return with_config(model, {**thaw(model.config), **wanted}, f"set by the caller: {names}")


def _plan(found: Found, given: Given, config: PretrainedConfig | None, cls: type[_Auto]) -> Plan:
    from uncrate.auto.placement import one_device

    options = Options(
        dtype=_dtype(given, found.model),
        # A strategy or a map of several devices spreads what was loaded here.
        device=one_device(given.get("device_map")) or "cpu",
        task=cls._task,
        allow_missing=_may_be_missing(found.model, config, cls._task),
        subfolder=given.get("subfolder") or None,
        auto_class=cls.__name__ if config is None else None,
    )
    plan = make_plan(found.model, options, found.stack)
    if plan.route != "native":
        from uncrate.auto.foreign import refuse_code

        refuse_code(plan, given)
    return plan


def _dtype(given: Given, manifest: Manifest) -> str:
    """As in transformers 5, "auto" is what config.json names; where it names none, what is stored."""
    wanted = dtype_of(given)
    if wanted != "auto":
        return wanted
    config = manifest.config or {}
    named = config.get("dtype") or config.get("torch_dtype")
    return named if isinstance(named, str) and named in ITEM_BYTES else "auto"


def _may_be_missing(manifest: Manifest, config: PretrainedConfig | None, task: str) -> tuple[str, ...]:
    """A prefix that the caller asks for is new; a tied output layer is not stored beside the embedding.

    The class heads of foreign models have these names; a native family names its own.
    """
    if config is None:
        return FOREIGN_HEADS if task == "classification" else ()
    stored = manifest.weights.tensors
    patterns = []
    if getattr(config, "pre_seq_len", None) is not None and not any(name.startswith(PREFIX) for name in stored):
        patterns.append(f"{PREFIX}*")
    if getattr(config, "tie_word_embeddings", False) and f"{OUTPUT}weight" not in stored:
        patterns.append(f"{OUTPUT}*")
    return tuple(patterns)


def _open_native(plan: Plan, given: Given, config: PretrainedConfig | None, model_args: tuple[Any, ...]) -> Any:
    from uncrate.auto import native, placement, quantize
    from uncrate.models.chatglm.hf import ChatGLMConfig
    from uncrate.runtime.mapping import map_weights

    assert isinstance(config, ChatGLMConfig)
    native.refuse_several(plan, given.get("adapter_name"))
    quantization, device_map = given.get("quantization_config"), given.get("device_map")
    if quantization is not None:
        quantize.method_of(quantization)
    mapped, missing = map_weights(plan), set(plan.initialised)
    if quantization is not None:
        tensors = native.quantizable(plan, mapped, config)
        cls = native.CLASSES[plan.task]
        model = quantize.build_quantized(cls, config, tensors, quantization, dtype=plan.dtype, device_map=device_map)
        native.set_generation(model, plan)
    else:
        model, missing = native.build_native(plan, mapped, config, model_args, copy=bool(given.get("disable_mmap")))
        if device_map is not None and placement.one_device(device_map) is None:
            placement.dispatch(model, device_map, given)
    native.put_adapters(model, plan, given.get("adapter_name"))
    _replace_generation(model, given)
    left_out = {item.name for item in plan.left_out} - {INV_FREQ}
    return _with_info(model, given, missing, left_out)


def _open_foreign(plan: Plan, given: Given) -> Any:
    """Open a model that is not native over the same road. Keywords that only native models take are refused."""
    from uncrate.auto import placement
    from uncrate.auto.native import warn_of_new
    from uncrate.open import carry_out
    from uncrate.opened_foreign import OpenedForeign

    asked = [name for name in ("quantization_config", "disable_mmap", "adapter_name") if given.get(name)]
    if asked:
        raise UsageError(
            f"{', '.join(asked)}: only models that uncrate runs itself take it",
            next="leave it out, or open the checkpoint with transformers",
        )
    opened = carry_out(plan)
    assert isinstance(opened, OpenedForeign)
    device_map = given.get("device_map")
    if device_map is not None and placement.one_device(device_map) is None:
        placement.dispatch(opened.model, device_map, given)
    _replace_generation(opened.model, given)
    filled = opened.filled
    warn_of_new(filled.initialised, stacklevel=4)
    return _with_info(opened.model, given, set(filled.initialised), {*filled.unexpected, *filled.ignored})


def _replace_generation(model: Any, given: Given) -> None:
    wanted = given.get("generation_config")
    if wanted is None:
        return
    if not isinstance(wanted, GenerationConfig):
        raise UsageError(f"generation_config is a {type(wanted).__name__}", next="give a GenerationConfig")
    if model.can_generate():
        model.generation_config = copy.deepcopy(wanted)


def _with_info(model: Any, given: Given, missing: set[str], unexpected: set[str]) -> Any:
    """Add what transformers calls loading info; a sound plan has neither mismatched keys nor errors."""
    if not given.get("output_loading_info"):
        return model
    info = {"missing_keys": missing, "unexpected_keys": unexpected, "mismatched_keys": set(), "error_msgs": []}
    return model, info
