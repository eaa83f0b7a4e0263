"""A decoder of 2021: GPT-2's names behind an attribute map, an export config nobody uses."""

# ruff: noqa

from collections import OrderedDict

from transformers.configuration_utils import PretrainedConfig
from transformers.onnx import OnnxConfigWithPast, PatchingSpec  # noqa: F401


class HeadMaskConfig(PretrainedConfig):
    model_type = "headmask"
    attribute_map = {
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def __init__(self, vocab_size=64, n_positions=48, n_embd=16, n_head=4, n_layer=2, alibi=False, **kwargs):
        self.vocab_size = vocab_size
        self.n_positions = n_positions
        self.n_embd = n_embd
        self.n_head = n_head
        self.n_layer = n_layer
        self.alibi = alibi
        super().__init__(bos_token_id=1, eos_token_id=2, **kwargs)


class HeadMaskOnnxConfig(OnnxConfigWithPast):
    inputs = OrderedDict()
