"""A plain decoder of 2023, and a second config that only renames it."""

# ruff: noqa

from transformers.configuration_utils import PretrainedConfig

WIDE_PRETRAINED_CONFIG_ARCHIVE_MAP = {}


class WideConfig(PretrainedConfig):
    model_type = "wide"
    keys_to_ignore_at_inference: list = ["past_key_values"]

    def __init__(
        self,
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_theta=10000.0,
        rope_scaling=None,
        use_cache=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        self.use_cache = use_cache
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )


class WiderConfig(WideConfig):
    model_type = "wider"
