"""GLM-4V's vision tower: patches, transformer, 2x2 downsampling convolution, gated projector, begin and end vectors.

Axes in names: N pictures, P patches and the class position, E vision hidden size, H heads, D channels a head, C
hidden size of the language model.
Source: the architecture published with THUDM/glm-4v-9b (EVA2-CLIP with norms after attention and after the MLP).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uncrate.errors import PictureError
from uncrate.families.chatglm import ChatGLMConfig, VisionConfig


def activation(name: str, x: Tensor) -> Tensor:
    """Apply the activation that `vision_config.hidden_act` names (families/chatglm.py lists the known names)."""
    match name:
        case "gelu":
            return F.gelu(x)
        case "gelu_new" | "gelu_pytorch_tanh":
            return F.gelu(x, approximate="tanh")
        case "quick_gelu":
            return x * torch.sigmoid(1.702 * x)
        case "silu":
            return F.silu(x)
        case _:
            return F.relu(x)


class PatchEmbedding(nn.Module):
    """Pictures [N, 3, S, S] to positions [N, P, E], the class position first."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            vision.in_channels, vision.hidden_size, kernel_size=vision.patch_size, stride=vision.patch_size
        )
        self.cls_embedding = nn.Parameter(torch.empty(1, vision.hidden_size))
        self.position_embedding = nn.Embedding(vision.num_positions, vision.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.proj(images).flatten(2).transpose(1, 2)
        cls = self.cls_embedding.expand(len(images), 1, -1)
        return torch.cat((cls, patches), dim=1) + self.position_embedding.weight


class Attention(nn.Module):
    """Full attention over one picture's positions."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.heads = vision.num_heads
        self.query_key_value = nn.Linear(vision.hidden_size, 3 * vision.hidden_size)
        self.dense = nn.Linear(vision.hidden_size, vision.hidden_size)
        self.dropout = vision.dropout_prob

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return F.dropout(self.dense(y.transpose(1, 2).flatten(2)), self.dropout, self.training)


class MLP(nn.Module):
    """Two layers with the config's activation."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.act = vision.hidden_act
        self.fc1 = nn.Linear(vision.hidden_size, vision.intermediate_size)
        self.fc2 = nn.Linear(vision.intermediate_size, vision.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(activation(self.act, self.fc1(x)))


class TransformerLayer(nn.Module):
    """Attention, norm, residual, MLP, norm, residual: the norms sit on the branches' outputs."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.attention = Attention(vision)
        self.mlp = MLP(vision)
        self.post_attention_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.input_layernorm(self.attention(x))
        return x + self.post_attention_layernorm(self.mlp(x))


class Transformer(nn.Module):
    """The tower's layers."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(vision) for _ in range(vision.num_hidden_layers))
        self.gradient_checkpointing = False
        self.checkpoint = partial(checkpoint, use_reentrant=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = self.checkpoint(layer, x)
            else:
                x = layer(x)
        return x


class GLU(nn.Module):
    """The gated projector into the language model's space; [N, n, C] to [N, n, C]."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        size, ffn = config.hidden_size, config.ffn_hidden_size
        self.linear_proj = nn.Linear(size, size, bias=False)
        self.norm1 = nn.LayerNorm(size)
        self.dense_h_to_4h = nn.Linear(size, ffn, bias=False)
        self.gate_proj = nn.Linear(size, ffn, bias=False)
        self.dense_4h_to_h = nn.Linear(ffn, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.linear_proj(x)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))


class VisionTower(nn.Module):
    """Pictures [N, 3, S, S] to [N, n + 2, C]: begin vector, n image vectors, end vector, all divided by
    `scaling_factor`.
    """

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        vision = config.vision
        assert vision is not None
        self.picture_shape = [vision.in_channels, vision.image_size, vision.image_size]
        self.grid = vision.grid
        self.scaling_factor = vision.scaling_factor
        self.patch_embedding = PatchEmbedding(vision)
        self.transformer = Transformer(vision)
        self.linear_proj = GLU(config)
        self.conv = nn.Conv2d(vision.hidden_size, config.hidden_size, kernel_size=2, stride=2)
        self.boi = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.eoi = nn.Parameter(torch.empty(1, 1, config.hidden_size))

    def forward(self, images: Tensor) -> Tensor:
        if list(images.shape[1:]) != self.picture_shape:
            raise PictureError(
                f"images should be [N, {', '.join(map(str, self.picture_shape))}], they are {list(images.shape)}",
                next="opened.prepare(conversations) brings pictures to this size",
            )
        x = self.transformer(self.patch_embedding(images))
        x = x[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        x = self.linear_proj(self.conv(x).flatten(2).transpose(1, 2))
        count = len(images)
        x = torch.cat((self.boi.expand(count, -1, -1), x, self.eoi.expand(count, -1, -1)), dim=1)
        return x / self.scaling_factor
