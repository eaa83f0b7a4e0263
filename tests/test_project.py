"""The project's promises about itself: what the README says is what the commands do, and the set-up files agree."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import uncrate
from uncrate.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
LONGEST_FILE = 350


@cache
def help_of(name: str) -> str:
    """What `uncrate NAME --help` prints."""
    command = [sys.executable, "-c", f"from uncrate.cli.main import main; raise SystemExit(main(['{name}', '--help']))"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def blocks(text: str) -> list[str]:
    """The fenced code blocks of a page."""
    return re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Every `uncrate NAME ...` in a page's code, with the options that it uses."""
    # In a session only what is typed counts, not what is printed.
    sessions = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    typed = [line[2:] for session in sessions for line in session.split("\n") if line.startswith("$ ")]
    shown = [block for block in blocks(text) if block not in sessions]
    code = "\n".join([*shown, *typed, *re.findall(r"`([^`\n]+)`", text)])
    found = []
    for name, rest in re.findall(r"\buncrate ([a-z]+)\b([^\n|]*)", code):
        words = re.sub(r'"[^"]*"', "", rest).split("   ")[0].split("#")[0]
        found.append((name, re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", words)))
    return found


@pytest.mark.parametrize("page", READMES)
def test_the_table_of_commands_is_that_of_the_help(page):
    listed = re.findall(r"^\| `uncrate ([a-z]+)[^`]*` \|", READMES[page], re.MULTILINE)
    assert sorted(set(listed)) == sorted(COMMANDS), "each command has a row in the README, and each row is a command"


@pytest.mark.parametrize("page", READMES)
def test_every_command_and_option_in_the_readme_exists(page):
    used = commands_in(READMES[page])
    assert used
    for name, options in used:
        assert name in COMMANDS, f"uncrate {name}"
        for option in options:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(name)), f"uncrate {name} {option}"


def test_both_readmes_show_the_same_commands():
    english, chinese = (commands_in(READMES[name]) for name in ("README.md", "README.zh.md"))
    assert [name for name, _ in english] == [name for name, _ in chinese]
    assert len(blocks(READMES["README.md"])) == len(blocks(READMES["README.zh.md"]))


@pytest.mark.parametrize("page", [*READMES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_paths_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"\b((?:benchmarks|recipes|examples|tests|docs)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path


def test_the_readmes_commands_are_those_of_the_makefile_and_of_ci():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert all(f"make {target}" in page for page in READMES.values())
    assert makefile.count("--constraint constraints.txt") == 2
    ci = ROOT / ".ci" / "run"
    assert "make test VENV=" in ci.read_text(encoding="utf-8") and ci.stat().st_mode & stat.S_IXUSR


def test_every_dependency_is_in_the_tested_set_and_only_there_pinned():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[\w.]+", version), line
            pinned[canonicalize_name(name)] = version
    assert next(iter(pinned.items())) == ("torch", "2.13.0")
    extras = PROJECT["optional-dependencies"].values()
    for text in (*PROJECT["dependencies"], *(text for many in extras for text in many)):
        wanted = Requirement(text)
        assert all(part.operator == ">=" for part in wanted.specifier), (
            f"{text}: pyproject.toml pins nothing from above"
        )
        if wanted.name != "uncrate":
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)], prereleases=True), text


def test_the_extra_all_is_all():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all", "dev"}


@pytest.mark.parametrize("page", READMES)
def test_the_bundled_checkpoints_figure_is_the_measured_one(page):
    results = (ROOT / "recipes" / "nano" / "RESULTS.md").read_text(encoding="utf-8")
    (measured,) = re.findall(r"all questions: ([\d.]+)%", results)
    assert re.findall(r"([\d.]+) %", READMES[page])[0] == measured


def test_name_version_licence():
    assert PROJECT["version"] == uncrate.__version__
    assert f"## {uncrate.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0" and "Version 2.0, January 2004" in licence and "APPENDIX" in licence
    assert PROJECT["scripts"] == {"uncrate": "uncrate.cli.main:run"}
    assert (ROOT / "src" / "uncrate" / "py.typed").exists()


def test_no_file_grows_past_reading():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "src").rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert long == {}


def test_no_file_is_a_drawer_for_everything():
    drawers = {"utils.py", "helpers.py", "common.py", "util.py", "misc.py"}
    assert [str(path) for path in (ROOT / "src").rglob("*.py") if path.name in drawers] == []


def test_nothing_is_left_open_in_the_source():
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b|except( Exception)?:\s*$|pragma: no cover", re.MULTILINE)
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (ROOT / "src").rglob("*.py")
        for match in marks.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_an_installed_copy_has_every_file():
    package = ROOT / "src" / "uncrate"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]["uncrate"]
    for path in package.rglob("*"):
        if "__pycache__" in path.parts or path.is_dir():
            continue
        inside = path.relative_to(package)
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").exists(), f"{inside.parent} is no package: it would not be installed"
        else:
            assert any(inside.match(pattern) for pattern in patterns), f"{inside} would not be installed"
