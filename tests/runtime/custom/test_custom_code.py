"""Checkpoint code runs from its approved bytes, in its own namespace, and behaves like any module there."""

# ruff: noqa: E501

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from runtime.custom.closures import closure

from uncrate.errors import CodeError, MissingPackage, NotApproved
from uncrate.runtime import custom_code
from uncrate.runtime.closure_store import siblings_of
from uncrate.runtime.custom_code import closure_of, load_class, module_name
from uncrate.trust.lockfile import Approved, LockedFile, Revocation, format_lock
from uncrate.trust.store import Store

NET = """
    import torch
    from torch import nn
    from .parts import scale

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            return scale(self.linear(x))
"""
PARTS = """
    FACTOR = {factor}

    def scale(x):
        from .late import shift
        return shift(x * FACTOR)
"""
LATE = """
    def shift(x):
        return x + 1
"""


def net(factor: int = 2) -> tuple[str, dict[str, bytes]]:
    return closure(net=NET, parts=PARTS.format(factor=factor), late=LATE)


def test_two_revisions_side_by_side():
    first, second = (load_class(*net(factor), "net.Net") for factor in (2, 3))
    assert first is not second and first.__module__ != second.__module__
    assert closure_of(first.__module__) == net(2)[0]
    made = first(), second()
    made[1].load_state_dict(made[0].state_dict())
    x = torch.ones(1, 2)
    bare = made[0].linear(x)
    assert torch.equal(made[0](x), bare * 2 + 1) and torch.equal(made[1](x), bare * 3 + 1)
    assert isinstance(made[0], first) and not isinstance(made[0], second)
    assert load_class(*net(2), "net.Net") is first


def test_same_hash_with_other_bytes_is_refused():
    closure_hash, files = net(4)
    load_class(closure_hash, files, "net.Net")
    with pytest.raises(CodeError, match="other bytes"):
        load_class(closure_hash, {**files, "late.py": b""}, "net.Net")


