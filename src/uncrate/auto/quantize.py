"""quantization_config: transformers' own quantizers over the tensors of the road."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from uncrate.errors import MissingPackage, UsageError, escape
from uncrate.models.chatglm.hf import ChatGLMConfig, ChatGLMPreTrainedModel

# What each method runs on; the names transformers gives the methods.
PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum",
    "eetq": "eetq",
    "fbgemm_fp8": "fbgemm_gpu",
    "compressed-tensors": "compressed_tensors",
}


def method_of(config: Any) -> str:
    """Return the method of a quantization_config. Raises UsageError for what is none, MissingPackage."""
    value = config.get("quant_method") if isinstance(config, Mapping) else getattr(config, "quant_method", None)
    if isinstance(config, Mapping) and value is None and {"load_in_4bit", "load_in_8bit"} & set(config):
        value = "bitsandbytes"
    name = str(getattr(value, "value", value))
    if value is None:
        raise UsageError("quantization_config names no quant_method", next="give a BitsAndBytesConfig or TorchAoConfig")
    package = PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise MissingPackage(
            f"quantization_config asks for {escape(name)}, which is not installed",
            next=f"pip install {package}, or leave quantization_config out",
        )
    return name


def build_quantized(
    cls: type[ChatGLMPreTrainedModel],
    config: ChatGLMConfig,
    tensors: Mapping[str, Tensor],
    quantization: Any,
    *,
    dtype: Any,
    device_map: Any,
) -> ChatGLMPreTrainedModel:
    """Return the model with its linear layers quantized by transformers from these tensors."""
    return cls.from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        quantization_config=quantization,
        dtype=dtype,
        device_map=device_map,
    )
