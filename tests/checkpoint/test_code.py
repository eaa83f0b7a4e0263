"""The closure: which files a checkpoint's code reaches, why, and what is said about the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from checkpoint.checkpoints import write
from hubserver import HubServer

from uncrate.checkpoint import imports
from uncrate.checkpoint.code import Code, read_code
from uncrate.checkpoint.manifest import read_manifest
from uncrate.errors import CodeError

GOLDEN = Path(__file__).parent.parent / "golden/data/glm4v-tiny"
CONFIG = {"auto_map": {"AutoModel": "modeling_x.XModel"}}
CLASS = "class XModel: pass\n"


def code_of(folder: Path, files: Mapping[str, Any], *, config: Any = CONFIG) -> Code:
    return read_code(read_manifest(write(folder, {"config.json": config, **files})))


def paths(code: Code) -> list[str]:
    return [file.path for file in code.files]


@pytest.mark.parametrize(
    ("statement", "files", "reached"),
    [
        ("from .a import x", ["a.py"], ["a.py"]),
        ("from . import a, b", ["a.py", "b.py"], ["a.py", "b.py"]),
        ("from .a import *", ["a.py"], ["a.py"]),
        ("from . import a as z", ["a.py"], ["a.py"]),
        ("def f():\n    from .a import x", ["a.py"], ["a.py"]),
        ("try:\n    from .a import x\nexcept ImportError:\n    from .b import x", ["a.py", "b.py"], ["a.py", "b.py"]),
        ("if 1:\n    pass\nelse:\n    from .a import x", ["a.py"], ["a.py"]),
        (
            "class C:\n    def f(self):\n        return [__import__ for _ in ()]\n    from .a import x",
            ["a.py"],
            ["a.py"],
        ),
        ("async def f():\n    async with g:\n        from .a import x", ["a.py"], ["a.py"]),
        ("match 1:\n    case 1:\n        from .a import x", ["a.py"], ["a.py"]),
        ("f = lambda: 1\nwhile 0:\n    from .a import x", ["a.py"], ["a.py"]),
        ("from .sub import x", ["sub/__init__.py"], ["sub/__init__.py"]),
        ("from .sub import m", ["sub/__init__.py", "sub/m.py"], ["sub/__init__.py", "sub/m.py"]),
        ("from .sub.m import x", ["sub/__init__.py", "sub/m.py"], ["sub/__init__.py", "sub/m.py"]),
        ("from .sub.m import x", ["sub/m.py"], ["sub/m.py"]),
        ("from .sub import m", ["sub/m.py"], ["sub/m.py"]),
        ("from . import sub", ["sub/__init__.py"], ["sub/__init__.py"]),
        ("from . import a", ["a.py", "__init__.py"], ["a.py"]),
        ("from .a import x", ["a.py", "a/notes.txt"], ["a.py"]),
        ("import torch", ["torch.py"], []),
        ("from torch import nn", ["torch/__init__.py"], []),
        ("import os, json", ["os.py", "json.py"], []),
        ("import sibling_x", ["sibling_x.py"], ["sibling_x.py"]),
        ("from sibling_x import y", ["sibling_x.py"], ["sibling_x.py"]),
        (
            "from sibling_p.m import y",
            ["sibling_p/__init__.py", "sibling_p/m.py"],
            ["sibling_p/__init__.py", "sibling_p/m.py"],
        ),
        ("import sibling_p.m", ["sibling_p/m.py"], ["sibling_p/m.py"]),
        ("'from .a import x'  # from .a import x", ["a.py"], []),
    ],
)
def test_every_form_of_import_is_followed(tmp_path: Path, statement: str, files: list[str], reached: list[str]) -> None:
    code = code_of(tmp_path, {"modeling_x.py": f"{statement}\n{CLASS}", **dict.fromkeys(files, "")})
    assert paths(code) == sorted(["modeling_x.py", *reached])
    assert code.problems == ()
    left = [path for path in files if path.endswith(".py") and path not in reached]
    assert list(code.not_run) == sorted(left)


def test_a_star_from_a_package_reaches_what_its_all_lists(tmp_path: Path) -> None:
    files = {
        "sub/__init__.py": "__all__ = ['a', 'x']\n__all__ += ['b']\nx = 1\n",
        "sub/a.py": "",
        "sub/b.py": "",
        "sub/c.py": "",
    }
    code = code_of(tmp_path, {"modeling_x.py": "from .sub import *\n" + CLASS, **files})
    assert paths(code) == ["modeling_x.py", "sub/__init__.py", "sub/a.py", "sub/b.py"]


def test_imports_inside_a_package_start_there(tmp_path: Path) -> None:
    files = {
        "modeling_x.py": "from .sub.deep.m import x\n" + CLASS,
        "sub/__init__.py": "",
        "sub/deep/__init__.py": "from . import n\n",
        "sub/deep/m.py": "from .n import x\nfrom ..side import y\nfrom ... import top\nfrom ...other import z\n",
        "sub/deep/n.py": "",
        "sub/side.py": "",
        "top.py": "",
        "other.py": "",
        "n.py": "",
        "side.py": "",
    }
    code = code_of(tmp_path, files)
    assert paths(code) == sorted(set(files) - {"n.py", "side.py"})
    assert code.not_run == ("n.py", "side.py")
    assert code.file("sub/side.py").pulled_in_by == ("sub/deep/m.py:2",)
    assert code.problems == ()


def test_cycles_end(tmp_path: Path) -> None:
    files = {
        "modeling_x.py": "from .a import *\n" + CLASS,
        "a.py": "from . import b\nfrom .a import z\n",
        "b.py": "from .modeling_x import y\n",
    }
    assert paths(code_of(tmp_path, files)) == ["a.py", "b.py", "modeling_x.py"]


def test_what_is_missing_is_told_where_it_is_needed(tmp_path: Path) -> None:
    source = (
        "from .gone import x\ntry:\n    from .maybe import y\nexcept ImportError:\n    y = 0\nfrom ..above import z\n"
    )
    code = code_of(tmp_path, {"modeling_x.py": source + CLASS})
    assert len(code.problems) == 2
    assert code.problems[0].startswith("modeling_x.py:1: .gone is not in the checkpoint")
    assert code.problems[1].startswith("modeling_x.py:6: the import of ..above leads out of the checkpoint")


def test_references_without_files_are_problems_and_not_errors() -> None:
    # The golden checkpoint ships without its code, as when a user has the weights but refuses the code.
    code = read_code(read_manifest(GOLDEN))
    assert not code and code.closure == ""
    assert len(code.entry_points) == 6
    assert all("is not in the checkpoint" in str(entry.problem) for entry in code.entry_points)
    assert code.not_run == ()


def test_entry_points_of_every_json_file_count(tmp_path: Path) -> None:
    code = code_of(
        tmp_path,
        {
            "modeling_x.py": CLASS,
            "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tok.Slow", "tok.Fast"]}},
            "tok.py": "class Slow: pass\nclass Fast: pass\n",
            "processor_config.json": {"auto_map": {"AutoProcessor": "proc.Proc"}},
            "proc.py": "class Proc: pass\n",
            "anything.json": {"a": [{"auto_map": {"AutoModel": "deep.Deep"}}]},
            "deep.py": "class Deep: pass\n",
            "nested/config.json": {"auto\\u005fmap": 0},
            "nested/other.json": '{"auto\\u005fmap": {"AutoModel": "escaped.E"}}',
            "escaped.py": "class E: pass\n",
            "vocab.json": {"auto_map": 3},
            "custom_generate/generate.py": "from .extra import x\ndef generate(model): pass\n",
            "custom_generate/extra.py": "",
            "custom_generate/requirements.txt": "einops>=0.6  # text\n\n# nothing\n\x1b[2Jevil\n",
        },
    )
    assert [(e.where, e.path) for e in code.entry_points] == [
        ("anything.json#/a/0/auto_map/AutoModel", "deep.py"),
        ("config.json#/auto_map/AutoModel", "modeling_x.py"),
        ("nested/other.json#/auto_map/AutoModel", "escaped.py"),
        ("processor_config.json#/auto_map/AutoProcessor", "proc.py"),
        ("tokenizer_config.json#/auto_map/AutoTokenizer/0", "tok.py"),
        ("tokenizer_config.json#/auto_map/AutoTokenizer/1", "tok.py"),
        ("custom_generate/generate.py", "custom_generate/generate.py"),
    ]
    assert "custom_generate/extra.py" in paths(code)
    assert code.requirements == ("einops>=0.6", "\\u001b[2Jevil")
    assert code.entry("AutoModel").where == "config.json#/auto_map/AutoModel"  # type: ignore[union-attr]
    assert code.entry("AutoTokenizer").class_name == "Fast"  # type: ignore[union-attr]
    assert code.entry("AutoTokenizer", slot=0).class_name == "Slow"  # type: ignore[union-attr]
    assert code.entry("AutoImageProcessor") is None
    assert code.problems == ()


@pytest.mark.parametrize(
    "source",
    [
        "class XModel: pass",
        "if 1:\n    class XModel: pass",
        "try:\n    import z_gone\nexcept ImportError:\n    class XModel: pass",
        "@decorate\nclass XModel(Base, metaclass=M): pass",
        "from .a import XModel",
        "from .a import Other as XModel",
        "from .a import *",
        "from .sub import XModel",
        "from sibling_x import XModel",
    ],
)
def test_a_class_of_the_closure_can_be_entered(tmp_path: Path, source: str) -> None:
    files = {
        "modeling_x.py": source + "\n",
        "a.py": "class XModel: pass\nclass Other: pass\n",
        "sub/__init__.py": "from .deep import XModel\n",
        "sub/deep.py": "class XModel: pass\n",
        "sibling_x.py": "class XModel: pass\n",
    }
    assert [entry.problem for entry in code_of(tmp_path, files).entry_points] == [None]


def test_packages_are_listed_with_what_is_missing(tmp_path: Path) -> None:
    source = (
        "import torch.nn as nn, zz_gone\nfrom zz_gone.sub import x\n"
        "try:\n    import zz_optional\nexcept ImportError:\n    zz_optional = None\n"
        "if is_zz_available():\n    from zz_checked import f\n"
        "if SOME_FLAG:\n    import zz_flag\nelse:\n    import zz_other\n"
        "with suppress(ImportError):\n    import zz_suppressed\n"
        "if TYPE_CHECKING:\n    import zz_types\n"
        "def f():\n    import zz_late\n"
        "try:\n    import zz_strict\nfinally:\n    pass\n"
        "import os.path, __future__\n"
    )
    file = code_of(tmp_path, {"modeling_x.py": source + CLASS}).file("modeling_x.py")
    assert {p.name: (p.installed, p.optional, p.when) for p in file.imports} == {
        "torch": (True, False, "import"),
        "zz_gone": (False, False, "import"),
        "zz_optional": (False, True, "import"),
        "zz_checked": (False, True, "import"),
        "zz_types": (False, True, "import"),
        "zz_flag": (False, True, "import"),
        "zz_other": (False, True, "import"),
        "zz_suppressed": (False, True, "import"),
        "zz_late": (False, False, "call"),
        "zz_strict": (False, False, "import"),
    }
    assert file.missing_packages == ("zz_gone", "zz_strict")


def test_only_what_an_entry_point_needs_stops_it(tmp_path: Path) -> None:
    files = {
        "modeling_x.py": "from .a import x\nfrom .configuration_x import C\ntry:\n    from .kernels import k\n"
        "except Exception:\n    k = None\ndef f():\n    from .late import y\n    from .gone import z\n" + CLASS,
        "configuration_x.py": "class C: pass\n",
        "a.py": "import zz_needed\nfrom .nowhere import x\nif 1:\n    from . import old\n",
        "old.py": "print 'x'\n",
        "kernels.py": "import zz_triton\n",
        "late.py": "import zz_late\n",
        "tokenization_x.py": "import zz_tokenizer\nclass T: pass\n",
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tokenization_x.T", "tokenization_x.Fast"]}},
    }
    config = {"auto_map": {"AutoModel": "modeling_x.XModel", "AutoConfig": "configuration_x.C"}}
    code = code_of(tmp_path, files, config=config)

    def faults(auto_class: str, slot: int | None = None) -> list[str]:
        entry = code.entry(auto_class, slot=slot)
        assert entry is not None
        return list(code.faults(entry))

    assert faults("AutoConfig") == []
    assert faults("AutoModel") == [
        "a.py:2: .nowhere is not in the checkpoint, so x cannot be imported",
        "a.py:1 needs the package zz_needed, which is not installed",
        "old.py cannot run: line 1: Missing parentheses in call to 'print'. Did you mean print(...)?",
    ]
    assert faults("AutoTokenizer", 0) == ["tokenization_x.py:1 needs the package zz_tokenizer, which is not installed"]
    assert "defines no class Fast" in faults("AutoTokenizer", 1)[0]
    assert any("modeling_x.py:9: .gone" in problem for problem in code.problems)


def test_a_sibling_imported_absolutely_is_served_and_said(tmp_path: Path) -> None:
    code = code_of(tmp_path, {"modeling_x.py": "import configuration_zz as c\n" + CLASS, "configuration_zz.py": ""})
    assert code.file("modeling_x.py").siblings == ("configuration_zz",)
    assert code.file("modeling_x.py").missing_packages == ()


def test_the_working_directory_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Started in the checkpoint's folder, Python would find its files as if they were installed.
    monkeypatch.chdir(write(tmp_path, {"zz_local.py": "", "sub/x": ""}))
    monkeypatch.syspath_prepend("")
    monkeypatch.syspath_prepend(str(tmp_path / "sub" / ".."))
    imports.is_installed.cache_clear()
    assert not imports.is_installed("zz_local")
    imports.is_installed.cache_clear()


def test_the_bytes_that_were_hashed_are_kept(tmp_path: Path) -> None:
    code = code_of(tmp_path, {"modeling_x.py": "\ufeff# é\r\n" + CLASS})
    (tmp_path / "modeling_x.py").write_text("swapped")
    assert code.read("modeling_x.py") == ("\ufeff# é\r\n" + CLASS).encode()
    assert code.file("modeling_x.py").lines == 2
    with pytest.raises(CodeError, match="is not a file of the closure"):
        code.read("other.py")
    with pytest.raises(TypeError):
        code.sources["modeling_x.py"] = b""  # type: ignore[index]


def test_the_hash_stands_for_files_and_their_use(tmp_path: Path) -> None:
    base = {"modeling_x.py": CLASS + "class Other: pass\nfrom .a import *\n", "a.py": "", "unused.py": ""}
    first = code_of(tmp_path / "1", base).closure
    assert code_of(tmp_path / "2", base).closure == first
    assert code_of(tmp_path / "3", {**base, "unused.py": "x = 1\n", "more.py": ""}).closure == first
    assert code_of(tmp_path / "4", {**base, "a.py": "#"}).closure != first
    pointed = {"auto_map": {"AutoModel": "modeling_x.Other"}}
    assert code_of(tmp_path / "5", base, config=pointed).closure != first
    moved = {"auto_map": {"AutoModelForCausalLM": "modeling_x.XModel"}}
    assert code_of(tmp_path / "6", base, config=moved).closure != first
    spaced = json.dumps({"model_type": "y", **CONFIG}, indent=8)
    assert code_of(tmp_path / "7", {**base, "config.json": spaced}).closure == first


def test_to_dict_is_json_without_bytes(tmp_path: Path) -> None:
    code = code_of(tmp_path, {"modeling_x.py": "import os\nos.system('x')\n" + CLASS})
    told = json.loads(json.dumps(code.to_dict()))
    assert told["files"][0]["findings"][0]["kind"] == "process"
    assert told["closure"] == code.closure and len(code.closure) == 64
    assert "sources" not in told


def test_code_of_a_subfolder_lies_at_the_root_or_beside(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "modeling_x.py": CLASS,
            "sub/config.json": CONFIG,
            "own/config.json": CONFIG,
            "own/modeling_x.py": CLASS + "#\n",
        },
    )
    root = read_code(read_manifest(tmp_path, subfolder="sub"))
    own = read_code(read_manifest(tmp_path, subfolder="own"))
    assert paths(root) == paths(own) == ["modeling_x.py"]
    assert root.closure != own.closure


def test_checkpoints_without_code_cost_no_parser(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {"model_type": "x"}, "stray.py": "x = 1\n"})
    script = (
        "import sys\n"
        "from uncrate.checkpoint.code import read_code\n"
        "from uncrate.checkpoint.manifest import read_manifest\n"
        f"code = read_code(read_manifest({str(tmp_path)!r}))\n"
        "assert code.not_run == ('stray.py',), code\n"
        "print({'uncrate.checkpoint.reach', 'torch', 'transformers', 'huggingface_hub', 'tomllib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_another_repositorys_code_is_read_at_a_commit(hub: HubServer, tmp_path: Path) -> None:
    first = hub.commit("other/code", {"modeling_y.py": b"from .helper import x\nclass Y: pass\n", "helper.py": b""})
    config = {"auto_map": {"AutoModel": "other/code--modeling_y.Y", "AutoConfig": "modeling_x.XModel"}}
    code = code_of(tmp_path, {"modeling_x.py": CLASS}, config=config)
    assert paths(code) == ["modeling_x.py", "other/code--helper.py", "other/code--modeling_y.py"]
    assert str(code.file("other/code--helper.py").origin) == f"other/code@{first}"
    assert code.file("modeling_x.py").origin is None
    [redirect] = code.redirects
    assert (redirect.kind, redirect.target, redirect.moving, redirect.commit) == ("code", "other/code", True, first)
    assert redirect.named_by == "config.json#/auto_map/AutoModel"
    # main moves on: unpinned it is another closure, pinned it stays.
    hub.commit("other/code", {"modeling_y.py": b"class Y: evil = 1\n"})
    manifest = read_manifest(tmp_path)
    assert read_code(manifest).closure != code.closure
    assert read_code(manifest, pins={"other/code": first}).closure == code.closure
    # A commit that changes nothing of the code changes nothing of the approval.
    third = hub.commit("other/code", {"modeling_y.py": code.read("other/code--modeling_y.py"), "README.md": b"new"})
    again = read_code(manifest)
    assert again.redirects[0].commit == third != first
    assert again.closure == code.closure


def test_another_repository_out_of_reach_is_a_problem(hub: HubServer, tmp_path: Path) -> None:
    config = {"auto_map": {"AutoModel": "gone/gone--m.M", "AutoConfig": "modeling_x.XModel"}}
    code = code_of(tmp_path, {"modeling_x.py": CLASS}, config=config)
    assert [entry.problem is None for entry in code.entry_points] == [False, True]
    assert "gone/gone cannot be reached" in code.problems[0]
    assert code.redirects[0].problem


def test_a_repository_that_names_itself_is_no_redirect(hub: HubServer) -> None:
    commit = hub.commit(
        "owner/self", {"config.json": b'{"auto_map": {"AutoModel": "Owner/self--m.M"}}', "m.py": b"class M: pass\n"}
    )
    code = read_code(read_manifest("owner/self"))
    assert (paths(code), code.redirects) == (["m.py"], ())
    assert str(code.files[0].origin) == f"owner/self@{commit}"


def test_kernels_are_named_and_never_fetched(hub: HubServer, tmp_path: Path) -> None:
    code = code_of(tmp_path, {}, config={"_attn_implementation": "kernels/flash:run"})
    assert [(r.kind, r.target, r.moving, r.commit) for r in code.redirects] == [("kernel", "kernels/flash", True, None)]
    assert hub.requests == []