@pytest.mark.parametrize("bad", ["", "../x", "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "\n"])
def test_malformed_hash(bad):
    with pytest.raises(CodeError, match="closure hash"):
        load_class(bad, {}, "net.Net")


def test_copy_pickle_and_source():
    cls = load_class(*net(5), "net.Net")
    model = cls()
    x = torch.ones(1, 2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is cls and torch.equal(other(x), model(x))
    assert "class Net(nn.Module)" in inspect.getsource(cls)
    assert inspect.getsource(cls.forward).lstrip().startswith("def forward")


def test_source_is_what_ran_even_if_the_line_cache_is_emptied():
    import linecache

    cls = load_class(*net(6), "net.Net")
    linecache.clearcache()
    assert "scale(self.linear(x))" in inspect.getsource(cls)
    path = Path(inspect.getfile(cls))
    assert not path.exists() and not path.parent.exists()
    with pytest.raises(OSError):
        path.parent.mkdir(parents=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_jit_script():
    source = """
        import torch

        @torch.jit.script
        def double(x: torch.Tensor) -> torch.Tensor:
            y = x.view(-1)
            return (y + y).view(x.shape)

        class Holder:
            double = staticmethod(double)
    """
    holder = load_class(*closure(fused=source), "fused.Holder")
    assert torch.equal(holder.double(torch.ones(2, 2)), torch.full((2, 2), 2.0))


def test_torch_compile():
    cls = load_class(*net(7), "net.Net")
    model, x = cls(), torch.ones(1, 2)
    compiled = torch.compile(model, backend="eager")
    assert torch.allclose(compiled(x), model(x))


def test_absolute_imports_do_not_reach_the_checkpoint():
    sources = {"main": "import json\nimport torch\nclass Main:\n    seen = (json.__name__, hasattr(torch, 'Tensor'))\n"}
    closure_hash, files = closure(**sources, torch="raise SystemExit('planted')", json="raise SystemExit('planted')")
    assert load_class(closure_hash, files, "main.Main").seen == ("json", True)
    assert siblings_of(files) == frozenset()


def test_sibling_is_served_from_the_closure_and_stays_in_it():
    sources = {
        "modeling_kin": """
            import configuration_kin
            import configuration_kin as again
            from configuration_kin import Config

            class Model:
                config_class = Config
                same = configuration_kin is again and configuration_kin.Config is Config
        """,
        "configuration_kin": "class Config:\n    pass\n",
    }
    closure_hash, files = closure(**sources)
    assert siblings_of(files) == {"configuration_kin"}
    cls = load_class(closure_hash, files, "modeling_kin.Model", siblings=siblings_of(files))
    assert cls.same and closure_of(cls.config_class.__module__) == closure_hash
    assert "configuration_kin" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        __import__("configuration_kin")


def test_a_sibling_must_be_declared():
    closure_hash, files = closure(a="import undeclared_kin\n", undeclared_kin="")
    with pytest.raises(MissingPackage, match="undeclared_kin"):
        load_class(closure_hash, files, "a.A")


def test_packages_cycles_and_star():
    files = {
        "deep/__init__.py": b"from .inner import *\n",
        "deep/inner.py": b"from .. import top\n__all__ = ['value']\ndef value():\n    return top.NUMBER\n",
        "top.py": b"NUMBER = 7\nfrom . import other\nfrom .deep import value\nclass Top:\n    value = staticmethod(value)\n",
        "other.py": b"from . import top\ndef number():\n    return top.NUMBER\n",
        "plain/leaf.py": b"from ..other import number\nclass Leaf:\n    number = staticmethod(number)\n",
    }
    closure_hash = "ab" * 32
    assert load_class(closure_hash, files, "top.Top").value() == 7
    assert load_class(closure_hash, files, "plain.leaf.Leaf").number() == 7


def test_files_of_another_repository():
    files = {
        "modeling.py": b"class A:\n    pass\n",
        "owner/name--modeling.py": b"from .part import B\nimport kin_of_other\n",
        "owner/name--part.py": b"class B:\n    pass\n",
        "owner/name--kin_of_other.py": b"",
    }
    reference = f"{module_name('owner/name--modeling.py')}.B"
    made = load_class("cd" * 32, files, reference, siblings=frozenset({"kin_of_other"}))
    assert made.__name__ == "B" and load_class("cd" * 32, files, "modeling.A").__name__ == "A"


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("from ... import approved", CodeError, "beyond the checkpoint"),
        ("from ..x import y", CodeError, "beyond the checkpoint"),
        ("import no_such_package_at_all", MissingPackage, "no_such_package_at_all"),
        ("from .gone import x", CodeError, "lacks the module gone"),
        ("def broken(:\n", CodeError, "SyntaxError"),
        ("raise ValueError('no \\x1b[31m luck')", CodeError, "ValueError"),
        ("x = 1", CodeError, "not a class"),
        ("from collections import nothing_such", CodeError, "ImportError"),
    ],
)
def test_failing_code_is_one_sentence_with_its_place(source, error, says):
    with pytest.raises(error, match=says) as caught:
        load_class(*closure(main=source), "main.Main")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "reference", ["Main", "main.", "main.__init__", "main.a b", "nothing.Main", ".Main", "main.Main()"]
)
def test_reference_that_names_no_class(reference):
    with pytest.raises(CodeError):
        load_class(*closure(main="class Main:\n    pass\n"), reference)


def test_not_utf8():
    files = {"main.py": b"# \xff\xfe\nclass Main:\n    pass\n"}
    with pytest.raises(CodeError, match="UTF-8"):
        load_class("ef" * 32, files, "main.Main")


def test_folder_and_bytecode_are_never_read(tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    evil = f"open({str(marker)!r}, 'w').close()\nclass Net: pass\n"
    closure_hash, files = net(8)
    folder = Path(custom_code.__file__).parent / "approved" / f"c{closure_hash}"
    assert not folder.exists()
    (tmp_path / "net.py").write_text(evil)
    (tmp_path / f"c{closure_hash}").mkdir()
    (tmp_path / f"c{closure_hash}" / "net.py").write_text(evil)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    load_class(closure_hash, files, "net.Net")()
    assert not marker.exists()


def test_threads_import_once():
    closure_hash, files = closure(counted="import time\ntime.sleep(0.05)\nclass Counted:\n    pass\n")
    found: list[type] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_class(closure_hash, files, "counted.Counted")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


def approve(home: Path, closure_hash: str, files: dict[str, bytes], *, revoked: bool = False) -> None:
    store = Store(home / "store")
    locked = tuple(LockedFile(path, store.put(data)) for path, data in files.items())
    entry = Approved(closure_hash, "./x", "tester", "2026-01-01T00:00:00Z", "", locked, ())
    revocations = (Revocation(closure_hash, "tester", "2026-01-02T00:00:00Z", ""),) if revoked else ()
    home.mkdir(exist_ok=True)
    (home / "uncrate.lock").write_text(format_lock((entry,), revocations))


CHILD = """
import pickle, sys, torch
model = pickle.loads(sys.stdin.buffer.read())
print(float(model(torch.ones(1, 2)).sum().detach()))
"""


def unpickle_elsewhere(home: Path, data: bytes) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "UNCRATE_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", CHILD], input=data, capture_output=True, env=env, cwd=home, check=False
    )


