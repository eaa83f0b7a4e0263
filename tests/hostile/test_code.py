"""Hostile code, each case ending in a typed error or a named problem: nothing ran, nothing stayed, and quickly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile.code_files import CASES, CLASS, CONFIG, Case, mark, one
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from uncrate.checkpoint.code import Code, read_code
from uncrate.checkpoint.manifest import read_manifest
from uncrate.checkpoint.syntax import Unparsable, decode_source, parse_source
from uncrate.checkpoint.walk import walk
from uncrate.errors import CodeError, UncrateError
from uncrate.trust.approve import verify
from uncrate.trust.findings import find_in_source

SECONDS = 5


def inspect(folder: Path) -> Code:
    return read_code(read_manifest(folder))


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        entry.name: (entry.stat().st_mtime_ns, entry.stat().st_size) for entry in os.scandir(folder) if entry.is_file()
    }


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_hostile_code_ends_in_words(build: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    marker, folder = tmp_path / "marker", tmp_path / "checkpoint"
    folder.mkdir()
    says = build(folder, mark(marker))
    before, modules, limit = everything(folder), set(sys.modules), sys.getrecursionlimit()
    started = time.process_time()
    told = ""
    try:
        code = inspect(folder)
    except UncrateError as error:
        told = str(error)
        assert error.where
    else:
        assert says.startswith("PROBLEM:"), "it must be refused"
        told = "\n".join(code.problems)
        assert not verify(code).approved
    assert time.process_time() - started < SECONDS
    assert any(word in told for word in says.removeprefix("PROBLEM:").split("|")), told
    assert told.replace("\n", "").isprintable()
    assert len(told) < 2_000
    assert not marker.exists()
    assert not (tmp_path / "home").exists()
    assert everything(folder) == before
    assert sys.getrecursionlimit() == limit
    assert {name for name in set(sys.modules) - modules if not name.startswith("uncrate")} <= {"fcntl"}


def test_all_cases_together_stay_in_bounds(tmp_path: Path) -> None:
    # A raised recursion limit, as some libraries set it, must not turn a deep file into a dead process.
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
sys.setrecursionlimit(10**6)
from pathlib import Path
from hostile.code_files import CASES, mark
from uncrate.checkpoint.code import read_code
from uncrate.checkpoint.manifest import read_manifest
from uncrate.errors import UncrateError
for build in CASES:
    folder = Path({str(tmp_path)!r}) / build.__name__ / "checkpoint"
    folder.mkdir(parents=True)
    build(folder, mark(folder.parent / "marker"))
    try:
        read_code(read_manifest(folder))
    except UncrateError:
        pass
    assert not (folder.parent / "marker").exists(), build.__name__
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak // 1024, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    megabytes, torch = done.stdout.split()
    assert int(megabytes) < 500
    assert torch == "False"


def test_the_entry_file_decides_nothing_by_its_name(tmp_path: Path) -> None:
    # torch.py, numpy.py and sitecustomize.py lie there; what the code imports is the installed package.
    one(tmp_path, "import torch, numpy\n" + CLASS)
    for name in ("torch", "numpy", "sitecustomize", "transformers"):
        (tmp_path / f"{name}.py").write_text(mark(tmp_path / "marker"))
    code = inspect(tmp_path)
    assert [file.path for file in code.files] == ["modeling_x.py"]
    assert code.not_run == ("numpy.py", "sitecustomize.py", "torch.py", "transformers.py")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("cookie", ["utf-8", "UTF-8", "utf8", "utf_8", "utf-8-sig"])
def test_sound_encodings_are_read(tmp_path: Path, cookie: str) -> None:
    one(tmp_path, f"\ufeff# -*- coding: {cookie} -*-\r\nx = '\u00e9\u4f60'\r\n{CLASS}")
    assert inspect(tmp_path).problems == ()


SOURCES = (
    "import os as o\nfrom .a import (b, c)\ntry:\n    import x\nexcept (ImportError, OSError):\n    x = None\n",
    "@d(lambda: 1)\nclass XModel(B, k=1):\n    a: int = f'{x!r:>{y}} {{z}}'\n"
    "    def f(self, *a, b=eval('1'), **k) -> 'T':\n        return [a for a in b if c]\n",
    "if __name__ == '__main__':\n    exec(open('x', 'w').read())\n"
    "with a as b, c:\n    global d\n    d = b'\\xff' r'\\x' '''\n'''\n",
    "async def f():\n    async for a in b:\n        await a\n        yield -a ** ~b\n"
    "match x:\n    case {'a': [1, *_], **k} if k: pass\n",
)
_CHARACTERS = "()[]{}'\"\\\n\t #;:,.=+-*/@!%&|^~<>\r\0\ufeff\u202e\u200bﬁé𝕏"
_WORDS = ('"""', "'''", "elif ", "lambda:", "import ", "from . ", "f'{", "match ", "# coding: ")
PIECES = st.sampled_from([*_CHARACTERS, *_WORDS])
MUTATION = st.tuples(st.integers(0, 300), st.integers(0, 40), st.lists(PIECES, max_size=8))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SOURCES), st.lists(MUTATION, max_size=6))
@example("", [(0, 0, ["f'{"] * 8)])
def test_mutated_source_gives_findings_or_a_typed_error(
    source: str, mutations: list[tuple[int, int, list[str]]]
) -> None:
    read_mutated(source, mutations)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SOURCES), st.lists(MUTATION, max_size=10))
def test_ten_thousand_mutations(source: str, mutations: list[tuple[int, int, list[str]]]) -> None:
    read_mutated(source, mutations)


def read_mutated(source: str, mutations: list[tuple[int, int, list[str]]]) -> None:
    for place, length, pieces in mutations:
        source = source[:place] + "".join(pieces) + source[place + length :]
    try:
        text = decode_source(source.encode(), "m.py")
        tree, tokens = parse_source(text, "m.py")
    except (CodeError, Unparsable) as error:
        assert str(error)
        return
    assert tokens >= 0
    for finding in find_in_source(walk(tree), text, "m.py"):
        assert finding.snippet.isprintable()
        assert 1 <= finding.line <= text.count("\n") + 1


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_a_typed_error(data: bytes) -> None:
    try:
        text = decode_source(data, "m.py")
    except CodeError as error:
        assert "m.py" in str(error)
    else:
        assert "\0" not in text and "\r" not in text


def test_the_limits_leave_real_code_alone(tmp_path: Path) -> None:
    body = "        return torch.cat([x[:, :4], y.view(-1).contiguous()], dim=-1) * 4\n"
    methods = "".join(f"    def f{n}(self, x, y=None, *, z: int = 3):\n{body}" for n in range(2_000))
    one(tmp_path, f"import torch\nclass XModel(torch.nn.Module):\n{methods}")
    code = inspect(tmp_path)
    assert code.problems == ()
    assert code.files[0].lines == 4_002
    assert CONFIG["auto_map"]
