"""Names and modules that left transformers, given back to a checkpoint's imports."""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type"

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable
from typing import Any

from uncrate.errors import CodeError
from uncrate.runtime.compat.hooks import Hooks

# Modules that moved: their old name answers with the new one.
MOVED = {
    "transformers.generation_utils": "transformers.generation.utils",
    "transformers.generation_logits_process": "transformers.generation.logits_process",
    "transformers.generation_stopping_criteria": "transformers.generation.stopping_criteria",
    "transformers.deepspeed": "transformers.integrations.deepspeed",
    "transformers.modeling_bert": "transformers.models.bert.modeling_bert",
    "transformers.modeling_gpt2": "transformers.models.gpt2.modeling_gpt2",
    "transformers.configuration_bert": "transformers.models.bert.configuration_bert",
    "transformers.tokenization_bert": "transformers.models.bert.tokenization_bert",
    "transformers.tokenization_utils": "transformers.tokenization_python",
    "transformers.tokenization_utils_fast": "transformers.tokenization_utils_tokenizers",
    "transformers.utils.args_doc": "transformers.utils.auto_docstring",
    "transformers.models.bert.tokenization_bert_fast": "transformers.models.bert.tokenization_bert",
    "transformers.models.llama.tokenization_llama_fast": "transformers.models.llama.tokenization_llama",
    "transformers.models.gpt2.tokenization_gpt2_fast": "transformers.models.gpt2.tokenization_gpt2",
    "transformers.models.qwen2.tokenization_qwen2_fast": "transformers.models.qwen2.tokenization_qwen2",
    "transformers.models.t5.tokenization_t5_fast": "transformers.models.t5.tokenization_t5",
    "transformers.models.roberta.tokenization_roberta_fast": "transformers.models.roberta.tokenization_roberta",
    "transformers.models.xlm_roberta.tokenization_xlm_roberta_fast": (
        "transformers.models.xlm_roberta.tokenization_xlm_roberta"
    ),
    "transformers.models.bart.tokenization_bart_fast": "transformers.models.bart.tokenization_bart",
}

# Classes of 4.x that nothing replaces: they may be imported and compared with, not made.
GONE = [
    "Constraint",
    "DisjunctiveConstraint",
    "PhrasalConstraint",
    "ConstraintListState",
    "BeamScorer",
    "BeamSearchScorer",
    "ConstrainedBeamSearchScorer",
    "BeamHypotheses",
    "HammingDiversityLogitsProcessor",
    "ForceTokensLogitsProcessor",
    "MaxNewTokensCriteria",
    "SQuADHead",
    "PoolerStartLogits",
    "PoolerEndLogits",
    "PoolerAnswerClass",
    "Conversation",
    "ConversationalPipeline",
    "AdamW",
    "Adafactor",
    "MambaCache",
    "HybridCache",
    "OffloadedCache",
    "OffloadedStaticCache",
    "QuantoQuantizedCache",
    "HQQQuantizedCache",
    "SlidingWindowCache",
    "CacheConfig",
    "QuantizedCacheConfig",
    "StaticCacheConfig",
]

# Output classes that were merged into one.
OUTPUTS = {
    "Generate{0}Output": ("GreedySearch{0}Output", "Sample{0}Output", "ContrastiveSearch{0}Output"),
    "GenerateBeam{0}Output": ("BeamSearch{0}Output", "BeamSample{0}Output"),
}

# Decorators that only write documentation; those still there are stricter than they were.
DOCUMENTATION = (
    "add_code_sample_docstrings",
    "add_start_docstrings",
    "add_start_docstrings_to_model_forward",
    "add_start_docstrings_to_callable",
    "add_end_docstrings",
    "replace_return_docstrings",
    "replace_list_option_in_docstrings",
)

# Where names that a module only passed on are at home.
HOMES = (
    ".utils",
    ".modeling_outputs",
    ".tokenization_utils_base",
    ".image_utils",
    ".video_utils",
    ".processing_utils",
    ".generation.utils",
    ".pytorch_utils",
)

_AVAILABLE = re.compile(r"is_\w+_availa?ble")
_TEXT = re.compile(r"[A-Z0-9_]+_(DOCSTRING|SAMPLE|IMPORT_ERROR)")
_ARCHIVE = re.compile(r"[A-Z0-9_]+_PRETRAINED_(CONFIG_ARCHIVE_MAP|MODEL_ARCHIVE_LIST|MODEL_ARCHIVE_MAP)")
_TORCH_AT_LEAST = re.compile(r"is_torch_(greater_or_equal_than|less_than)_(\d+)_(\d+)(_\d+)?")


