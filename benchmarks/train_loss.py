"""A training step's memory and speed: loss over labelled positions in chunks, against the whole logits in float32.

    python benchmarks/train_loss.py [--repeats 3] [--labelled 40]

Both ways train the same model with the same weights on the same row: GLM-4V-9B's vocabulary of 151,552 words, one
picture of 1,600 positions, 120 tokens of text. Naive is what the original code does: logits for every position, in
float32, then cross-entropy. Each run is a process of its own; figures are medians, interleaved; peaks are above what
the process held before the step. Results go to benchmarks/results/train_loss.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS, TEXT, STEPS = 151_552, 120, 1
CONFIG = {
    "model_type": "chatglm",
    "num_layers": 2,
    "padded_vocab_size": WORDS,
    "hidden_size": 256,
    "ffn_hidden_size": 512,
    "kv_channels": 32,
    "num_attention_heads": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 8192,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
    "boi_token_id": 151339,
    "eoi_token_id": 151340,
    "vision_config": {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_heads": 4,
        "intermediate_size": 128,
        "in_channels": 3,
        "image_size": 1120,
        "patch_size": 14,
        "num_positions": 6401,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "dropout_prob": 0.0,
        "scaling_factor": 8,
    },
}


def memory(field: str) -> int:
    """Return a size of this process in bytes; ru_maxrss would remember the parent's across fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":"))) * 1024


def child(way: str, labelled: int) -> None:
    """Train some steps in this process and print seconds a step, peak bytes above the start, and the loss."""
    import torch
    import torch.nn.functional as F

    from uncrate.families.chatglm import read_config
    from uncrate.models.chatglm.model import ChatGLMForConditionalGeneration

    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(read_config(CONFIG))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    # As in LoRA training the vocabulary's two tables are frozen.
    model.transformer.embedding.requires_grad_(False)
    model.transformer.output_layer.requires_grad_(False)
    ids = torch.randint(0, 151_000, (1, TEXT + 3))
    ids[0, 4:7] = torch.tensor([CONFIG["boi_token_id"], 151_329, CONFIG["eoi_token_id"]])
    labels = torch.full_like(ids, -100)
    labels[0, -labelled:] = ids[0, -labelled:]
    inputs = {"input_ids": ids, "images": torch.randn(1, 3, 1120, 1120)}

    def step() -> float:
        if way == "chunked":
            loss = model(**inputs, labels=labels, return_logits=False).loss
        else:
            logits = model(**inputs).logits.float()
            added = logits.shape[1] - ids.shape[1]
            spread = torch.cat((labels[:, :5], torch.full((1, added), -100), labels[:, 5:]), dim=1)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), spread[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        model.zero_grad(set_to_none=True)
        return float(loss.detach())

    before = memory("VmRSS")
    loss = step()
    peak = memory("VmHWM") - before
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds), "peak": peak, "loss": loss}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--labelled", type=int, default=40)
    parser.add_argument("--child", choices=("chunked", "naive"))
    given = parser.parse_args()
    if given.child:
        child(given.child, given.labelled)
        return
    runs: dict[str, list[dict[str, float]]] = {"chunked": [], "naive": []}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for _ in range(given.repeats):
        for way, found in runs.items():
            command = [sys.executable, __file__, "--child", way, "--labelled", str(given.labelled)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
            found.append(json.loads(done.stdout))
    positions = TEXT + 3 + 1599
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "row": {"positions": positions, "text": TEXT, "labelled": given.labelled, "vocabulary": WORDS},
        "repeats": given.repeats,
    }
    for way, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        result[way] = {
            "seconds_a_step": round(seconds, 3),
            "positions_a_second": round(positions / seconds),
            "peak_bytes": int(statistics.median(run["peak"] for run in found)),
            "loss": round(found[0]["loss"], 5),
        }
    pairs = list(zip(runs["naive"], runs["chunked"], strict=True))
    result["naive_over_chunked"] = {
        "peak": round(statistics.median(naive["peak"] / ours["peak"] for naive, ours in pairs), 2),
        "seconds": round(statistics.median(naive["seconds"] / ours["seconds"] for naive, ours in pairs), 2),
    }
    path = ROOT / "benchmarks" / "results" / "train_loss.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
