"""Opening a checkpoint as a whole process, to the first logits: uncrate against transformers, in one run.

    python benchmarks/opening.py [--gigabytes 1.0] [--repeats 5] [--folder /tmp/uncrate-bench]

Both open the same number of bf16 parameters of the same architecture (a GLM-4 decoder): uncrate in THUDM's layout,
transformers in that of its own Glm class. Hot: the files are in the page cache. Cold: they are dropped from it before
every run (posix_fadvise, no root needed). Each figure is the median of the repeats, interleaved; ratios hold where
seconds drift. Results go to benchmarks/results/opening.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HIDDEN, FFN, HEADS, GROUPS, CHANNELS, WORDS = 1536, 5120, 12, 2, 128, 65536

OURS = """
import time; start = time.perf_counter()
import sys, uncrate
opened = uncrate.open(sys.argv[1], uncrate.Options(dtype=sys.argv[2]))
import torch
with torch.inference_mode():
    opened.model(torch.tensor([[1, 2, 3]]), logits_to_keep=1)
seconds = time.perf_counter() - start
# ru_maxrss would remember the parent's size across fork.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) * 1024)
"""
THEIRS = """
import time; start = time.perf_counter()
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
with torch.inference_mode():
    model(torch.tensor([[1, 2, 3]]), logits_to_keep=1)
seconds = time.perf_counter() - start
# ru_maxrss would remember the parent's size across fork.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) * 1024)
"""


def layers_for(gigabytes: float) -> int:
    """How many layers make a checkpoint of about that size."""
    layer = 2 * (HIDDEN * (HEADS + 2 * GROUPS) * CHANNELS + HEADS * CHANNELS * HIDDEN + 3 * HIDDEN * FFN)
    return max(1, round((gigabytes * 1e9 - 4 * WORDS * HIDDEN) / layer))


def make_ours(folder: Path, layers: int) -> None:
    """Write random bf16 weights in THUDM/glm-4-9b's layout, in shards of about 500 MB."""
    import torch
    from safetensors.torch import save_file

    from uncrate.families.chatglm import expected_tensors, read_config

    config = {
        "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True, "ffn_hidden_size": FFN,
        "hidden_size": HIDDEN, "kv_channels": CHANNELS, "layernorm_epsilon": 1e-5, "multi_query_attention": True,
        "multi_query_group_num": GROUPS, "num_attention_heads": HEADS, "num_layers": layers,
        "padded_vocab_size": WORDS, "post_layer_norm": True, "rmsnorm": True, "seq_length": 8192,
        "eos_token_id": [1, 2], "pad_token_id": 0, "classifier_dropout": None,
    }  # fmt: skip
    folder.mkdir(parents=True)
    shard: dict[str, torch.Tensor] = {}
    weight_map: dict[str, str] = {}

    def write() -> None:
        name = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, shape in expected_tensors(read_config(config)).items():
        shard[name] = torch.randn(shape, dtype=torch.bfloat16) * 0.02
        if sum(tensor.nbytes for tensor in shard.values()) > 500e6:
            write()
    write()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


def make_theirs(folder: Path, layers: int) -> None:
    """Write a checkpoint of transformers' own Glm class with the same sizes."""
    import torch
    from transformers import GlmConfig, GlmForCausalLM

    config = GlmConfig(
        hidden_size=HIDDEN, intermediate_size=FFN, num_attention_heads=HEADS, num_key_value_heads=GROUPS,
        head_dim=CHANNELS, num_hidden_layers=layers, vocab_size=WORDS, attention_bias=True, pad_token_id=0,
        eos_token_id=[1, 2], tie_word_embeddings=False,
    )  # fmt: skip
    GlmForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="500MB")


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget the folder's pages; written pages are flushed first."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def run(code: str, folder: Path, dtype: str) -> tuple[float, float]:
    """One process: seconds to the first logits from inside it, and peak resident bytes."""
    command = [sys.executable, "-c", code, str(folder), dtype]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(out[-2]), float(out[-1])


def main() -> None:
    """Make the checkpoints, run all cases interleaved, print and keep the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/uncrate-bench"))
    options = parser.parse_args()
    layers = layers_for(options.gigabytes)
    folders = {"uncrate": options.folder / f"chatglm-{layers}", "transformers": options.folder / f"glm-{layers}"}
    for make, folder in zip((make_ours, make_theirs), folders.values(), strict=True):
        if not folder.exists():
            print(f"writing {folder}", file=sys.stderr)
            make(folder, layers)
    results = {}
    for dtype in ("bfloat16", "float32"):
        for state in ("hot", "cold"):
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in folders}
            for repeat in range(options.repeats + (state == "hot")):
                for (name, folder), code in zip(folders.items(), (OURS, THEIRS), strict=True):
                    if state == "cold":
                        drop_from_cache(folder)
                    figures = run(code, folder, dtype)
                    if not (state == "hot" and repeat == 0):  # the first hot run warms up
                        seen[name].append(figures)
            seconds = {name: statistics.median(row[0] for row in rows) for name, rows in seen.items()}
            peak = {name: statistics.median(row[1] for row in rows) for name, rows in seen.items()}
            results[f"{dtype} {state}"] = {
                "seconds": seconds,
                "peak_bytes": peak,
                "ratio": seconds["uncrate"] / seconds["transformers"],
                "peak_ratio": peak["uncrate"] / peak["transformers"],
            }
            print(f"{dtype:9} {state:5} " + json.dumps(results[f"{dtype} {state}"]))
    size = sum(path.stat().st_size for path in folders["uncrate"].glob("*.safetensors"))
    about = {"bytes": size, "repeats": options.repeats, "cores": os.cpu_count(), "machine": platform.platform()}
    out = ROOT / "benchmarks" / "results" / "opening.json"
    out.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
