"""Each shim by itself: a few lines of old code that work with it and fail without it."""

# ruff: noqa: E501

from __future__ import annotations

import textwrap

import pytest
import torch
from runtime.custom.closures import digest

from uncrate.checkpoint.legacy import likely
from uncrate.errors import UncrateError
from uncrate.runtime.compat import SHIMS, make_hooks
from uncrate.runtime.custom_code import load_module, register_closure

CONFIG = """
    from transformers import PretrainedConfig, PreTrainedModel
    import torch
    from torch import nn

    class Config(PretrainedConfig):
        model_type = "small"

        def __init__(self, vocab_size=8, hidden_size=4, **kwargs):
            self.vocab_size = vocab_size
            self.hidden_size = hidden_size
            super().__init__(**kwargs)
"""
MODEL = (
    CONFIG
    + """
    class Base(PreTrainedModel):
        config_class = Config
        base_model_prefix = "model"

    class Model(Base):
        def __init__(self, config):
            super().__init__(config)
            self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

        def get_input_embeddings(self):
            return self.embed
"""
)
GENERATE = (
    CONFIG
    + """
    from transformers.modeling_outputs import CausalLMOutputWithPast
    seen = []

    class Base(PreTrainedModel):
        config_class = Config

    class Model(Base):
        def __init__(self, config):
            super().__init__(config)
            self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
            self.post_init()

        def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, return_dict=None):
            seen.append((attention_mask, position_ids, past_key_values))
            x = self.embed(input_ids)
            return CausalLMOutputWithPast(logits=x @ self.embed.weight.T, past_key_values=((x, x),) if use_cache else None)

        def prepare_inputs_for_generation(self, input_ids, past_key_values=None, attention_mask=None, position_ids=None, **kwargs):
            return {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids,
                    "past_key_values": past_key_values, "use_cache": kwargs.get("use_cache")}

    def run(**options):
        model = Model(Config(pad_token_id=0, eos_token_id=None)).eval()
        return model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=2, do_sample=False, **options)
"""
)
TOKENIZER = """
    from transformers import PreTrainedTokenizer

    class Letters(PreTrainedTokenizer):
        def __init__(self, **kwargs):
            super().__init__(unk_token="?", **kwargs)
            self.letters = "?ab"

        @property
        def vocab_size(self):
            return len(self.letters)

        def get_vocab(self):
            return {letter: at for at, letter in enumerate(self.letters)}

        def _tokenize(self, text):
            return list(text)

        def _convert_token_to_id(self, token):
            return max(self.letters.find(token), 0)

        def _convert_id_to_token(self, index):
            return self.letters[index]

        def convert_tokens_to_string(self, tokens):
            return "".join(tokens)
"""
# Shim: (code that comes before, the body of check()).
SNIPPETS: dict[str, tuple[str, str]] = {
    "removed_names": (
        """
        from transformers.utils import is_torch_fx_available, add_code_sample_docstrings
        from transformers.utils.model_parallel_utils import get_device_map
        from transformers.generation_utils import GenerationMixin
        from transformers import top_k_top_p_filtering
        """,
        "return get_device_map(4, range(2)) == {0: [0, 1], 1: [2, 3]} and not is_torch_fx_available()",
    ),
    "mask_helpers": (
        "import torch, warnings\nfrom transformers.modeling_attn_mask_utils import _prepare_4d_causal_attention_mask as make",
        """
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mask = make(torch.tensor([[0, 1, 1]]), (1, 3), torch.zeros(1, 3, 2), 0)
        return (mask == 0).tolist() == [[[[False] * 3, [False, True, False], [False, True, True]]]]
        """,
    ),
    "removed_attention_classes": (
        """
        from transformers.models.llama.modeling_llama import LLAMA_ATTENTION_CLASSES, LlamaSdpaAttention
        from transformers.models.mistral.modeling_mistral import MISTRAL_ATTENTION_CLASSES, MistralSdpaAttention
        """,
        'return LLAMA_ATTENTION_CLASSES["eager"] is LlamaSdpaAttention and MISTRAL_ATTENTION_CLASSES["sdpa"] is MistralSdpaAttention',
    ),
    "llama_attention_v4": (
        """
        import torch
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
        """,
        """
        self = type("Layer", (), {})()
        self.self_attn = LlamaAttention(LlamaConfig(hidden_size=8, num_attention_heads=2, num_key_value_heads=1), 0)
        x = torch.ones(1, 3, 8)
        out, weights, cache = self.self_attn(hidden_states=x, position_ids=torch.arange(3)[None], output_attentions=True)
        cos, sin = LlamaRotaryEmbedding(4)(x, seq_len=3)
        return out.shape == x.shape and weights.shape == (1, 2, 3, 3) and cache is None and cos.shape == (3, 4)
        """,
    ),
    "rope_init_default": (
        CONFIG + "\n    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS\n",
        """
        config = Config(hidden_size=16, num_attention_heads=2, rope_theta=100.0)
        freq, factor = ROPE_INIT_FUNCTIONS["default"](config, None)
        return torch.allclose(freq, 100.0 ** -(torch.arange(0, 8, 2) / 8)) and factor == 1.0
        """,
    ),
    "private_tables": (
        "from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS\nALL_LAYERNORM_LAYERS.append(int)",
        """
        import sys
        return int not in sys.modules["transformers.pytorch_utils"].ALL_LAYERNORM_LAYERS
        """,
    ),
    "private_auto_classes": (
        MODEL + "\n    from transformers import AutoConfig, AutoModelForCausalLM\n"
        '    AutoConfig.register("small", Config)\n    AutoModelForCausalLM.register(Config, Model)\n',
        """
        import sys
        shared = sys.modules["transformers.models.auto.modeling_auto"].MODEL_FOR_CAUSAL_LM_MAPPING
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model("small", hidden_size=6))
        return type(made) is Model and made.config.hidden_size == 6 and Config not in shared
        """,
    ),
    "config_old_defaults": (
        CONFIG,
        """
        config = Config()
        return (config.max_length, config.pad_token_id, config.is_decoder, config.use_cache, config.torchscript) == (
            20, None, False, True, False) and not hasattr(config, "nonsense") and "max_length" not in config.to_dict()
        """,
    ),
    "config_generation_values": (
        CONFIG,
        """
        config = Config(num_beams=3, use_cache=False, forced_bos_token_id=7)
        kept = (config.num_beams, config.use_cache, config.forced_bos_token_id) == (3, False, 7)
        return kept and config.to_dict()["num_beams"] == 3
        """,
    ),
    "rope_scaling_legacy": (
        CONFIG,
        """
        plain, scaled = Config(rope_scaling=None, rope_theta=5.0), Config(rope_scaling={"type": "linear", "factor": 2.0})
        return (plain.rope_scaling is None and plain.rope_theta == 5.0 and scaled.rope_scaling["type"] == "linear"
                and plain.rope_parameters["rope_theta"] == 5.0 and scaled.to_dict()["rope_scaling"]["factor"] == 2.0)
        """,
    ),
    "config_plain_class": (
        CONFIG
        + """
    class Sub(Config):
        model_type = "sub"
        names: list = ["a"]

        def __init__(self, extra=5, **kwargs):
            self.extra = extra
            super().__init__(**kwargs)

    class SubSub(Sub):
        model_type = "subsub"
    """,
        """
        made = SubSub(hidden_size=6, layer_types=["mine"], num_hidden_layers=7)
        return (made.hidden_size, made.extra, made.layer_types) == (6, 5, ["mine"]) and made == SubSub(
            hidden_size=6, layer_types=["mine"], num_hidden_layers=7) and made != SubSub(hidden_size=8)
        """,
    ),
    "legacy_config_facade": (
        "from transformers import LlamaConfig",
        """
        import pickle
        import sys
        made = LlamaConfig(rope_theta=77.0)
        real = sys.modules["transformers"].LlamaConfig
        again = pickle.loads(pickle.dumps(made))
        return (made.rope_theta == again.rope_theta == 77.0 and made.rope_scaling is None and isinstance(made, real)
                and isinstance(real(), LlamaConfig) and not hasattr(real(), "torchscript"))
        """,
    ),
    "unfinished_init": (MODEL, "return Model(Config()).all_tied_weights_keys == {}"),
    "no_generic_init": (
        MODEL
        + """
    class MyRotaryEmbedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.rope_type = "default"
            self.register_buffer("inv_freq", torch.ones(2), persistent=False)
            self.original_inv_freq = self.inv_freq

    class Rotating(Base):
        def __init__(self, config):
            super().__init__(config)
            self.rotary = MyRotaryEmbedding()
            self.post_init()
    """,
        "return Rotating(Config()).rotary.inv_freq.tolist() == [1.0, 1.0]",
    ),
    "tied_keys_list": (
        MODEL
        + """
    class Tied(Model):
        _tied_weights_keys = ["head.weight"]

        def __init__(self, config):
            super().__init__(config)
            self.post_init()

        def get_output_embeddings(self):
            return self.head

        def tie_weights(self):
            self._tie_or_clone_weights(self.head, self.embed)
    """,
        "made = Tied(Config())\n        return made.head.weight is made.embed.weight",
    ),
    "head_mask_methods": (
        MODEL,
        """
        model = Model(Config())
        low = torch.finfo(torch.float32).min
        mask = model.get_extended_attention_mask(torch.tensor([[1, 0]]), (1, 2))
        model.config.is_decoder = True
        causal = model.get_extended_attention_mask(torch.tensor([[1, 1]]), (1, 2))
        return (model.get_head_mask(None, 2) == [None, None] and mask.tolist() == [[[[0.0, low]]]]
                and causal.tolist() == [[[[0.0, low], [0.0, 0.0]]]]
                and model.invert_attention_mask(torch.tensor([[1, 0]])).tolist() == [[[[0.0, low]]]]
                and model.get_head_mask(torch.ones(3), 2).shape == (2, 1, 3, 1, 1))
        """,
    ),
    "removed_model_methods": (
        MODEL,
        "config = Config()\n        return Model._autoset_attn_implementation(config) is config",
    ),
    "support_flags_property": (
        MODEL
        + """
    class Inner(Model):
        _supports_sdpa = True

    class Flagged(Base):
        def __init__(self, config):
            super().__init__(config)
            self.inner = Inner(config)

        @property
        def _supports_sdpa(self):
            return self.inner._supports_sdpa
    """,
        "made = Flagged(Config())\n        return made._supports_sdpa",
    ),
    "class_annotations": (
        MODEL + '\n    class Annotated(Base):\n        tokenizer: "NowhereToBeFound"\n',
        "return Annotated.config_class is Config",
    ),
    "generation_mixin_nested": (GENERATE, "return run().shape == (1, 5)"),
    "generate_old_inputs": (
        GENERATE,
        """
        run()
        mask, positions, past = seen[0]
        return mask.tolist() == [[1, 1, 1]] and positions is None
        """,
    ),
    "legacy_tuple_cache": (GENERATE, "run()\n        return seen[0][2] is None and isinstance(seen[1][2], tuple)"),
    "extract_past": (
        GENERATE
        + """
    class Extracting(Model):
        def both(self, outputs):
            name, past = self._extract_past_from_model_output(outputs)
            alone = self._extract_past_from_model_output(outputs, standardize_cache_format=False)
            direct = self._extract_past_from_model_output(outputs)
            return name, past, alone, direct
    """,
        """
        given = CausalLMOutputWithPast(logits=torch.ones(1), past_key_values=((1,),))
        return Extracting(Config()).both(given) == ("past_key_values", ((1,),), ((1,),), ((1,),))
        """,
    ),
    "generation_config_none": (
        GENERATE,
        """
        config = Model(Config()).generation_config
        return (config.num_beams, config.do_sample, config.use_cache, config.max_length) == (1, False, True, 20)
        """,
    ),
    "removed_generation_methods": (
        GENERATE,
        """
        model = Model(Config(pad_token_id=0))
        return len(model._get_logits_warper(model.generation_config)) == 0
        """,
    ),
    "cache_legacy_api": (
        "import torch\nfrom transformers.cache_utils import DynamicCache",
        """
        key = torch.ones(1, 2, 3, 4)
        cache = DynamicCache.from_legacy_cache(((key, key),))
        return (cache.seen_tokens == 3 and cache.get_usable_length(1) == 3 and cache.get_max_length() is None
                and torch.equal(cache[0][0], key) and torch.equal(cache.key_cache[0], key)
                and torch.equal(cache.to_legacy_cache()[0][1], key) and len(cache) == 1)
        """,
    ),
    "tokenizer_late_vocabulary": (TOKENIZER, 'return Letters().encode("ab?c") == [1, 2, 0, 0]'),
    "tokenizer_old_methods": (
        TOKENIZER,
        """
        made = Letters(additional_special_tokens=["<x>"])
        return made.encode_plus("ab")["input_ids"] == [1, 2] and made.additional_special_tokens == ["<x>"]
        """,
    ),
    "tokenizer_old_signatures": (
        TOKENIZER
        + """
    class Padded(Letters):
        do_lower_case = True

        def _pad(self, encoded_inputs, max_length=None, padding_strategy=None, pad_to_multiple_of=None, return_attention_mask=None):
            side = [9] if self.padding_side == "left" else []
            encoded_inputs["input_ids"] = side + encoded_inputs["input_ids"]
            return encoded_inputs

        def tokenize(self, text, **kwargs):
            assert not kwargs, kwargs
            return super().tokenize(text)
    """,
        'made = Padded()\n        return made("AB", padding_side="left")["input_ids"] == [9, 1, 2]',
    ),
    "tokenizer_property_errors": (
        TOKENIZER
        + """
    class Broken(Letters):
        @property
        def late(self):
            return self.nothing_here
    """,
        'return not hasattr(Broken(), "late")',
    ),
    "sentencepiece_extractor": (
        "from transformers.convert_slow_tokenizer import SentencePieceExtractor",
        """
        made = SentencePieceExtractor.__new__(SentencePieceExtractor)
        piece = type("Piece", (), {"piece": "a", "score": 0.0})
        made.proto = type("Proto", (), {"pieces": [piece]})()
        return made.extract([("a", 0.0)]) == ({"a": 0}, [])
        """,
    ),
    "processor_attributes": (
        TOKENIZER
        + """
    from transformers import ProcessorMixin

    class Processor(ProcessorMixin):
        attributes = ["tokenizer"]
        tokenizer_class = "Letters"

        def __init__(self, tokenizer=None, chat_template=None):
            super().__init__(tokenizer, chat_template=chat_template)
    """,
        "held = object()\n        return Processor(held).tokenizer is held",
    ),
}
# Told by whole checkpoints elsewhere: a fast tokenizer needs its files.
ELSEWHERE = {"fast_tokenizer_converter"}


