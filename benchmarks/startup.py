"""Looking at a checkpoint as a whole process: `uncrate inspect` against transformers' `AutoConfig`, in one run.

    python benchmarks/startup.py [--tensors 200] [--repeats 9]

The checkpoint is made here: a GLM-4 text config with about so many tensors, in four shards. `uncrate inspect` reads the
config, every tensor's name, dtype, shape and byte range, and prints them as a sheet; `AutoConfig.from_pretrained` reads
the config of the same size in transformers' own Glm layout. Commands are interleaved, the files are in the page cache.
Each figure is the median of the repeats; processor seconds, which busy neighbours do not change, stand beside
the seconds on the clock, and the ratio is theirs. Results go to benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHARDS = 4
SIZES = {"hidden_size": 64, "ffn_hidden_size": 128, "heads": 4, "groups": 2, "kv_channels": 16, "words": 256}


def make_checkpoint(folder: Path, tensors: int) -> int:
    """Write a GLM-4 text checkpoint of about `tensors` tensors in THUDM's layout; return how many there are."""
    import torch
    from safetensors.torch import save_file

    from uncrate.families.chatglm import expected_tensors, read_config

    config = {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False,
        "classifier_dropout": None,
        "ffn_hidden_size": SIZES["ffn_hidden_size"],
        "hidden_size": SIZES["hidden_size"],
        "kv_channels": SIZES["kv_channels"],
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": SIZES["groups"],
        "num_attention_heads": SIZES["heads"],
        "num_layers": max(1, tensors // 7),
        "original_rope": True,
        "padded_vocab_size": SIZES["words"],
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": 500,
        "seq_length": 8192,
        "eos_token_id": [2],
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    shapes = expected_tensors(read_config(config), "causal")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names, weight_map = list(shapes), {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = {name: torch.zeros(shapes[name], dtype=torch.bfloat16) for name in names[shard::SHARDS]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return len(names)


def make_config(folder: Path, layers: int) -> None:
    """Write the config of a model of the same size as transformers' own Glm class reads it."""
    config = {
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
        "hidden_size": SIZES["hidden_size"],
        "intermediate_size": SIZES["ffn_hidden_size"],
        "num_attention_heads": SIZES["heads"],
        "num_key_value_heads": SIZES["groups"],
        "head_dim": SIZES["kv_channels"],
        "num_hidden_layers": layers,
        "vocab_size": SIZES["words"],
        "pad_token_id": 0,
        "eos_token_id": [2],
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))


def seconds(command: list[str]) -> tuple[float, float]:
    """Run a process and return how long it took from start to end, and how long it kept a processor busy."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, tensors: int, repeats: int) -> dict[str, object]:
    """Return the figures, the ratio of ours to theirs, and what they were measured on."""
    count = make_checkpoint(folder / "ours", tensors)
    make_config(folder / "theirs", max(1, tensors // 7))
    auto = "import sys; from transformers import AutoConfig; print(AutoConfig.from_pretrained(sys.argv[1]))"
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "uncrate inspect": [sys.executable, "-m", "uncrate", "inspect", str(folder / "ours")],
        "uncrate plan": [sys.executable, "-m", "uncrate", "plan", str(folder / "ours"), "--device", "cpu"],
        "transformers AutoConfig": [sys.executable, "-c", auto, str(folder / "theirs")],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for repeat in range(repeats + 1):
        for name, command in commands.items():
            took = seconds(command)
            if repeat:  # the first round only warms caches
                times[name].append(took)
    medians = [
        {name: round(statistics.median(pair[part] for pair in pairs), 4) for name, pairs in times.items()}
        for part in (0, 1)
    ]
    return {
        "tensors": count,
        "repeats": repeats,
        "seconds": medians[0],
        "processor_seconds": medians[1],
        "ratio": round(medians[1]["uncrate inspect"] / medians[1]["transformers AutoConfig"], 4),
        "versions": {name: metadata.version(name) for name in ("transformers", "torch", "typer")},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "startup.json")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.tensors, options.repeats)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
