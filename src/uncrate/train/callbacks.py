"""What happens beside the training steps: the log on disk, the lines on stderr, and a stop that can be resumed."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from uncrate import show
from uncrate.train.trainer import Clock

LOG_FILE = "log.jsonl"


def peak_memory() -> int:
    """Return the most bytes used so far: the GPU's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Journal(TrainerCallback):
    """Writes every log record to log.jsonl as it comes, with time, tokens a second and memory."""

    def __init__(self, folder: Path, tokens: Callable[[], int]) -> None:
        self.path = folder / LOG_FILE
        self._tokens = tokens
        self._clock = Clock()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clock = Clock()
        self._clock.rate(self._tokens())
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            keep_until(self.path, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or not state.is_world_process_zero:
            return
        record = {"time": round(time.time(), 3), "step": state.global_step, **logs}
        if "loss" in logs:
            record["tokens_per_second"] = logs["tokens_per_second"] = round(self._clock.rate(self._tokens()), 1)
            record["peak_bytes"] = peak_memory()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def keep_until(path: Path, step: int) -> None:
    """Drop what an interrupted run logged after the step that is gone on from: a curve has no step twice."""
    if path.is_file():
        kept = [record for record in read_log(path) if record.get("step", 0) <= step] if step else []
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log; a last line that was cut by a crash is left out."""
    out = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        out.append(record)
    return out


class Progress(TrainerCallback):
    """One line for each log record on stderr: step, loss, rate, memory, time left. One moving line on a terminal."""

    def __init__(self) -> None:
        self._start = 0.0
        self._first = 0
        self._moving = show.is_terminal(sys.stderr)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start, self._first = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or not state.is_world_process_zero:
            return
        named = {name: value for name, value in logs.items() if name.startswith("eval_") and _telling(name)}
        if "loss" in logs:
            self._tell(self._line(state, logs), end="" if self._moving else "\n")
        elif named:
            shown = ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in named.items())
            self._tell(f"step {state.global_step}  evaluation: {shown}", end="\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._moving and state.is_world_process_zero:
            print(file=sys.stderr)

    def _line(self, state: Any, logs: dict[str, Any]) -> str:
        done = state.global_step - self._first
        left = (time.perf_counter() - self._start) / max(done, 1) * (state.max_steps - state.global_step)
        return (
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}  "
            f"{logs.get('tokens_per_second', 0):,.0f} tokens/s  {show.size_text(peak_memory())}  "
            f"{show.seconds_text(left)} left"
        )

    def _tell(self, line: str, *, end: str) -> None:
        print(f"\r\033[K{line}" if self._moving else line, end=end, file=sys.stderr, flush=True)


def _telling(name: str) -> bool:
    return not any(part in name for part in ("runtime", "per_second"))


class StopRequest(TrainerCallback):
    """Turns Ctrl-C and kill -TERM into: finish the step, save a checkpoint to go on from, stop. Twice: at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.stopped = False

    @contextmanager
    def installed(self) -> Iterator[StopRequest]:
        """Handle both signals while the block runs, as only a process's main thread can."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step, with a checkpoint; once more stops at once", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._anybody_asked(args):
            control.should_save = control.should_log = True
            control.should_evaluate = False
            control.should_training_stop = True
            self.stopped = True

    def _anybody_asked(self, args: Any) -> bool:
        if args.world_size <= 1:
            return self.signal is not None
        asked = torch.tensor([float(self.signal is not None)], device=args.device)
        torch.distributed.all_reduce(asked)
        return bool(asked.item())
