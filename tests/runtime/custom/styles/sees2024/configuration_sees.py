"""A vision-language model of 2024: configs inside a config, registered with the Auto classes."""

# ruff: noqa

from transformers import AutoConfig, CLIPVisionConfig, PretrainedConfig


class SeesTextConfig(PretrainedConfig):
    model_type = "sees_text"

    def __init__(self, vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        super().__init__(**kwargs)


class SeesConfig(PretrainedConfig):
    model_type = "sees"
    is_composition = True

    def __init__(self, text_config=None, vision_config=None, **kwargs):
        small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        small |= {"image_size": 8, "patch_size": 4}
        self.vision_config = CLIPVisionConfig(**{**small, **(vision_config or {})})
        self.text_config = SeesTextConfig(**(text_config or {}))
        super().__init__(**kwargs)

    def to_dict(self):
        output = super().to_dict()
        output["text_config"] = self.text_config.to_dict()
        return output


AutoConfig.register("sees_text", SeesTextConfig)
