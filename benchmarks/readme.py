"""Write the READMEs' table of measurements from benchmarks/results/, so that no figure is typed by hand.

    python benchmarks/readme.py

A test holds the READMEs to what this writes: measure again, run this again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# What was measured, in English and Chinese; then how it is measured again.
HEAD = (
    "| whole processes, 2 cores | uncrate | transformers | ratio | measured by |",
    "| 整个进程，2 核 | uncrate | transformers | 比例 | 测量命令 |",
)
STARTUP = (
    "look at {tensors} tensors (`uncrate inspect`; `AutoConfig` alone), processor seconds",
    "查看 {tensors} 个张量（`uncrate inspect`；仅 `AutoConfig`），处理器秒数",
)
OPENING = {
    "bfloat16 hot": ("open {size} GB of bf16 up to the first logits", "打开 {size} GB 的 bf16，到第一个 logits"),
    "bfloat16 cold": ("the same, the files not in the page cache", "同上，文件不在页缓存里"),
    "float32 hot": ("converted to float32; peak memory {peak}", "转换成 float32；内存峰值 {peak}"),
    "float32 cold": ("the same, the files not in the page cache", "同上，文件不在页缓存里"),
}
TRAINING = (
    "memory of a training step beyond the weights, {words:,} words (beside: the original code's full logits)",
    "一个训练步除权重外的内存，词表 {words:,}（对照：原始代码的完整 logits）",
)
PAGES = ("README.md", "README.zh.md")
TABLE = re.compile(r"(?<=<!-- measured -->\n)(.*?)(?=<!-- /measured -->)", re.DOTALL)


def row(what: str, ours: str, theirs: str, ratio: float, script: str) -> str:
    return f"| {what} | {ours} | {theirs} | {ratio:.2f} | `python benchmarks/{script}` |"


def table(language: int) -> str:
    """Return the table in English (0) or Chinese (1)."""
    startup = json.loads((RESULTS / "startup.json").read_text(encoding="utf-8"))
    opening = json.loads((RESULTS / "opening.json").read_text(encoding="utf-8"))
    seconds = startup["processor_seconds"]
    ours, theirs = f"{seconds['uncrate inspect']:.2f} s", f"{seconds['transformers AutoConfig']:.2f} s"
    what = STARTUP[language].format(tensors=startup["tensors"])
    rows = [HEAD[language], "|---|---|---|---|---|", row(what, ours, theirs, startup["ratio"], "startup.py")]
    for name, words in OPENING.items():
        one = opening["results"][name]
        what = words[language].format(size=f"{opening['about']['bytes'] / 1e9:.1f}", peak=f"{one['peak_ratio']:.2f}")
        ours, theirs = (f"{one['seconds'][who]:.1f} s" for who in ("uncrate", "transformers"))
        rows.append(row(what, ours, theirs, one["ratio"], "opening.py"))
    step = json.loads((RESULTS / "train_loss.json").read_text(encoding="utf-8"))
    peaks = [step[way]["peak_bytes"] for way in ("chunked", "naive")]
    what = TRAINING[language].format(words=step["row"]["vocabulary"])
    ours, theirs = (f"{peak / 1e9:.2f} GB" for peak in peaks)
    rows.append(row(what, ours, theirs, peaks[0] / peaks[1], "train_loss.py"))
    return "\n".join(rows) + "\n"


def main() -> None:
    for language, page in enumerate(PAGES):
        path = ROOT / page
        path.write_text(TABLE.sub(lambda _, n=language: table(n), path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
