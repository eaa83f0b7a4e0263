"""A folder that appears whole or not at all: written beside its place, renamed when it is done."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from uncrate.errors import DoesNotFit, UsageError, escape

SPARE = 64 << 20


@contextmanager
def written_aside(out: Path, *, size: int, force: bool, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield a new folder beside `out`; at the end of the block it becomes `out`, and after an error it is gone.

    `size` is what will be written. `force` replaces a checkpoint at `out`; `sources` are folders that are read, which
    `out` must not touch. Raises UsageError for a place that is taken, DoesNotFit where the disk is too small.
    """
    check_place(out, force=force, sources=sources)
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if size + SPARE > free:
            raise DoesNotFit(
                f"{size / 1e9:,.2f} GB have to be written and {free / 1e9:,.2f} GB are free",
                where=escape(str(parent), 300),
                next="free space, or write to another disk",
            )
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=parent))
        aside.chmod(0o777 & ~_umask())
    except OSError as error:
        raise _cannot_write(out, error) from error
    try:
        yield aside
        _move(aside, out, force)
    except OSError as error:
        raise _cannot_write(out, error) from error
    finally:
        # Also for Ctrl-C: nothing half-written stays behind.
        shutil.rmtree(aside, ignore_errors=True)


def check_place(out: Path, *, force: bool, sources: Sequence[Path] = ()) -> None:
    """Raise UsageError where `out` cannot be written: taken, no folder, or a place that is being read."""
    shown = escape(str(out), 300)
    here = out.resolve()
    for source in sources:
        read = source.resolve()
        if here == read or read.is_relative_to(here) or here.is_relative_to(read):
            raise UsageError(
                f"{shown} is, holds or lies in the checkpoint that is read", next="give a folder of its own"
            )
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise UsageError(f"{shown} is not a folder", next="give a folder that is not there yet")
    if not any(out.iterdir()):
        return
    if not force:
        raise UsageError(f"{shown} is not empty", next="give another folder, or add --force to replace it")
    if not (out / "config.json").is_file():
        raise UsageError(
            f"{shown} is not empty and no checkpoint: it has no config.json",
            why="--force replaces a checkpoint, nothing else",
            next="give another folder, or empty this one yourself",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move(aside: Path, out: Path, force: bool) -> None:
    """Put the finished folder in its place; what `force` replaces is moved away first and deleted last."""
    if out.is_dir() and any(out.iterdir()):
        check_place(out, force=force)
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.absolute().parent))
        os.replace(out, old)
        os.replace(aside, out)
        shutil.rmtree(old)
    else:
        if out.is_dir():
            out.rmdir()
        os.replace(aside, out)


def _cannot_write(out: Path, error: OSError) -> DoesNotFit | UsageError:
    where = escape(str(out), 300)
    if error.errno in (28, 122):  # no space left, quota
        return DoesNotFit("the disk is full; nothing was left behind", where=where, next="free space and run it again")
    return UsageError(f"cannot be written: {error.strerror or error}", where=where, next="give a folder of yours")
