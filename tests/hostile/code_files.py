"""Checkpoints whose Python files are hostile; one function builds one case. Modules would leave a marker if they ran.

Each function writes into a folder and returns the words that the error must hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from checkpoint.checkpoints import write

CONFIG = {"model_type": "x", "auto_map": {"AutoModel": "modeling_x.XModel"}}
Case = Callable[[Path, str], str]
CASES: list[Case] = []


def case(build: Case) -> Case:
    CASES.append(build)
    return build


def mark(marker: Path) -> str:
    """Return a line of Python that leaves the marker when it runs."""
    return f"open({str(marker)!r}, 'w').close()\n"


CLASS = "class XModel: pass\n"


def one(folder: Path, source: str | bytes, name: str = "modeling_x.py") -> None:
    write(folder, {"config.json": CONFIG, name: source})


@case
def latin_1(folder: Path, mark: str) -> str:
    one(folder, (mark + "# caf\xe9\n" + CLASS).encode("latin-1"))
    return "not UTF-8"


@case
def utf_16(folder: Path, mark: str) -> str:
    one(folder, (mark + CLASS).encode("utf-16"))
    return "not UTF-8"


@case
def utf_16_without_mark(folder: Path, mark: str) -> str:
    one(folder, (mark + CLASS).encode("utf-16-le"))
    return "NUL"


@case
def overlong_utf_8(folder: Path, mark: str) -> str:
    one(folder, (mark + CLASS).encode() + b"# \xc0\xaf\n")
    return "not UTF-8"


@case
def surrogate_utf_8(folder: Path, mark: str) -> str:
    one(folder, (mark + CLASS).encode() + b"# \xed\xa0\x80\n")
    return "not UTF-8"


@case
def cookie_utf_7(folder: Path, mark: str) -> str:
    # In UTF-7 the comment's second part would be another line.
    one(folder, "# -*- coding: utf-7 -*-\n# +AAo-" + mark + CLASS)
    return "declares the encoding 'utf-7'"


@case
def cookie_latin_1(folder: Path, mark: str) -> str:
    one(folder, "# vim: set fileencoding=latin-1 :\n" + mark + CLASS)
    return "declares the encoding 'latin-1'"


@case
def cookie_rot_13_on_line_2(folder: Path, mark: str) -> str:
    one(folder, "#!/usr/bin/python\n# coding: rot13\n" + mark + CLASS)
    return "declares the encoding 'rot13'"


@case
def cookie_after_a_return(folder: Path, mark: str) -> str:
    one(folder, "#\r# coding: latin-1\r" + mark + CLASS)
    return "declares the encoding"


@case
def nul(folder: Path, mark: str) -> str:
    one(folder, mark + "x = 1 #\0\n" + CLASS)
    return "NUL character"


@case
def nfkc_name(folder: Path, mark: str) -> str:
    one(folder, mark + "ｅval = print\n" + CLASS)
    return "is another name to Python"


@case
def nfkc_class(folder: Path, mark: str) -> str:
    one(folder, mark + "class XＭodel: pass\n")
    return "is another name to Python"


@case
def ligature_name(folder: Path, mark: str) -> str:
    one(folder, mark + "import o\N{LATIN SMALL LETTER LONG S} as x\n" + CLASS)
    return "is another name to Python"


@case
def package_beside_module(folder: Path, mark: str) -> str:
    write(folder, {"helper.py": mark, "helper/__init__.py": mark})
    one(folder, mark + "from .helper import x\n" + CLASS)
    return "are both there"


@case
def package_beside_entry_point(folder: Path, mark: str) -> str:
    write(folder, {"modeling_x/__init__.py": mark + CLASS})
    one(folder, mark + CLASS)
    return "are both there"


@case
def dotted_class(folder: Path, mark: str) -> str:
    config = {"auto_map": {"AutoModel": "modeling_x.Outer.Inner"}}
    write(folder, {"config.json": config, "modeling_x.py": mark + "class Outer:\n    class Inner: pass\n"})
    return "the class name is dotted"


@case
def ten_thousand_files(folder: Path, mark: str) -> str:
    one(folder, mark + "from .m0 import *\n" + CLASS)
    for n in range(10_000):
        (folder / f"m{n}.py").write_text(f"{mark}from . import m{n + 1}\n")
    return "reaches more than 512 files"


@case
def two_megabytes(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "#" * (2 << 20))
    return "at most 1,048,576 are read"


@case
def many_large_files(folder: Path, mark: str) -> str:
    imports = "".join(f"from . import m{n}\n" for n in range(40))
    write(folder, {f"m{n}.py": mark + "a = 1\n" * 33_000 for n in range(40)})
    one(folder, mark + imports + CLASS)
    return "too much code"


@case
def operator_chain(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = " + "1+" * 300_000 + "1\n")
    return "too deep"


@case
def attribute_chain(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = a" + ".b" * 300_000 + "\n")
    return "too deep"


@case
def call_chain(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = a" + "()" * 300_000 + "\n")
    return "too deep"


@case
def minus_chain(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = " + "-" * 900_000 + "1\n")
    return "too deep"


@case
def brackets(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = " + "(" * 100_000 + ")" * 100_000 + "\n")
    return "too deep"


@case
def lambdas(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = " + "lambda: " * 100_000 + "1\n")
    return "too deep"


@case
def elif_chain(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "if a:\n pass\n" + "elif a:\n pass\n" * 50_000)
    return "elif"


@case
def comprehension_chain(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = [a " + "for a in b " * 80_000 + "]\n")
    return "too deep"


@case
def long_f_string(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = f'" + "{a}" * 300_000 + "'\n")
    return "f-string|too much code"


@case
def many_tokens(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = [" + "1," * 400_000 + "]\n")
    return "too much code"


@case
def link_out_of_the_folder(folder: Path, mark: str) -> str:
    outside = folder.parent / "outside.py"
    outside.write_text(mark + CLASS)
    write(folder, {"config.json": CONFIG})
    os.symlink(outside, folder / "modeling_x.py")
    return "link"


@case
def link_of_a_folder(folder: Path, mark: str) -> str:
    write(folder.parent / "elsewhere", {"__init__.py": mark, "modeling_x.py": mark + CLASS})
    write(folder, {"config.json": {"auto_map": {"AutoModel": "sub.modeling_x.XModel"}}})
    os.symlink(folder.parent / "elsewhere", folder / "sub")
    return "PROBLEM:is not in the checkpoint"


@case
def pipe(folder: Path, mark: str) -> str:
    write(folder, {"config.json": CONFIG})
    os.mkfifo(folder / "modeling_x.py")
    return "pipe"


@case
def folder_for_a_file(folder: Path, mark: str) -> str:
    write(folder, {"config.json": CONFIG, "modeling_x.py/x": mark})
    return "PROBLEM:is not in the checkpoint"


@case
def not_a_class(folder: Path, mark: str) -> str:
    one(folder, mark + "XModel = print\n")
    return "PROBLEM:defines no class XModel"


@case
def function_for_a_class(folder: Path, mark: str) -> str:
    one(folder, mark + "def XModel(*a, **k): pass\n")
    return "PROBLEM:defines no class XModel"


@case
def class_of_a_package(folder: Path, mark: str) -> str:
    one(folder, mark + "from subprocess import Popen as XModel\n")
    return "PROBLEM:defines no class XModel"


@case
def class_in_a_function(folder: Path, mark: str) -> str:
    one(folder, mark + "def f():\n    class XModel: pass\n")
    return "PROBLEM:defines no class XModel"


@case
def module_of_python(folder: Path, mark: str) -> str:
    write(folder, {"config.json": {"auto_map": {"AutoModel": "os.system"}}})
    return "PROBLEM:os.py is not in the checkpoint"


@case
def old_python(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "print 'x'\n")
    return "PROBLEM:cannot run"


@case
def unterminated(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "x = '\\'" + "\\'" * 200_000)
    return "PROBLEM:cannot run"


@case
def deep_indentation(folder: Path, mark: str) -> str:
    one(folder, mark + CLASS + "".join(" " * n + "if a:\n" for n in range(500)) + " " * 500 + "pass\n")
    return "PROBLEM:cannot run"


@case
def above_the_root(folder: Path, mark: str) -> str:
    (folder.parent / "outside.py").write_text(mark)
    one(folder, mark + "from ..outside import x\n" + CLASS)
    return "PROBLEM:leads out of the checkpoint"


@case
def import_cycle(folder: Path, mark: str) -> str:
    write(folder, {"a.py": mark + "from .b import B\n", "b.py": mark + "from .a import A\nfrom .modeling_x import Y\n"})
    one(folder, mark + "from .a import *\n")
    return "PROBLEM:defines no class XModel"


@case
def planted_bytecode(folder: Path, mark: str) -> str:
    write(folder, {"__pycache__/modeling_x.cpython-311.pyc": b"\xa7\r\r\n" + bytes(60), "modeling_x.pyc": bytes(64)})
    write(folder, {"config.json": CONFIG})
    return "PROBLEM:is not in the checkpoint"
