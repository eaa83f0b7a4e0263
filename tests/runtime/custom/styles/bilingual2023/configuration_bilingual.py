"""A bilingual chat model of mid 2023: its own names for sizes, nothing passed to the base class but what is left."""

# ruff: noqa

from transformers import PretrainedConfig


class BilingualConfig(PretrainedConfig):
    model_type = "bilingual"

    def __init__(
        self,
        num_layers=2,
        padded_vocab_size=64,
        hidden_size=16,
        ffn_hidden_size=24,
        num_attention_heads=4,
        seq_length=64,
        layernorm_epsilon=1e-5,
        **kwargs,
    ):
        self.num_layers = num_layers
        self.vocab_size = padded_vocab_size
        self.padded_vocab_size = padded_vocab_size
        self.hidden_size = hidden_size
        self.ffn_hidden_size = ffn_hidden_size
        self.num_attention_heads = num_attention_heads
        self.seq_length = seq_length
        self.layernorm_epsilon = layernorm_epsilon
        super().__init__(**kwargs)
