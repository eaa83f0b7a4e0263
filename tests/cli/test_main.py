"""Whatever happens becomes a message and an exit code: never a traceback, never a colour where nobody looks."""

from __future__ import annotations

import errno
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uncrate import show
from uncrate.cli import commands, main
from uncrate.errors import NotApproved, PlanError, UncrateError

ANSI = re.compile(r"\x1b")


def test_help_lists_every_command_in_the_table_with_a_line_of_its_own(cli):
    done = cli("--help")
    assert done.code == 0 and done.err == ""
    listed = re.findall(r"^  ([a-z]+) {2,}(\S.*)$", done.out.split("Commands:")[1], re.MULTILINE)
    assert [name for name, _ in listed] == list(commands.COMMANDS)
    assert all(text.endswith(".") and not text.endswith("...") for _, text in listed), "a line of help is cut off"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_explains_itself(cli, name):
    for flag in ("--help", "-h"):
        done = cli(name, flag)
        assert done.code == 0 and f"uncrate {name}" in done.out and done.err == ""


def test_each_command_is_one_file_in_the_folder():
    for name, module in commands.COMMANDS.items():
        assert module == f"uncrate.cli.{name}"


def test_version(cli):
    assert cli("--version").out == f"uncrate {commands.__version__}\n"


def test_no_command_shows_the_help_and_is_a_usage_error(cli):
    done = cli()
    assert done.code == 2 and done.out == ""
    assert "Commands:" in done.err and "error: a command is missing\n  next: uncrate demo" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspct", "x"), "there is no command 'inspct'\n  why: did you mean inspect?\n  next: uncrate inspect --help"),
        (
            ("frobnicate",),
            f"there is no command 'frobnicate'\n  why: the commands are {', '.join(commands.COMMANDS)}\n",
        ),
        (("inspect",), "Missing argument 'WHERE'\n  next: uncrate inspect --help"),
        (("plan", "./x", "--dytpe", "auto"), "No such option: --dytpe\n  why: did you mean --dtype?"),
        (("inspect", "./x", "./y"), "unexpected extra argument"),
        (("chat", "./x", "--top-k", "many"), "'many' is not a whole number"),
        (("chat", "./x", "--temperature", "hot"), "'hot' is not a number"),
        (("plan", "./x", "--dtype"), "--dtype"),
        (("plan", "./x", "--dtype", "bf16"), "dtype 'bf16' is not known; choose from auto, float64, float32"),
        (("plan", "./x", "--task", "talk"), "task 'talk' is not known; choose from auto, causal, classification"),
        (("plan", "./x", "--route", "direct"), "route 'direct' is not known"),
        (("inspect", "glm4v-tiny"), "glm4v-tiny is neither a folder nor a hub id"),
        (("inspect", "a/b/c"), "a/b/c is not a hub id"),
        (("inspect", ""), "WHERE is empty"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_meant(cli, arguments, message):
    done = cli(*arguments)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("error: ") and message in done.err and "Traceback" not in done.err


def test_errors_as_json(cli):
    done = cli("inspect", "nothing", "--json")
    assert done.code == 2
    error = done.document["error"]
    assert done.document["schema"] == 1 and list(done.document) == ["schema", "error"]
    assert (
        error["type"] == "UsageError" and error["next"] == "write ./nothing for a folder, or OWNER/nothing for the hub"
    )
    assert set(error) == {"type", "message", "where", "why", "next"}
    assert "nothing is neither a folder nor a hub id" in done.err, "the message stays on stderr"


def test_usage_errors_of_the_parser_as_json(cli):
    done = cli("plan", "--json")
    assert done.code == 2 and done.document["error"]["type"] == "UsageError"
    assert done.document["error"]["message"] == "Missing argument 'WHERE'"


def test_a_folder_that_is_not_there(cli, tmp_path):
    done = cli("inspect", str(tmp_path / "nowhere"))
    assert done.code == 1 and "there is no such folder" in done.err and "next:" in done.err


@pytest.mark.parametrize("command", ["inspect", "plan", "chat"])
def test_no_network_is_a_sentence(process, command):
    extra = ("-p", "hello") if command == "chat" else ()
    done = process(command, "owner/name", *extra)
    assert done.code == 1 and done.out == "" and "Traceback" not in done.err
    assert "owner/name" in done.err and "127.0.0.1:9" in done.err and "next:" in done.err


def test_offline_is_a_sentence(process):
    done = process("inspect", "owner/name", environment={"HF_HUB_OFFLINE": "1"})
    assert done.code == 1 and "Traceback" not in done.err and "offline" in done.err.lower()


def test_a_repository_that_is_not_there(cli, hub):
    done = cli("inspect", "owner/nothing", "--json")
    assert done.code == 1 and done.document["error"]["type"] == "HubError"
    assert "owner/nothing" in done.err


def raising(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.fixture
def failing(cli, monkeypatch):
    """Run a command that fails with an error of the test's choice."""

    def run(error: BaseException, *arguments: str):
        monkeypatch.setattr("uncrate.cli.doctor.command", raising(error))
        return cli("doctor", *arguments)

    return run


def test_exit_codes_of_the_error_tree(failing):
    assert failing(UncrateError("it failed")).code == 1
    assert failing(NotApproved("who knows this code")).code == 3
    done = failing(PlanError("two problems:", ["first", "second"], where="./x", next="look"))
    assert done.code == 1 and done.err == "error: ./x: two problems:\n  - first\n  - second\n  next: look\n"


def test_nothing_in_a_message_steers_the_terminal(failing):
    done = failing(UncrateError("bad name \x1b[2J\u202etxt", where="a\rb", next="line\x07"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", done.err)
    assert "\\u001b[2J" in done.err and "a\\rb" in done.err


def test_a_bug_says_that_it_is_one_and_where_the_traceback_is(failing, monkeypatch):
    monkeypatch.delenv("UNCRATE_DEBUG", raising=False)
    done = failing(ZeroDivisionError("division by zero"))
    assert done.code == 1 and "Traceback" not in done.err
    assert "uncrate failed unexpectedly: ZeroDivisionError: division by zero" in done.err
    assert "this is a bug in uncrate" in done.err and "UNCRATE_DEBUG=1" in done.err
    monkeypatch.setenv("UNCRATE_DEBUG", "1")
    assert "Traceback (most recent call last)" in failing(ZeroDivisionError("division by zero")).err


def test_what_the_machine_refuses_is_not_called_a_bug(failing):
    done = failing(OSError(errno.ENOSPC, "No space left on device", "/data/out"))
    assert done.code == 1 and done.err == "error: /data/out: No space left on device\n"
    done = failing(MemoryError())
    assert done.code == 1 and "not enough memory" in done.err and "bug" not in done.err


def test_interrupted_is_130(failing):
    done = failing(KeyboardInterrupt())
    assert done.code == 130 and done.err == "\ninterrupted\n"


def test_ctrl_c_while_a_command_runs(process_environment, tmp_path):
    # stdin stays open, so the conversation waits for a question until the signal comes.
    command = [sys.executable, "-m", "uncrate", "chat", str(tmp_path / "none"), "-p", "-"]
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=process_environment
    )
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130 and out == b"" and b"Traceback" not in err and b"interrupted" in err


@pytest.mark.parametrize("arguments", [("inspect", "--tensors"), ("plan", "--json"), ("plan",)])
def test_a_reader_that_leaves_is_no_error(process_environment, golden, arguments):
    head, *rest = arguments
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "uncrate", head, golden, *rest],
        stdout=write,
        stderr=subprocess.PIPE,
        env=process_environment,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0 and done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--json"), ("plan",)])
def test_output_that_cannot_be_written_is_a_failure_in_words(process_environment, golden, arguments):
    head, *rest = arguments
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "uncrate", head, golden, *rest],
            stdout=full,
            stderr=subprocess.PIPE,
            env=process_environment,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1 and done.stderr == b"error: No space left on device\n"


@pytest.mark.parametrize(
    "locale",
    [
        {"LANG": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["C", "C without UTF-8 mode", "ascii"],
)
def test_chinese_text_survives_any_locale(process, tmp_path, locale):
    # The file's content is Chinese; a Chinese path is refused in words where the locale cannot spell it.
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "聊天"}', encoding="utf-8")
    done = process("inspect", "./model", environment=locale)
    assert done.code == 0 and "聊天" in done.out and done.err == ""
    missing = process("inspect", "./没有", environment=locale)
    assert missing.code in (1, 2) and "Traceback" not in missing.err


def run_on_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run a command with a terminal for stdout and return what it wrote."""
    parent, child = pty.openpty()
    running = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    seen = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(parent)
    assert running.wait(60) == 0
    return seen.decode("utf-8")


def test_colours_only_on_a_terminal_that_wants_them(process, process_environment, golden):
    command = [sys.executable, "-m", "uncrate", "inspect", golden]
    assert not ANSI.search(process("inspect", golden).out)
    assert ANSI.search(run_on_terminal(command, process_environment | {"TERM": "xterm"}))
    assert not ANSI.search(run_on_terminal(command, process_environment | {"TERM": "xterm", "NO_COLOR": "1"}))
    assert not ANSI.search(run_on_terminal(command, process_environment | {"TERM": "dumb"}))


def test_the_entry_point_is_run():
    with pytest.raises(SystemExit) as left:
        sys.argv, kept = ["uncrate", "--version"], sys.argv
        try:
            main.run()
        finally:
            sys.argv = kept
    assert left.value.code == 0


def test_show_has_no_colour_for_pytest():
    assert show.colours(sys.stdout) is False
