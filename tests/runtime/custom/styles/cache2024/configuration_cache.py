"""A decoder of early 2024; it has a sliding window that its masks do not use."""

# ruff: noqa

from transformers import PretrainedConfig


class CacheConfig(PretrainedConfig):
    model_type = "cache"

    def __init__(
        self,
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        sliding_window=2,
        rope_scaling=None,
        partial_rotary_factor=0.5,
        initializer_range=0.02,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.sliding_window = sliding_window
        self.initializer_range = initializer_range
        self.rope_scaling = rope_scaling
        self.partial_rotary_factor = partial_rotary_factor
        super().__init__(tie_word_embeddings=False, **kwargs)
