"""Checkpoints in the style of each generation of custom code: same bytes, same buffers, same logits, same tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from runtime.custom.closures import classes, eager, greedy, stored

from uncrate.runtime.foreign import build_config, open_model

IDS = torch.tensor([[5, 9, 17, 3, 40, 8]])


@dataclass(frozen=True)
class Case:
    style: str
    model: str
    config: str
    values: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    generates: bool = True

    def __str__(self) -> str:
        return f"{self.style}-{'-'.join(map(str, self.values)) or 'plain'}"


BILINGUAL = (
    "bilingual2023",
    "modeling_bilingual.BilingualForConditionalGeneration",
    "configuration_bilingual.BilingualConfig",
)
WIDE = ("wide2023", "modeling_wide.WideForCausalLM", "configuration_wide.WideConfig")
WIDER = (*WIDE[:2], "configuration_wide.WiderConfig")
HEADMASK = ("headmask2021", "modeling_headmask.HeadMaskForCausalLM", "configuration_headmask.HeadMaskConfig")
CACHE = ("cache2024", "modeling_cache.CacheForCausalLM", "configuration_cache.CacheConfig")
LLAMA = ("llama2024", "modeling_borrowed.BorrowedForCausalLM", "modeling_borrowed.BorrowedConfig")
SEES = ("sees2024", "modeling_sees.SeesForConditionalGeneration", "configuration_sees.SeesConfig")
SEQ = ("seq2020", "modeling_seq.SeqForConditionalGeneration", "modeling_seq.SeqConfig")
CASES = [
    Case(*BILINGUAL),
    Case(*WIDE),
    Case(*WIDE, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    Case(*WIDE, {"tie_word_embeddings": True}, left_out=("lm_head.weight",)),
    Case(*WIDE, {"tie_word_embeddings": True, "num_layers": 1}, left_out=("model.embed_tokens.weight",)),
    Case(*WIDER, {"rope_theta": 500.0, "hidden_size": 24}),
    Case(*HEADMASK),
    Case(*HEADMASK, {"alibi": True}, left_out=("lm_head.weight",)),
    Case(*CACHE),
    Case(*LLAMA),
    Case(*LLAMA, {"rope_theta": 250.0, "attn": "sdpa"}),
    Case(*SEES),
]


def opened(case: Case, **options: Any) -> tuple[Any, Any, Any]:
    """Return (reference model built the eager way, opened model, what became of the tensors)."""
    model_class, config_class = classes(case.style, case.model, case.config)
    reference = eager(model_class, config_class, case.values)
    reference.tie_weights()
    tensors = stored(reference, without=case.left_out)
    model, filled = open_model(model_class, build_config(config_class, case.values), tensors, **options)
    return reference, model, filled


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loaded_bytes_buffers_and_logits(case):
    reference, model, filled = opened(case)
    assert not filled.unexpected and not filled.initialised and not filled.notes
    wanted = reference.state_dict()
    for name, tensor in model.state_dict().items():
        assert not tensor.is_meta and tensor.dtype == wanted[name].dtype and torch.equal(tensor, wanted[name]), name
    buffers = dict(reference.named_buffers())
    assert buffers.keys() == dict(model.named_buffers()).keys()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, reference(input_ids=IDS).logits)
    for name in case.left_out:
        source = filled.tied.get(name) or next(key for key, value in filled.tied.items() if value == name)
        assert model.get_parameter(name) is model.get_parameter(source)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_generate_equals_a_loop_without_cache(case):
    reference, model, _ = opened(case)
    expected = greedy(reference, IDS, 6)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for ids, more in ((IDS, {}), (IDS, {"use_cache": False}), (IDS, {"attention_mask": torch.ones_like(IDS)})):
        assert torch.equal(model.generate(ids, **options, **more), expected)
    assert model.generate(IDS, **{**options, "num_beams": 2}).shape == expected.shape
    rich = model.generate(IDS, **options, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(rich.sequences, expected) and len(rich.scores) == 6


@pytest.mark.parametrize("case", [case for case in CASES if case.style not in ("bilingual2023",)], ids=str)
def test_padding_on_the_left_changes_nothing(case):
    reference, model, _ = opened(case)
    expected = greedy(reference, IDS, 4)
    ids = torch.cat([torch.zeros(1, 3, dtype=torch.long), IDS], dim=-1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(IDS)], dim=-1)
    made = model.generate(
        ids, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(made[:, 3:], expected)