def test_another_process_takes_the_code_from_the_store_if_it_is_approved(tmp_path):
    closure_hash, files = net(9)
    model = load_class(closure_hash, files, "net.Net")()
    data, home = pickle.dumps(model), tmp_path / "home"
    home.mkdir()
    refused = unpickle_elsewhere(home, data)
    assert refused.returncode != 0 and b"is not approved here" in refused.stderr
    approve(home, closure_hash, files)
    done = unpickle_elsewhere(home, data)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(model(torch.ones(1, 2)).sum().detach()), rel=1e-5)
    path = Store(home / "store").path(Store(home / "store").put(files["parts.py"]))
    path.write_bytes(files["parts.py"] + b"\n")
    assert b"altered" in unpickle_elsewhere(home, data).stderr
    path.unlink()
    assert b"not in the store" in unpickle_elsewhere(home, data).stderr
    approve(home, closure_hash, files, revoked=True)
    assert b"is revoked" in unpickle_elsewhere(home, data).stderr


def test_a_name_that_nobody_approved_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    import uncrate.runtime.approved  # noqa: F401

    with pytest.raises(NotApproved):
        __import__(f"uncrate.runtime.approved.c{'12' * 32}.net")
    for name in ("os", "c123", "approved"):
        with pytest.raises(ModuleNotFoundError):
            __import__(f"uncrate.runtime.approved.{name}")


def test_data_loader_workers_by_spawn(tmp_path, monkeypatch):
    source = """
        from torch.utils.data import Dataset

        class Squares(Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                from .helper import square
                return square(index)
    """
    closure_hash, files = closure(data=source, helper="def square(x):\n    return x * x\n")
    approve(tmp_path / "home", closure_hash, files)
    monkeypatch.setenv("UNCRATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys\n"
        "from torch.utils.data import DataLoader\n"
        "from uncrate.runtime.closure_store import approved_closure\n"
        "from uncrate.runtime.custom_code import load_class\n"
        "if __name__ == '__main__':\n"
        f"    files, siblings = approved_closure({closure_hash!r})\n"
        f"    data = load_class({closure_hash!r}, files, 'data.Squares')()\n"
        "    loader = DataLoader(data, num_workers=1, multiprocessing_context='spawn')\n"
        "    print(json.dumps([int(x) for x in loader]))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 1, 4, 9]
