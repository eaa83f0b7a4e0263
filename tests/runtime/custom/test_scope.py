"""What old code gets back, nobody else sees: transformers is the same before and after, and beside."""

# ruff: noqa: E501

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, types, warnings
warnings.simplefilter("ignore")
import torch
import transformers
from transformers import AutoModel, BartForConditionalGeneration, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlamaTokenizer
import transformers.convert_slow_tokenizer, transformers.generation.utils, transformers.cache_utils
import transformers.models.llama.modeling_llama, transformers.models.bart.modeling_bart, transformers.models.clip.modeling_clip
import transformers.modeling_attn_mask_utils, transformers.pytorch_utils, transformers.modeling_rope_utils
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
sys.path.insert(0, {tests!r})

CONTAINERS = (dict, list, set, tuple, frozenset)

def members(owner):
    held = {{}}
    for name, value in list(vars(owner).items()):
        # What transformers and Python remember for themselves as they go: caches, weak registries, slots for copying.
        if name in ("__abstractmethods__", "_abc_impl", "__doc__", "__slotnames__", "__annotations__", "_CAN_RECORD_REGISTRY") or "cache" in name:
            continue
        shown = repr(sorted(map(str, value)))[:4000] if isinstance(value, CONTAINERS) else None
        held[name] = (id(value) if not isinstance(value, CONTAINERS) else None, shown)
    return held

def snapshot():
    found = {{}}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("transformers", "tokenizers", "builtins", "importlib") or not isinstance(module, types.ModuleType):
            continue
        found[name] = members(module)
        for key, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == name:
                found[name + ":" + key] = members(value)
    found["torch.nn.Module"] = members(torch.nn.Module)
    found["torch.nn.init"] = members(torch.nn.init)
    found["copyreg"] = members(__import__("copyreg"))
    found["auto"] = {{"configs": list(CONFIG_MAPPING._extra_content), "models": list(MODEL_FOR_CAUSAL_LM_MAPPING._extra_content)}}
    return found

small = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
def stock():
    torch.manual_seed(0)
    config = LlamaConfig(**small)
    assert not hasattr(config, "max_length") and not hasattr(config, "rope_theta")
    model = LlamaForCausalLM(config).eval()
    return model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, pad_token_id=0)

before_tokens = stock()
before = snapshot()

from runtime.custom.closures import classes, eager, stored, style
from runtime.custom.test_models import CASES, IDS, opened
for case in {{case.style: case for case in CASES}}.values():
    _, model, _ = opened(case)
    model.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0)

after = snapshot()
changed = []
for owner, held in before.items():
    now = after.get(owner)
    if held != now:
        # Lazy packages fill up as they are asked; nothing else may gain, lose or change a name.
        lazy = type(sys.modules.get(owner)).__name__ == "_LazyModule"
        keys = held.keys() if lazy else held.keys() | now.keys()
        names = [name for name in keys if held.get(name) != now.get(name)]
        if names:
            changed.append((owner, [(name, held.get(name), now.get(name)) for name in sorted(names)[:5]]))
print(changed)
assert not changed
assert torch.equal(stock(), before_tokens)
try:
    from transformers.utils import is_torch_fx_available
except ImportError:
    pass
else:
    raise AssertionError("a removed name leaked")
assert "transformers.generation_utils" not in sys.modules
print("same")
"""


@pytest.mark.slow
def test_transformers_is_untouched(tmp_path):
    tests = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(tests=str(tests))],
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.strip().endswith("same")
