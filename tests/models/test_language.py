"""The decoder's switches against a slow reference written head by head, and rows that must not touch each other."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import TEXT, golden_config, golden_tensors, random_tensors

from uncrate.errors import PictureError
from uncrate.families.chatglm import claims, expected_tensors, read_config
from uncrate.models.chatglm.model import (
    ChatGLMForConditionalGeneration,
    ChatGLMForSequenceClassification,
)

CLOSE = {"atol": 2e-5, "rtol": 0.0}


def build(config, tensors):
    model = ChatGLMForConditionalGeneration(read_config(config))
    model.load_state_dict(tensors)
    return model.eval()


def reference_logits(config, w, ids):
    """One row, one head and one position at a time, in float64."""
    c = read_config(config)
    w = {name: tensor.double() for name, tensor in w.items()}
    heads, groups, d = c.num_attention_heads, c.kv_groups, c.kv_channels

    def norm(x, name):
        if c.rmsnorm:
            return x / torch.sqrt((x * x).mean(-1, keepdim=True) + c.layernorm_epsilon) * w[name + ".weight"]
        x = x - x.mean(-1, keepdim=True)
        return (
            x / torch.sqrt((x * x).mean(-1, keepdim=True) + c.layernorm_epsilon) * w[name + ".weight"]
            + w[name + ".bias"]
        )

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    def turn(x, position):
        x, half = x.clone(), d // 2
        scale = c.rope_ratio if c.positions_interpolated else 1.0
        base = 10000.0 if c.positions_interpolated else 10000.0 * c.rope_ratio
        for pair in range(half // 2):
            angle = position / scale / base ** (2 * pair / half)
            a, b = x[2 * pair].item(), x[2 * pair + 1].item()
            x[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            x[2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
        return x

    x = w["transformer.embedding.word_embeddings.weight"][ids]
    for index in range(c.num_layers):
        layer = f"transformer.encoder.layers.{index}."
        normed = norm(x, layer + "input_layernorm")
        qkv = linear(normed, layer + "self_attention.query_key_value")
        rows = []
        for t in range(len(ids)):
            out = []
            for head in range(heads):
                group = head * groups // heads

                def part(s, which, head=head, group=group, qkv=qkv):
                    if not c.multi_query_attention:
                        return qkv[s, (head * 3 + which) * d : (head * 3 + which + 1) * d]
                    start = [head * d, (heads + group) * d, (heads + groups + group) * d][which]
                    return qkv[s, start : start + d]

                q = turn(part(t, 0), t)
                scores = torch.stack([q @ turn(part(s, 1), s) for s in range(t + 1)]) / math.sqrt(d)
                weights = scores.softmax(0)
                out.append(sum(weights[s] * part(s, 2) for s in range(t + 1)))
            rows.append(torch.cat(out))
        y = linear(torch.stack(rows), layer + "self_attention.dense")
        x = (normed if c.apply_residual_connection_post_layernorm else x) + y
        normed = norm(x, layer + "post_attention_layernorm")
        gate, value = linear(normed, layer + "mlp.dense_h_to_4h").chunk(2, -1)
        y = linear(gate * torch.sigmoid(gate) * value, layer + "mlp.dense_4h_to_h")
        x = (normed if c.apply_residual_connection_post_layernorm else x) + y
    if c.post_layer_norm:
        x = norm(x, "transformer.encoder.final_layernorm")
    return linear(x, "transformer.output_layer").float()


SWITCHES = {
    "plain": {},
    "three groups": {"num_attention_heads": 6, "multi_query_group_num": 3},
    "one group": {"multi_query_group_num": 1},
    "no groups": {"multi_query_attention": False},
    "layer norm": {"rmsnorm": False},
    "all biases": {"add_bias_linear": True},
    "no qkv bias": {"add_qkv_bias": False},
    "no final norm": {"post_layer_norm": False},
    "residual after norm": {"apply_residual_connection_post_layernorm": True},
    "fp32 residual": {"fp32_residual_connection": True},
    "long context": {"rope_ratio": 500, "eos_token_id": [1, 2]},
    "ChatGLM2 32k": {"rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"},
    "heads wider than hidden": {"kv_channels": 16},
}


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
def test_against_the_slow_reference(changes):
    config = TEXT | changes
    tensors = random_tensors(config)
    ids = torch.randint(0, 96, (7,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = build(config, tensors)(ids[None]).logits[0]
    torch.testing.assert_close(logits, reference_logits(config, tensors, ids), **CLOSE)


def test_generations_are_told_apart():
    assert claims(golden_config()) == "GLM-4V"
    assert claims(TEXT | {"eos_token_id": [151329, 151336, 151338]}) == "GLM-4"
    assert claims(TEXT) == "ChatGLM3"
    assert claims(TEXT | {"_name_or_path": "THUDM/chatglm2-6b"}) == "ChatGLM2"
    assert claims({key: value for key, value in TEXT.items() if key != "classifier_dropout"}) == "ChatGLM2"
    first = {"model_type": "chatglm", "num_layers": 28, "vocab_size": 130528, "position_encoding_2d": True}
    assert claims(first) is None
    assert claims({"model_type": "glm4v"}) is None


@pytest.mark.parametrize(
    "changes", [{}, {"pre_seq_len": 3}, {"pre_seq_len": 3, "prefix_projection": True}, {"rmsnorm": False}]
)
@pytest.mark.parametrize("task", ["causal", "classification"])
def test_facts_equal_the_modules(changes, task):
    config = read_config(golden_config(**changes))
    cls = {"causal": ChatGLMForConditionalGeneration, "classification": ChatGLMForSequenceClassification}[task]
    with torch.device("meta"):
        model = cls(config)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected_tensors(config, task)


def test_mixed_rows_equal_rows_alone():
    """Text and picture rows in one batch, padding and all, answer as each does alone."""
    model = build(golden_config(), golden_tensors())
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, 16, 16, generator=generator)
    long = [702, 704, 707, 198, 710, 700, 711, 40, 41, 42, 43, 708]
    rows = [long, [702, 704, 707, 50, 51, 708], [702, 704, 707, 198, 710, 700, 711, 60, 708]]
    width = max(map(len, rows))
    ids = torch.tensor([[700] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.inference_mode():
        together = model(ids, images=images, attention_mask=mask).logits
        for index, (row, image) in enumerate(zip(rows, (images[:1], None, images[1:]), strict=True)):
            alone = model(torch.tensor([row]), images=image).logits[0]
            torch.testing.assert_close(together[index, -len(alone) :], alone, **CLOSE)


def test_loss_of_mixed_rows_counts_every_labelled_token_once():
    model = build(golden_config(), golden_tensors())
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    ids = torch.tensor([[702, 704, 710, 700, 711, 40, 41, 42], [700, 700, 700, 702, 704, 50, 51, 52]])
    mask = torch.tensor([[1] * 8, [0, 0, 0, 1, 1, 1, 1, 1]])
    labels = torch.full_like(ids, -100)
    labels[0, 6:], labels[1, 5:] = ids[0, 6:], ids[1, 5:]
    first = model(ids[:1], images=images, labels=labels[:1]).loss
    second = model(ids[1:, 3:], labels=labels[1:, 3:]).loss
    both = model(ids, images=images, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(both, (2 * first + 3 * second) / 5, **CLOSE)


def test_half_precisions_stay_close():
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    ids = torch.tensor([[702, 704, 710, 700, 711, 40, 41, 42]])
    exact = build(golden_config(), golden_tensors())(ids, images=images).logits
    for dtype, share in ((torch.bfloat16, 0.08), (torch.float16, 0.01)):
        model = build(golden_config(), golden_tensors()).to(dtype)
        logits = model(ids, images=images).logits
        assert logits.dtype == dtype
        assert (logits.float() - exact).abs().mean() < share * exact.abs().mean()


def test_prefix_tuning_equals_cached_keys():
    """Trained prefixes act as key and value positions that every token sees."""
    config = TEXT | {"pre_seq_len": 3}
    tensors = random_tensors(config)
    model = build(config, tensors)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        full = model(ids).logits
        plain = build(TEXT, {name: t for name, t in tensors.items() if "prefix" not in name})(ids).logits
        padded = model(torch.tensor([[0, 0, 5, 6, 7, 8]]), attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1]])).logits
    assert (full - plain).abs().max() > 1e-3
    torch.testing.assert_close(padded[:, 2:], full, **CLOSE)


def test_classifier_pools_each_rows_last_real_token():
    config = TEXT | {"num_labels": 3}
    tensors = random_tensors(config, "classification")
    model = ChatGLMForSequenceClassification(read_config(config))
    model.load_state_dict(tensors)
    model.eval()
    short, long = torch.tensor([[5, 6]]), torch.tensor([[7, 8, 9, 10]])
    with torch.inference_mode():
        left = model(torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), attention_mask=torch.tensor([[0, 0, 1, 1], [1] * 4]))
        right = model(torch.tensor([[5, 6, 0, 0], [7, 8, 9, 10]]), attention_mask=torch.tensor([[1, 1, 0, 0], [1] * 4]))
        alone = torch.cat((model(short).logits, model(long).logits))
    torch.testing.assert_close(left.logits, alone, **CLOSE)
    torch.testing.assert_close(right.logits, alone, **CLOSE)
    loss = model(short, labels=torch.tensor([1])).loss
    torch.testing.assert_close(loss, -model(short).logits.log_softmax(-1)[0, 1])


@pytest.mark.parametrize(
    ("ids", "pictures", "part"),
    [
        ([[1, 2, 3]], 1, "1 pictures were given for 0 rows"),
        ([[710, 700, 711, 710, 700, 711]], 1, "one picture a conversation"),
        ([[710, 700, 700, 711]], 1, "two places after"),
        ([[5, 710, 700]], 1, "two places after"),
    ],
)
def test_pictures_and_tokens_must_match(ids, pictures, part):
    model = build(golden_config(), golden_tensors())
    with pytest.raises(PictureError, match=part):
        model(torch.tensor(ids), images=torch.zeros(pictures, 3, 16, 16))