def decorator_of_nothing(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """Stand for a decorator that wrote documentation: the decorated object comes back as it is."""

    def unchanged(decorated: Any) -> Any:
        return decorated

    return unchanged


def _gone(name: str) -> type:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        raise CodeError(f"the checkpoint's code makes a {name}, which was removed from transformers")

    return type(name, (), {"__init__": __init__, "__module__": __name__})


def _unavailable(*args: Any, **kwargs: Any) -> bool:
    return False


def _installed(package: str) -> Callable[..., bool]:
    def available(*args: Any, **kwargs: Any) -> bool:
        return importlib.util.find_spec(package) is not None

    return available


def removed_names(hooks: Hooks) -> None:
    """Give removed names and modules back."""
    from uncrate.runtime.compat import torch_helpers

    hooks.modules.update(MOVED)
    hooks.modules["transformers.utils.model_parallel_utils"] = {
        "assert_device_map": lambda: torch_helpers.assert_device_map,
        "get_device_map": lambda: torch_helpers.get_device_map,
    }
    gone = {name: (lambda name=name: _gone(name)) for name in GONE}
    hooks.modules["transformers.generation.beam_search"] = {
        name: gone[name] for name in GONE if "Beam" in name or "Constraint" in name
    }
    hooks.modules["transformers.generation_beam_search"] = hooks.modules["transformers.generation.beam_search"]
    hooks.modules["transformers.generation.beam_constraints"] = {
        name: gone[name] for name in GONE if "Constraint" in name
    }
    hooks.modules["transformers.onnx"] = dict.fromkeys(
        ("OnnxConfig", "OnnxConfigWithPast", "OnnxSeq2SeqConfigWithPast", "PatchingSpec"), _onnx_class
    )
    hooks.modules["transformers.onnx.utils"] = {
        "compute_effective_axis_dimension": lambda: torch_helpers.compute_effective_axis_dimension
    }
    hooks.modules["transformers.utils.fx"] = {"symbolic_trace": lambda: _unavailable}
    for name in DOCUMENTATION:
        hooks.replace[("transformers.utils.doc", name)] = lambda real: decorator_of_nothing
    hooks.add_names("", **gone)
    hooks.add_names("", **_everywhere())
    for new, olds in OUTPUTS.items():
        for kind in ("DecoderOnly", "EncoderDecoder"):
            factory = _output_class(new.format(kind))
            hooks.add_names("", **{old.format(kind): factory for old in olds})
    for old in ("GreedySearchOutput", "SampleOutput", "ContrastiveSearchOutput"):
        hooks.add_names("", **{old: _output_class("GenerateDecoderOnlyOutput")})
    for old in ("BeamSearchOutput", "BeamSampleOutput"):
        hooks.add_names("", **{old: _output_class("GenerateBeamDecoderOnlyOutput")})
    hooks.guess.extend([_guess_by_form, _guess_by_home])


def _everywhere() -> dict[str, Callable[[], Any]]:
    from uncrate.runtime.compat import torch_helpers

    made: dict[str, Callable[[], Any]] = {
        name: lambda: decorator_of_nothing for name in (*DOCUMENTATION, "deprecate_kwarg")
    }
    for name in torch_helpers.GIVEN_BACK:
        made[name] = lambda name=name: getattr(torch_helpers, name)
    made["is_torch_available"] = lambda: lambda: True
    made["is_safetensors_available"] = made["is_torch_available"]
    made["cached_property"] = lambda: importlib.import_module("functools").cached_property
    made["LossKwargs"] = lambda: importlib.import_module("transformers.utils").TransformersKwargs
    made["FlashAttentionKwargs"] = lambda: (
        importlib.import_module("transformers.modeling_flash_attention_utils").FlashAttentionKwargs
    )
    made["LogitsWarper"] = lambda: importlib.import_module("transformers.generation.logits_process").LogitsProcessor
    made["SpecialTokensMixin"] = lambda: type("SpecialTokensMixin", (), {"__module__": __name__})
    return made


def _output_class(name: str) -> Callable[[], Any]:
    return lambda: getattr(importlib.import_module("transformers.generation.utils"), name)


def _onnx_class() -> type:
    # Only ever a base class beside the config class; nothing here exports.
    return type("OnnxConfig", (), {"__module__": __name__})


def _guess_by_form(module: str, name: str) -> Any:
    """Answer names whose form tells what they were: documentation, archive lists, availability and version checks."""
    if _TEXT.fullmatch(name):
        return ""
    if (archive := _ARCHIVE.fullmatch(name)) is not None:
        return [] if archive.group(1).endswith("LIST") else {}
    if (check := _TORCH_AT_LEAST.fullmatch(name)) is not None:
        return check.group(1) == "greater_or_equal_than"
    if name.startswith("is_flash_attn_"):
        return _unavailable
    if _AVAILABLE.fullmatch(name):
        package = re.sub(r"^is_|_availa?ble$", "", name)
        return _installed(package) if package.isidentifier() else _unavailable
    return None


def _guess_by_home(module: str, name: str) -> Any:
    """Answer a name that a module only passed on: it is looked up where it lives."""
    import torch

    if name.endswith("FeatureExtractor"):
        name = f"{name.removesuffix('FeatureExtractor')}ImageProcessor"
    for home in ("", *HOMES):
        place = importlib.import_module(f"transformers{home}")
        try:
            found = getattr(place, name)
        except (AttributeError, ImportError):
            continue
        return found
    for place in (importlib.import_module("typing"), torch.nn, torch):
        if hasattr(place, name):
            return getattr(place, name)
    if name in ("os", "re", "json", "copy", "math", "warnings", "itertools", "functools", "dataclasses", "unicodedata"):
        return importlib.import_module(name)
    if name == "F":
        return torch.nn.functional
    return None


def private_tables(hooks: Hooks) -> None:
    """Copy the tables that checkpoints write to, so that they write to their own."""
    shared = {
        ("transformers.convert_slow_tokenizer", "SLOW_TO_FAST_CONVERTERS"),
        ("transformers.pytorch_utils", "ALL_LAYERNORM_LAYERS"),
        ("transformers.activations", "ACT2FN"),
        ("transformers.activations", "ACT2CLS"),
    }
    copies: dict[tuple[str, str], Any] = {}
    for key in shared:

        def copied(real: Any, key: tuple[str, str] = key) -> Any:
            return copies.setdefault(key, copy.copy(real))

        hooks.replace[key] = copied
