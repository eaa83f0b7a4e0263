"""Run as a process of its own, without uncrate: what stock transformers makes of an exported folder, as JSON.

python stock.py FOLDER GOLDEN [without tiktoken: any word]
"""

import importlib.abc
import json
import sys

BLOCKED = ("uncrate", *(["tiktoken"] if len(sys.argv) > 3 else []))


class Block(importlib.abc.MetaPathFinder):
    """Nothing of uncrate can be imported here."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Block())

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

torch.set_num_threads(1)
folder, golden = sys.argv[1], sys.argv[2]
expected = load_file(f"{golden}/expected.safetensors")
with open(f"{golden}/cases.json", encoding="utf-8") as file:
    cases = json.load(file)
out = {}


def inputs(case):
    names = ("input_ids", "images", "attention_mask", "position_ids")
    return {name: expected[f"{case}.{name}"] for name in names if f"{case}.{name}" in expected}


model, loading = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
model.eval()
out["loading"] = {name: len(value) for name, value in loading.items()}
out["module"] = type(model).__module__
for case in ("one", "text", "batch"):
    given = inputs(case)
    with torch.inference_mode():
        difference = (model(**given).logits - expected[f"{case}.logits"]).abs()
    if case == "batch":
        difference = difference[given["attention_mask"].bool().all(1)]  # in padding nothing is promised
    out[f"{case}.difference"] = float(difference.max())
    wanted = expected[f"{case}.generated"]
    made = model.generate(**given, max_new_tokens=wanted.shape[1], do_sample=False, eos_token_id=None, pad_token_id=700)
    out[f"{case}.tokens"] = made[:, given["input_ids"].shape[1] :].tolist() == wanted.tolist()
given = inputs("one")
loss = model(**given, labels=expected["one.labels"]).loss
loss.backward()
grad = model.transformer.encoder.layers[0].self_attention.query_key_value.weight.grad
out["loss"] = abs(float(loss) - float(expected["one.loss"]))
out["grad"] = float((grad - expected["one.grad.qkv0"]).abs().max())

tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
out["tokenizer"] = type(tokenizer).__name__
out["tokenize"] = [
    tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"] for case in cases["tokenize"]
]
out["encode_call"] = [tokenizer(case["text"])["input_ids"] == case["ids"] for case in cases["encode_call"]]
chats = []
for case in cases["chat"]:
    messages = [
        {**m, "image": Image.open(f"{golden}/{m['image']}").convert("RGB")} if "image" in m else m
        for m in case["messages"]
    ]
    made = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True
    )
    same = made["input_ids"][0].tolist() == case["input_ids"]
    if case["has_image"] and f"pixels.{case['name']}" in expected:
        same = same and float((made["images"] - expected[f"pixels.{case['name']}"]).abs().max()) < 1e-4
    chats.append(same)
out["chat"] = chats
with torch.inference_mode():
    difference = (model(**made).logits - AutoModel.from_pretrained(folder, trust_remote_code=True)(**made).logits).abs()
out["auto_model"] = float(difference.max())
out["classes"] = [
    type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__,
    type(AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)).__name__,
    type(AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)).__name__,
]
# What transformers saves again is a checkpoint with the same code.
again = f"{folder}-again"
model.save_pretrained(again)
tokenizer.save_pretrained(again)
reopened = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
pairs = zip(model.state_dict().items(), reopened.state_dict().items(), strict=True)
out["saved"] = all(one[0] == two[0] and torch.equal(one[1], two[1]) for one, two in pairs)
out["saved_ids"] = AutoTokenizer.from_pretrained(again, trust_remote_code=True)("你好")["input_ids"]
out["uncrate"] = [name for name in sys.modules if name.partition(".")[0] in BLOCKED]
print(json.dumps(out))
