"""Which generation a published config.json belongs to, and that its whole key set is read.

The sizes and keys are those of the files on the hub; what tells generations apart is often the absence of a key.
"""

from __future__ import annotations

import pytest

from uncrate.errors import ConfigError
from uncrate.families.chatglm import claims, read_config

SECOND = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "use_cache": True,
    "torch_dtype": "float16",
    "transformers_version": "4.27.1",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
THIRD = SECOND | {"classifier_dropout": None, "pre_seq_len": None, "prefix_projection": False, "quantization_bit": 0}
FOURTH = SECOND | {
    "classifier_dropout": None,
    "eos_token_id": [151329, 151336, 151338],
    "layernorm_epsilon": 1.5625e-07,
    "num_layers": 40,
    "pad_token_id": 151329,
    "padded_vocab_size": 151552,
    "rope_ratio": 500,
    "seq_length": 131072,
}
VISION = {
    "dropout_prob": 0.0,
    "hidden_act": "gelu",
    "in_channels": 3,
    "num_hidden_layers": 63,
    "hidden_size": 1792,
    "patch_size": 14,
    "num_heads": 16,
    "intermediate_size": 15360,
    "layer_norm_eps": 1e-06,
    "num_positions": 6401,
    "image_size": 1120,
    "scaling_factor": 8,
}


def named(name, config, **changes):
    return pytest.param(config | changes | {"_name_or_path": name}, id=name)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(SECOND, id="no name"),
        named("THUDM/chatglm2-6b", SECOND),
        named("THUDM/chatglm2-6b", THIRD),  # saved again by a later transformers
        named("THUDM/chatglm2-6b-32k", SECOND, rope_ratio=50),
        named("THUDM/codegeex2-6b", SECOND, interleaved_qkv=False, rotary_percent=0.5, quantization_bit=0),
    ],
)
def test_second_generation(config):
    assert claims(config) == read_config(config).generation == "ChatGLM2"


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(THIRD, id="no name"),
        named("THUDM/chatglm3-6b", THIRD),
        named("THUDM/chatglm3-6b-base", SECOND),
        named("THUDM/chatglm3-6b-32k", SECOND, rope_ratio=50),
        named("zai-org/chatglm3-6b-128k", THIRD, rope_ratio=500, seq_length=131072),
        named("/models/glm-4-and-others/chatglm3-6b", THIRD),
    ],
)
def test_third_generation(config):
    typed = read_config(config)
    assert claims(config) == typed.generation == "ChatGLM3" and not typed.positions_interpolated


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(FOURTH, id="no name"),
        named("THUDM/glm-4-9b", FOURTH),
        named("THUDM/glm-4-9b-chat", FOURTH),
        named("THUDM/glm-4-9b-chat-1m", FOURTH, rope_ratio=10000, seq_length=1048576, multi_query_group_num=4),
        named("THUDM/codegeex4-all-9b", FOURTH),
    ],
)
def test_fourth_generation_text(config):
    typed = read_config(config)
    assert claims(config) == typed.generation == "GLM-4" and typed.vision is None
    assert typed.eos_token_ids == (151329, 151336, 151338)


def test_fourth_generation_vision():
    config = FOURTH | {"boi_token_id": 151339, "eoi_token_id": 151340, "seq_length": 8192, "vision_config": VISION}
    typed = read_config(config)
    assert claims(config) == typed.generation == "GLM-4V"
    assert typed.vision is not None and (typed.vision.grid, typed.vision.image_tokens) == (80, 1600)


def test_packed_weights_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"/quantization_bit: is 4: weights packed .* are not read"):
        read_config(SECOND | {"_name_or_path": "THUDM/chatglm2-6b-int4", "quantization_bit": 4})
