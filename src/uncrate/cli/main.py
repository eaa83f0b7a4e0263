"""The entry point: one command runs, and whatever happens becomes a message and an exit code, never a traceback.

Exit codes: 0 done; 1 failed; 2 usage; 3 the checkpoint's code is not approved; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from uncrate import settings, show
from uncrate.cli.output import print_document
from uncrate.errors import UncrateError, UsageError

INTERRUPTED = 130


def run() -> NoReturn:
    """Run the command that the process was started with, and leave with its exit code."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; results go to stdout, everything else to stderr."""
    use_utf8()
    as_json = "--json" in arguments
    try:
        code = _invoke(list(arguments))
        sys.stdout.flush()
        return code
    except UncrateError as error:
        return tell(error, as_json=as_json)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`).
        _stop_writing()
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        what = "this machine has not enough memory for that"
        return tell(UncrateError(what, next="see what would be needed: uncrate plan WHERE"), as_json=as_json)
    except OSError as error:
        # The machine's refusal (a full disk, a missing right), which is the user's to mend and not a bug.
        named = str(error.filename) if error.filename is not None else None
        _show_traceback()
        return tell(UncrateError(error.strerror or str(error), where=named), as_json=as_json)
    except Exception as error:
        if _out_of_memory(error):
            what = "there is not enough memory for that"
            next = "a shorter conversation, a smaller --dtype, or see what is needed: uncrate plan WHERE"
            return tell(UncrateError(what, why=str(error).splitlines()[0], next=next), as_json=as_json)
        # The last boundary: what nobody foresaw is reported as the bug that it is.
        _show_traceback()
        what = f"uncrate failed unexpectedly: {type(error).__name__}: {error}"
        hint = "run it again with UNCRATE_DEBUG=1 for the traceback, and send both"
        return tell(UncrateError(what, why="this is a bug in uncrate", next=hint), as_json=as_json)


def _out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory; told by name and text, since torch is not imported here."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def use_utf8() -> None:
    """Write UTF-8 whatever the locale says: answers are Chinese as often as not."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def tell(error: UncrateError, *, as_json: bool) -> int:
    """Report an error on stderr, with `--json` also as a document on stdout; return its exit code."""
    on = show.colours(sys.stderr)
    try:
        print(f"{show.paint('error:', show.RED, on)} {show.harmless(str(error))}", file=sys.stderr)
        if as_json:
            print_document({"schema": 1, "error": error.to_dict()})
        sys.stdout.flush()
    except OSError:
        # Nobody is left to tell (a closed pipe, a full disk); the exit code still says it.
        _stop_writing()
    return error.exit_code


def _invoke(arguments: list[str]) -> int:
    import typer

    from uncrate.cli.commands import root_command

    root = root_command()
    try:
        with root.make_context("uncrate", arguments) as context:
            code = root.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except typer.TyperException as error:
        raise _usage_error(error) from error
    return code if isinstance(code, int) else 0


def _usage_error(error: Exception) -> UsageError:
    """Turn the parser's complaint into ours; a bare `uncrate` gets the help that it asked for by saying nothing."""
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    path = context.command_path if context is not None else "uncrate"
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(message, file=sys.stderr)
        return UsageError("a command is missing", next="uncrate demo")
    near = getattr(error, "possibilities", None)
    if near:
        return UsageError(str(error).rstrip("."), why=f"did you mean {near[0]}?", next=f"{path} --help")
    return UsageError(message.rstrip("."), next=f"{path} --help")


def _show_traceback() -> None:
    if settings.debug():
        traceback.print_exc(file=sys.stderr)


def _stop_writing() -> None:
    """Let what cannot be written go nowhere, or Python would fail on it once more when it leaves."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