def run(name: str, shims: tuple) -> bool:
    setup, body = SNIPPETS[name]
    check = "def check():\n" + textwrap.indent(
        textwrap.dedent("        " + body.strip("\n ") if "\n" in body else body), "    "
    )
    source = textwrap.dedent(setup).strip() + "\n\n\n" + check + f"\n# {len(shims)} {name}\n"
    files = {"m.py": source.encode()}
    closure = register_closure(digest(files), files)
    closure._hooks["made"] = make_hooks(closure.hash, [source], shims=shims)
    with torch.no_grad():
        return bool(load_module(closure, "m").check())


def test_every_shim_is_told():
    assert {shim.name for shim in SHIMS} == SNIPPETS.keys() | ELSEWHERE
    assert len({shim.name for shim in SHIMS}) == len(SHIMS)
    for shim in SHIMS:
        assert shim.restores and shim.removed_in


@pytest.mark.parametrize("name", SNIPPETS)
def test_with_and_without(name):
    assert run(name, SHIMS)
    try:
        alone = run(name, tuple(shim for shim in SHIMS if shim.name != name))
    except (
        UncrateError,
        AttributeError,
        TypeError,
        ValueError,
        KeyError,
        NotImplementedError,
        AssertionError,
        ImportError,
        FutureWarning,
    ):
        return
    assert not alone, f"{name} changes nothing here"


def test_likely_shims_are_told_from_text():
    names = {
        shim.name for shim in likely(["class A(PreTrainedModel):\n    def f(self): self.get_head_mask(None, 2)\n"])
    }
    assert "head_mask_methods" in names and "cache_legacy_api" not in names
    assert likely(["x = 1\n"]) == ()
