"""The vision tower against a slow reference written patch by patch and head by head, and pictures that do not fit."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import golden_config, golden_tensors, random_tensors

from uncrate.errors import PictureError, UsageError
from uncrate.families.chatglm import read_config
from uncrate.models.chatglm.model import ChatGLMForConditionalGeneration

CLOSE = {"atol": 2e-5, "rtol": 0.0}
ROOT = "transformer.vision."

ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
}


def build(config, tensors):
    model = ChatGLMForConditionalGeneration(read_config(config))
    model.load_state_dict(tensors)
    return model.eval()


def tower(**changes):
    """The golden config with another tower."""
    vision = golden_config()["vision_config"] | changes
    grid = vision["image_size"] // vision["patch_size"]
    return golden_config(vision_config=vision | {"num_positions": grid * grid + 1})


def each(function, x):
    return torch.tensor([function(value) for value in x.flatten().tolist()], dtype=torch.float64).view(x.shape)


def norm(x, w, name, eps):
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w[name + ".weight"] + w[name + ".bias"]


def linear(x, w, name):
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def reference_patches(vision, w, image):
    """[grid² + 1, E]: the class position, then one dot product a patch and channel."""
    patch, kernel = vision.patch_size, w["patch_embedding.proj.weight"]
    rows = [w["patch_embedding.cls_embedding"][0]]
    for row in range(vision.grid):
        for column in range(vision.grid):
            piece = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            rows.append((kernel * piece).sum((1, 2, 3)) + w["patch_embedding.proj.bias"])
    return torch.stack(rows) + w["patch_embedding.position_embedding.weight"]


def reference_layer(vision, w, x, layer):
    """One layer, one head and one position at a time."""
    size = vision.hidden_size // vision.num_heads
    qkv = linear(x, w, layer + "attention.query_key_value")
    rows = []
    for position in range(len(x)):
        out = []
        for head in range(vision.num_heads):
            q, k, v = (qkv[:, part * vision.hidden_size + head * size :][:, :size] for part in range(3))
            out.append((k @ q[position] / math.sqrt(size)).softmax(0) @ v)
        rows.append(torch.cat(out))
    y = linear(torch.stack(rows), w, layer + "attention.dense")
    x = x + norm(y, w, layer + "input_layernorm", vision.layer_norm_eps)
    y = each(ACTIVATIONS[vision.hidden_act], linear(x, w, layer + "mlp.fc1"))
    y = linear(y, w, layer + "mlp.fc2")
    return x + norm(y, w, layer + "post_attention_layernorm", vision.layer_norm_eps)


def reference_tower(config, tensors, image):
    """One picture [3, S, S] to [n + 2, C], in float64."""
    vision = read_config(config).vision
    w = {name.removeprefix(ROOT): tensor.double() for name, tensor in tensors.items() if name.startswith(ROOT)}
    x = reference_patches(vision, w, image.double())
    for index in range(vision.num_hidden_layers):
        x = reference_layer(vision, w, x, f"transformer.layers.{index}.")
    places = x[1:]
    merged = []
    for row in range(vision.grid // 2):
        for column in range(vision.grid // 2):
            total = w["conv.bias"].clone()
            for down in range(2):
                for right in range(2):
                    place = places[(2 * row + down) * vision.grid + 2 * column + right]
                    total = total + w["conv.weight"][:, :, down, right] @ place
            merged.append(total)
    y = norm(linear(torch.stack(merged), w, "linear_proj.linear_proj"), w, "linear_proj.norm1", 1e-5)
    y = each(ACTIVATIONS["gelu"], y)
    gate = each(ACTIVATIONS["silu"], linear(y, w, "linear_proj.gate_proj"))
    y = linear(gate * linear(y, w, "linear_proj.dense_h_to_4h"), w, "linear_proj.dense_4h_to_h")
    return (torch.cat((w["boi"][0], y, w["eoi"][0])) / vision.scaling_factor).float()


TOWERS = {
    "golden": {},
    "odd grid": {"image_size": 20},
    "odd grid, size no multiple of the patch": {"image_size": 23},
    "wide patches": {"image_size": 28, "patch_size": 14},
    "one channel": {"in_channels": 1},
    "other sizes": {"hidden_size": 40, "num_heads": 5, "intermediate_size": 33, "num_hidden_layers": 3},
    "scaling and epsilon": {"scaling_factor": 1.5, "layer_norm_eps": 1e-3},
    **{act: {"hidden_act": act} for act in ACTIVATIONS if act != "gelu"},
}


@pytest.mark.parametrize("changes", TOWERS.values(), ids=TOWERS.keys())
def test_tower_against_the_slow_reference(changes):
    config = tower(**changes)
    tensors = random_tensors(config)
    vision = read_config(config).vision
    shape = (2, vision.in_channels, vision.image_size, vision.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        vectors = build(config, tensors).transformer.vision(images)
    assert vectors.shape == (2, vision.image_tokens + 2, config["hidden_size"])
    for image, found in zip(images, vectors, strict=True):
        torch.testing.assert_close(found, reference_tower(config, tensors, image), **CLOSE)


def test_pictures_take_their_place_in_the_text():
    """The expanded row equals words and tower vectors put together by hand, positions shared inside the picture."""
    config = tower(image_size=24)
    model = build(config, random_tensors(config))
    image = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    row = [702, 704, 710, 700, 711, 40, 41]
    with torch.inference_mode():
        embedded = model.transformer.embed(torch.tensor([row]), images=image)
        words = model.transformer.embedding(torch.tensor(row))
        by_hand = torch.cat((words[:2], model.transformer.vision(image)[0], words[5:]))
    assert torch.equal(embedded.x[0], by_hand)
    assert embedded.position_ids[0].tolist() == [0, 1, 2, *[3] * 9, 4, 5, 6]


@pytest.mark.parametrize("shape", [(1, 3, 20, 20), (3, 16, 16), (1, 1, 16, 16), (1, 16, 16, 3)])
def test_pictures_of_a_wrong_shape(shape):
    model = build(golden_config(), golden_tensors())
    with pytest.raises(PictureError, match=r"images should be \[N, 3, 16, 16\], they are"):
        model(torch.tensor([[702, 710, 700, 711, 40]]), images=torch.zeros(shape))


def test_pictures_for_a_model_without_a_tower():
    config = {key: value for key, value in golden_config().items() if key != "vision_config"}
    with pytest.raises(PictureError, match="takes no pictures"):
        build(config, random_tensors(config))(torch.tensor([[710, 700, 711]]), images=torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("ids", "others", "part"),
    [
        ([[1, 768]], {}, "go from 1 to 768, the model has the words 0 to 767"),
        ([[1, -100]], {}, "go from -100 to 1"),
        ([1, 2], {}, r"should be \[B, T\], they are \[2\]"),
        ([[1, 2]], {"labels": torch.tensor([[1, 2, 3]])}, r"labels should be \[1, 2\]"),
        ([[1, 2]], {"attention_mask": torch.ones(1, 3)}, r"attention_mask should be \[1, 2\]"),
    ],
)
def test_inputs_that_do_not_go_together(ids, others, part):
    with pytest.raises(UsageError, match=part):
        build(golden_config(), golden_tensors())(torch.tensor(ids), **others)
