"""Checkpoints of a run: which are complete, which one to go on from, and whether the disk holds another. No torch."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from uncrate.errors import DoesNotFit, UsageError, escape
from uncrate.show import size_text

STATE_FILE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# Written beside the weights: optimizer's tables of numbers, states of random generators, the log.
OVERHEAD = 16 << 20


def find_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the complete checkpoints below `folder`, by step. The state is written last, so it marks a whole one."""
    found = []
    for path in folder.glob("checkpoint-*") if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and _is_complete(path):
            found.append((int(match[1]), path))
    return sorted(found)


def _is_complete(path: Path) -> bool:
    try:
        return isinstance(json.loads((path / STATE_FILE).read_bytes())["global_step"], int)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def choose_checkpoint(folder: Path, wanted: str | None) -> tuple[Path | None, str]:
    """Return the checkpoint to go on from and a line about it. `wanted` is "yes" (newest), "no" or None, or a step.

    Raises UsageError for a step that has no complete checkpoint.
    """
    found = find_checkpoints(folder)
    if wanted is None or wanted.lower() in ("no", "", "false"):
        left = f"; {len(found)} earlier checkpoints stay in {escape(str(folder), 200)}" if found else ""
        return None, f"from the start{left}"
    if wanted.lower() in ("yes", "true"):
        if not found:
            return None, f"from the start: {escape(str(folder), 200)} holds no complete checkpoint"
        return found[-1][1], f"from step {found[-1][0]}, the newest complete checkpoint"
    number = _NAME.fullmatch(wanted)
    step = number[1] if number else wanted
    if not step.isdigit():
        raise UsageError(f"resume is yes, no or a step, not {escape(repr(wanted))}")
    for known, path in found:
        if known == int(step):
            return path, f"from step {known}"
    have = ", ".join(str(known) for known, _ in found) or "none"
    raise UsageError(f"there is no complete checkpoint-{step}", where=escape(str(folder), 200), why=f"there is {have}")


def check_disk(folder: Path, needed: int) -> None:
    """Raise DoesNotFit when the disk of `folder` has not `needed` bytes free."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + OVERHEAD > free:
        raise DoesNotFit(
            f"a checkpoint takes about {size_text(needed)}, and {size_text(free)} are free",
            where=escape(str(folder), 400),
            next="free some space, set save_total_limit, or save_only_model: true",
        )
