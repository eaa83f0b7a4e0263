"""Facts about the ChatGLM family, without torch: its config, its tensors and their shapes.

Four generations call themselves `chatglm`. ChatGLM2, ChatGLM3 and GLM-4 share one decoder; GLM-4V adds a vision tower.
The first generation (ChatGLM-6B) is another architecture and is not claimed.
Sources: the config.json files and model code published with THUDM/chatglm2-6b, chatglm3-6b, glm-4-9b and glm-4v-9b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uncrate.families.fields import MOST_LAYERS, Fields

Shape = tuple[int, ...]

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu")

# Stored beside the weights by the original code, which computes it again from the config: never a parameter.
INV_FREQ = "transformer.rotary_pos_emb.inv_freq"


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower's sizes; `grid` is patches a side, `image_tokens` the positions a picture takes between begin
    and end.
    """

    hidden_size: int
    num_hidden_layers: int
    num_heads: int
    intermediate_size: int
    in_channels: int
    image_size: int
    patch_size: int
    num_positions: int
    layer_norm_eps: float
    hidden_act: str
    dropout_prob: float
    scaling_factor: float

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        return (self.grid // 2) ** 2


@dataclass(frozen=True, kw_only=True)
class ChatGLMConfig:
    """config.json of a ChatGLM2, ChatGLM3, GLM-4 or GLM-4V, every field with the original configuration's meaning."""

    generation: str
    num_layers: int
    padded_vocab_size: int
    hidden_size: int
    ffn_hidden_size: int
    kv_channels: int
    num_attention_heads: int
    seq_length: int
    layernorm_epsilon: float
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float | None
    num_labels: int
    rmsnorm: bool
    apply_residual_connection_post_layernorm: bool
    post_layer_norm: bool
    add_bias_linear: bool
    add_qkv_bias: bool
    multi_query_attention: bool
    multi_query_group_num: int
    rope_ratio: float
    original_rope: bool
    apply_query_key_layer_scaling: bool
    attention_softmax_in_fp32: bool
    bias_dropout_fusion: bool
    fp32_residual_connection: bool
    pre_seq_len: int | None
    prefix_projection: bool
    quantization_bit: int
    use_cache: bool
    boi_token_id: int | None
    eoi_token_id: int | None
    pad_token_id: int | None
    eos_token_ids: tuple[int, ...]
    vision: VisionConfig | None

    @property
    def kv_groups(self) -> int:
        """Key and value heads."""
        return self.multi_query_group_num if self.multi_query_attention else self.num_attention_heads

    @property
    def attention_size(self) -> int:
        """Width of all query heads together."""
        return self.kv_channels * self.num_attention_heads

    @property
    def qkv_size(self) -> int:
        return self.attention_size + 2 * self.kv_channels * self.kv_groups

    @property
    def positions_interpolated(self) -> bool:
        """Whether `rope_ratio` divides positions (ChatGLM2-6B-32K); all later ones multiply the base."""
        return self.generation == "ChatGLM2"


def claims(config: Mapping[str, Any]) -> str | None:
    """Return the generation that a config.json belongs to, or None where the family does not claim it."""
    if config.get("model_type") != "chatglm" or "padded_vocab_size" not in config:
        return None
    if config.get("vision_config") is not None:
        return "GLM-4V"
    if _first_eos(config) > 100_000 or "boi_token_id" in config or "GLM4" in str(config.get("tokenizer_class")):
        return "GLM-4"
    name = str(config.get("_name_or_path", "")).lower()
    if "chatglm3" in name:  # the base model's file has none of the keys below
        return "ChatGLM3"
    if "glm-4" in name or "glm4" in name:
        return "GLM-4"
    # The two share every size; the later one's config.json brought classifier_dropout and the prefix keys.
    if "chatglm2" in name or not ({"classifier_dropout", "pre_seq_len", "rope_ratio"} & set(config)):
        return "ChatGLM2"
    if "32k" in name and "classifier_dropout" not in config:
        return "ChatGLM2"
    eos = config.get("eos_token_id")
    return "GLM-4" if isinstance(eos, list | tuple) else "ChatGLM3"


def _first_eos(config: Mapping[str, Any]) -> int:
    eos = config.get("eos_token_id")
    first = eos[0] if isinstance(eos, list | tuple) and eos else eos
    return first if isinstance(first, int) else -1


def read_config(config: Mapping[str, Any], where: str = "config.json") -> ChatGLMConfig:
    """Return the typed config of a claimed config.json; raises ConfigError with every fault.

    Sizes have no default. Switches that a published config.json may leave out take the value of the original
    configuration class (named there as keyword defaults).
    """
    fields = Fields(config, where)
    result = ChatGLMConfig(
        generation=claims(config) or "ChatGLM3",
        num_layers=fields.integer("num_layers", high=MOST_LAYERS),
        padded_vocab_size=fields.integer("padded_vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        ffn_hidden_size=fields.integer("ffn_hidden_size"),
        kv_channels=fields.integer("kv_channels"),
        num_attention_heads=fields.integer("num_attention_heads"),
        seq_length=fields.integer("seq_length", high=1 << 31),
        layernorm_epsilon=fields.number("layernorm_epsilon", low=0.0, high=1.0),
        hidden_dropout=fields.number("hidden_dropout", low=0.0, high=1.0, default=0.0),
        attention_dropout=fields.number("attention_dropout", low=0.0, high=1.0, default=0.0),
        classifier_dropout=_optional_dropout(fields, config),
        num_labels=_num_labels(fields, config),
        rmsnorm=fields.boolean("rmsnorm", default=True),
        apply_residual_connection_post_layernorm=fields.boolean(
            "apply_residual_connection_post_layernorm", default=False
        ),
        post_layer_norm=fields.boolean("post_layer_norm", default=True),
        add_bias_linear=fields.boolean("add_bias_linear", default=False),
        add_qkv_bias=fields.boolean("add_qkv_bias", default=False),
        multi_query_attention=fields.boolean("multi_query_attention", default=False),
        multi_query_group_num=fields.integer("multi_query_group_num", default=1),
        rope_ratio=fields.number("rope_ratio", low=1e-6, high=1e9, default=1.0),
        original_rope=fields.boolean("original_rope", default=True),
        apply_query_key_layer_scaling=fields.boolean("apply_query_key_layer_scaling", default=True),
        attention_softmax_in_fp32=fields.boolean("attention_softmax_in_fp32", default=True),
        bias_dropout_fusion=fields.boolean("bias_dropout_fusion", default=True),
        fp32_residual_connection=fields.boolean("fp32_residual_connection", default=False),
        pre_seq_len=fields.optional_integer("pre_seq_len", low=1),
        prefix_projection=fields.boolean("prefix_projection", default=False),
        quantization_bit=fields.integer("quantization_bit", low=0, high=64, default=0),
        use_cache=fields.boolean("use_cache", default=True),
        boi_token_id=fields.optional_integer("boi_token_id"),
        eoi_token_id=fields.optional_integer("eoi_token_id"),
        pad_token_id=fields.optional_integer("pad_token_id"),
        eos_token_ids=fields.token_ids("eos_token_id"),
        vision=_read_vision(fields.object("vision_config")),
    )
    _check_relations(fields, result)
    fields.done()
    return result


def _optional_dropout(fields: Fields, config: Mapping[str, Any]) -> float | None:
    if config.get("classifier_dropout") is None:
        return None
    return fields.number("classifier_dropout", low=0.0, high=1.0)


def _num_labels(fields: Fields, config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and labels:
        return len(labels)
    return fields.integer("num_labels", default=2)


def _read_vision(fields: Fields | None) -> VisionConfig | None:
    if fields is None:
        return None
    return VisionConfig(
        hidden_size=fields.integer("hidden_size"),
        num_hidden_layers=fields.integer("num_hidden_layers", high=MOST_LAYERS),
        num_heads=fields.integer("num_heads"),
        intermediate_size=fields.integer("intermediate_size"),
        in_channels=fields.integer("in_channels"),
        image_size=fields.integer("image_size", high=1 << 16),
        patch_size=fields.integer("patch_size", high=1 << 16),
        num_positions=fields.integer("num_positions"),
        layer_norm_eps=fields.number("layer_norm_eps", low=0.0, high=1.0),
        hidden_act=fields.text("hidden_act", known=ACTIVATIONS),
        dropout_prob=fields.number("dropout_prob", low=0.0, high=1.0),
        scaling_factor=fields.number("scaling_factor", low=1e-9, high=1e9),
    )


def _check_relations(fields: Fields, config: ChatGLMConfig) -> None:
    heads = config.num_attention_heads
    fields.require(
        heads % config.kv_groups == 0,
        "multi_query_group_num",
        f"should divide the {heads} attention heads, is {config.kv_groups}",
    )
    fields.require(
        config.kv_channels % 4 == 0,
        "kv_channels",
        f"should be a multiple of 4 for the rotary embedding, is {config.kv_channels}",
    )
    fields.require(
        config.quantization_bit == 0,
        "quantization_bit",
        f"is {config.quantization_bit}: weights packed by ChatGLM's own quantisation are not read, "
        "open the checkpoint they were made from",
    )
    for key, token in (("boi_token_id", config.boi_token_id), ("eoi_token_id", config.eoi_token_id)):
        fields.require(
            token is None or token < config.padded_vocab_size, key, f"is outside the {config.padded_vocab_size} words"
        )
    vision = config.vision
    if vision is None:
        return
    fields.require(config.boi_token_id is not None, "boi_token_id", "missing: the vision tower needs it")
    fields.require(config.eoi_token_id is not None, "eoi_token_id", "missing: the vision tower needs it")
    fields.require(
        vision.hidden_size % vision.num_heads == 0,
        "vision_config/num_heads",
        f"should divide hidden_size {vision.hidden_size}",
    )
    fields.require(
        vision.grid >= 2, "vision_config/image_size", f"should hold at least 2 patches of {vision.patch_size} a side"
    )
    # The convolution in the tower takes whole patches only, as the original's does.
    fields.require(
        vision.num_positions == vision.grid**2 + 1,
        "vision_config/num_positions",
        f"should be {vision.grid}² + 1 = {vision.grid**2 + 1} for this image and patch size, is {vision.num_positions}",
    )


def expected_tensors(config: ChatGLMConfig, task: str = "causal") -> dict[str, Shape]:
    """Return the name and shape of every parameter the config implies, in module order.

    `task` is "causal" or "classification" (no output layer, a `classifier_head`). A test holds this equal to the
    module's `state_dict()` on the meta device.
    """
    h, ffn = config.hidden_size, config.ffn_hidden_size
    out: dict[str, Shape] = {"transformer.embedding.word_embeddings.weight": (config.padded_vocab_size, h)}
    for index in range(config.num_layers):
        layer = f"transformer.encoder.layers.{index}."
        _norm(out, layer + "input_layernorm", h, config.rmsnorm)
        qkv_bias = config.add_bias_linear or config.add_qkv_bias
        _linear(out, layer + "self_attention.query_key_value", h, config.qkv_size, qkv_bias)
        _linear(out, layer + "self_attention.dense", config.attention_size, h, config.add_bias_linear)
        _norm(out, layer + "post_attention_layernorm", h, config.rmsnorm)
        _linear(out, layer + "mlp.dense_h_to_4h", h, 2 * ffn, config.add_bias_linear)
        _linear(out, layer + "mlp.dense_4h_to_h", ffn, h, config.add_bias_linear)
    if config.post_layer_norm:
        _norm(out, "transformer.encoder.final_layernorm", h, config.rmsnorm)
    if task == "causal":
        _linear(out, "transformer.output_layer", h, config.padded_vocab_size, config.add_bias_linear)
    if config.pre_seq_len is not None:
        _prefix(out, config)
    if config.vision is not None:
        _vision(out, config, config.vision)
    if task == "classification":
        _linear(out, "classifier_head", h, config.num_labels, True)
    return out


def _linear(out: dict[str, Shape], name: str, inputs: int, outputs: int, bias: bool) -> None:
    out[name + ".weight"] = (outputs, inputs)
    if bias:
        out[name + ".bias"] = (outputs,)


def _norm(out: dict[str, Shape], name: str, size: int, rms: bool) -> None:
    out[name + ".weight"] = (size,)
    if not rms:
        out[name + ".bias"] = (size,)


def _prefix(out: dict[str, Shape], config: ChatGLMConfig) -> None:
    assert config.pre_seq_len is not None
    width = config.num_layers * config.kv_channels * config.kv_groups * 2
    out["transformer.prefix_encoder.embedding.weight"] = (config.pre_seq_len, width)
    if config.prefix_projection:
        _linear(out, "transformer.prefix_encoder.trans.0", width, config.hidden_size, True)
        _linear(out, "transformer.prefix_encoder.trans.2", config.hidden_size, width, True)


def _vision(out: dict[str, Shape], config: ChatGLMConfig, vision: VisionConfig) -> None:
    v, h, patch = vision.hidden_size, config.hidden_size, vision.patch_size
    root = "transformer.vision."
    out[root + "boi"] = (1, 1, h)
    out[root + "eoi"] = (1, 1, h)
    out[root + "patch_embedding.cls_embedding"] = (1, v)
    out[root + "patch_embedding.proj.weight"] = (v, vision.in_channels, patch, patch)
    out[root + "patch_embedding.proj.bias"] = (v,)
    out[root + "patch_embedding.position_embedding.weight"] = (vision.num_positions, v)
    for index in range(vision.num_hidden_layers):
        layer = f"{root}transformer.layers.{index}."
        _norm(out, layer + "input_layernorm", v, False)
        _linear(out, layer + "attention.query_key_value", v, 3 * v, True)
        _linear(out, layer + "attention.dense", v, v, True)
        _linear(out, layer + "mlp.fc1", v, vision.intermediate_size, True)
        _linear(out, layer + "mlp.fc2", vision.intermediate_size, v, True)
        _norm(out, layer + "post_attention_layernorm", v, False)
    _linear(out, root + "linear_proj.linear_proj", h, h, False)
    _norm(out, root + "linear_proj.norm1", h, False)
    _linear(out, root + "linear_proj.dense_h_to_4h", h, config.ffn_hidden_size, False)
    _linear(out, root + "linear_proj.gate_proj", h, config.ffn_hidden_size, False)
    _linear(out, root + "linear_proj.dense_4h_to_h", config.ffn_hidden_size, h, False)
    out[root + "conv.weight"] = (h, v, 2, 2)
    out[root + "conv.bias"] = (h,)
