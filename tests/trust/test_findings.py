"""Findings: what is seen, under which kind, and whether it runs on import or when called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import uncrate.trust
from uncrate.checkpoint.syntax import decode_source, parse_source
from uncrate.checkpoint.walk import walk
from uncrate.trust import rules
from uncrate.trust.findings import Finding, find_in_source


def find(source: str) -> tuple[Finding, ...]:
    text = decode_source(source.encode("utf-8", "surrogatepass"), "m.py")
    return find_in_source(walk(parse_source(text, "m.py")[0]), text, "m.py")


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (rules.PROCESS, "import os\nos.system('x')"),
        (rules.PROCESS, "import os as o\no.popen('x')"),
        (rules.PROCESS, "from os import system as s\ns('x')"),
        (rules.PROCESS, "from os import *\nsystem('x')"),
        (rules.PROCESS, "import subprocess\nsubprocess.check_output(['x'])"),
        (rules.PROCESS, "from subprocess import run as r\nr(['x'])"),
        (rules.PROCESS, "import os\ncall = os.execvp\ncall('x', [])"),
        (rules.PROCESS, "import os\ngetattr(os, 'system')('x')"),
        (rules.PROCESS, "import os\ngetattr(os, 'sys' + 'tem')('x')"),
        (rules.PROCESS, "__import__('os').system('x')"),
        (rules.PROCESS, "import importlib\nimportlib.import_module('subprocess').run('x')"),
        (rules.PROCESS, "import sys\nsys.modules['os'].system('x')"),
        (rules.NETWORK, "import socket\nsocket.socket()"),
        (rules.NETWORK, "import urllib.request\nurllib.request.urlopen('x')"),
        (rules.NETWORK, "from urllib import request\nrequest.urlopen('x')"),
        (rules.NETWORK, "import requests\nrequests.post('x', data=1)"),
        (rules.NETWORK, "import httpx\nhttpx.Client().get('x')"),
        (rules.NETWORK, "from http.client import HTTPConnection\nHTTPConnection('x')"),
        (rules.FILES, "open('x', 'w')"),
        (rules.FILES, "open('x', mode='ab')"),
        (rules.FILES, "open('x', 'r+')"),
        (rules.FILES, "open('x', m)"),
        (rules.FILES, "import io\nio.open('x', 'x')"),
        (rules.FILES, "from pathlib import Path\nPath('x').write_text('y')"),
        (rules.FILES, "from pathlib import Path\nPath('x').open('w')"),
        (rules.FILES, "import pathlib\npathlib.Path('x').unlink()"),
        (rules.FILES, "p.write_bytes(b'')"),
        (rules.FILES, "import shutil\nshutil.rmtree('x')"),
        (rules.FILES, "import os\nos.remove('x')"),
        (rules.FILES, "import torch\ntorch.save(1, 'x')"),
        (rules.NATIVE, "import ctypes\nctypes.CDLL('x')"),
        (rules.NATIVE, "from ctypes import cdll\ncdll.LoadLibrary('x')"),
        (rules.NATIVE, "import torch\ntorch.ops.load_library('x')"),
        (rules.NATIVE, "from torch.utils.cpp_extension import load\nload('x', [])"),
        (rules.NATIVE, "from cffi import FFI\nFFI()"),
        (rules.EVAL, "eval('1')"),
        (rules.EVAL, "exec('x')"),
        (rules.EVAL, "e = eval\ne('1')"),
        (rules.EVAL, "import builtins\nbuiltins.exec('x')"),
        (rules.EVAL, "compile('x', 'y', 'exec')"),
        (rules.EVAL, "__builtins__['eval']('x')"),
        (rules.EVAL, "list(map(eval, ['1']))"),
        (rules.EVAL, "import types\ntypes.FunctionType(c, {})"),
        (rules.PICKLE, "import pickle\npickle.loads(b'')"),
        (rules.PICKLE, "from pickle import load\nload(f)"),
        (rules.PICKLE, "import torch\ntorch.load('x')"),
        (rules.PICKLE, "import torch\ntorch.load('x', weights_only=False)"),
        (rules.PICKLE, "import dill\ndill.load(f)"),
        (rules.PICKLE, "import joblib\njoblib.load('x')"),
        (rules.PICKLE, "import numpy as np\nnp.load('x', allow_pickle=True)"),
        (rules.DYNAMIC, "__import__(name)"),
        (rules.DYNAMIC, "import importlib\nimportlib.import_module(name)"),
        (rules.DYNAMIC, "import sys\nsys.path.insert(0, 'x')"),
        (rules.DYNAMIC, "import sys\nsys.modules['torch'] = None"),
        (rules.DYNAMIC, "import importlib.util as u\nu.spec_from_file_location('a', 'b')"),
        (rules.DOWNLOAD, "from huggingface_hub import hf_hub_download\nhf_hub_download('a', 'b')"),
        (rules.DOWNLOAD, "import huggingface_hub as h\nh.snapshot_download('a')"),
        (rules.DOWNLOAD, "model.from_pretrained(x, trust_remote_code=True)"),
        (rules.DOWNLOAD, "from transformers import AutoModel\nAutoModel.from_pretrained('a')"),
        (rules.DOWNLOAD, "import torch\ntorch.hub.load('a', 'b')"),
        (rules.ENVIRONMENT, "import os\nos.environ['A'] = 'b'"),
        (rules.ENVIRONMENT, "from os import environ\nenviron['A'] = 'b'"),
        (rules.ENVIRONMENT, "import os\ndel os.environ['A']"),
        (rules.ENVIRONMENT, "import os\nos.environ.update(a='b')"),
        (rules.ENVIRONMENT, "import os\nos.putenv('a', 'b')"),
        (rules.HIDDEN, "x = 1  # \u202e right to left"),
        (rules.HIDDEN, "x = 'a\u200bb'"),
        (rules.HIDDEN, "x = 'a\u2066b'"),
        (rules.HIDDEN, "x = 'a\U000e0041b'"),
        (rules.HIDDEN, "x = '\x1b[2J'"),
        (rules.HIDDEN, "раypal = 1"),
        (rules.HIDDEN, "x = f\"{ｅval('1')}\""),
        (rules.EVAL, "x = f\"{ｅval('1')}\""),
        (rules.HIDDEN, "# a comment\u2028os.system('x')"),
        (rules.HIDDEN, "x = 1" + " " * 200 + "; y = 2"),
        (rules.HIDDEN, f"x = '{'QUJD' * 100}'"),
        (rules.HIDDEN, f"x = b'{'QUJD' * 100}'"),
        (rules.HIDDEN, "import base64\nbase64.b64decode('x')"),
        (rules.BUILTINS, "().__class__.__subclasses__()"),
        (rules.BUILTINS, "f.__globals__['x']"),
        (rules.BUILTINS, "globals()['x'] = 1"),
        (rules.BUILTINS, "import builtins\ngetattr(builtins, name)('x')"),
        (rules.BUILTINS, "import os\ngetattr(os, name)('x')"),
        (rules.BUILTINS, "getattr(__builtins__, name)"),
        (rules.BUILTINS, "import sys\nsys._getframe(1)"),
        (rules.PATCH, "import transformers\ntransformers.AutoModel = None"),
        (rules.PATCH, "import torch.nn as nn\nnn.Linear.forward = f"),
        (rules.PATCH, "from transformers import GenerationMixin\nGenerationMixin.generate = f"),
        (rules.PATCH, "import transformers\nsetattr(transformers.AutoModel, name, f)"),
        (rules.PATCH, "import torch\ndel torch.load"),
        (rules.PATCH, "import torch\ntorch.backends.cuda.matmul.allow_tf32 = True"),
        (rules.STATE, "import torch\ntorch._C._jit_set_profiling_mode(False)"),
        (rules.STATE, "import torch\ntorch.set_default_dtype(x)"),
    ],
)
def test_each_kind_is_seen(kind: str, source: str) -> None:
    assert kind in {finding.kind for finding in find(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.path.join('a', 'b')",
        "import os\nx = os.environ.get('A')",
        "open('x')",
        "open('x', 'rb')",
        "open('x', encoding='utf-8')",
        "model.eval()",
        "self.compile('x')",
        "import re\nre.compile('x')",
        "import torch\ntorch.load('x', weights_only=True)",
        "import torch\ntorch.compile(f)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import numpy as np\nnp.load('x')",
        "class A:\n    @classmethod\n    def from_pretrained(cls, x):\n        return super().from_pretrained(x)",
        "self.weight = 1\nself.config.x = 2",
        "from .visual import Vision\nVision.attribute = 1",
        "import torch\nx = torch.zeros(1)\nx.requires_grad = True",
        "getattr(self, name)",
        "import torch\ngetattr(torch, name)",
        "x = '中文' + 'é' + 'Δt'  # 中文注释, l'été",
        "def f(x):\n    '''" + "Some words about it. " * 40 + "'''",
        "import json\njson.load(f)",
        "from transformers.utils import logging\nlogger = logging.get_logger(__name__)",
        "isinstance(x, type(y))",
    ],
)
def test_ordinary_code_is_left_alone(source: str) -> None:
    assert find(source) == ()


@pytest.mark.parametrize(
    ("when", "source"),
    [
        ("import", "import os\nos.system('x')"),
        ("import", "import os\nclass A:\n    x = os.system('x')"),
        ("import", "import os\n@os.system('x')\ndef f(): pass"),
        ("import", "import os\n@os.system('x')\nclass A: pass"),
        ("import", "import os\ndef f(a=os.system('x')): pass"),
        ("import", "import os\ndef f(*, a=os.system('x')): pass"),
        ("import", "import os\nf = lambda a=os.system('x'): 1"),
        ("import", "import os\ndef f(a: os.system('x')): pass"),
        ("import", "import os\ndef f() -> os.system('x'): pass"),
        ("import", "import os\nx: os.system('x') = 1"),
        ("import", "import os\nclass A(os.system('x')): pass"),
        ("import", "import os\nif True:\n    os.system('x')"),
        ("import", "import os\ntry:\n    pass\nexcept E:\n    os.system('x')"),
        ("import", "import os\n[os.system(x) for x in y]"),
        ("call", "import os\ndef f():\n    os.system('x')"),
        ("call", "import os\nclass A:\n    def f(self):\n        os.system('x')"),
        ("call", "import os\nf = lambda: os.system('x')"),
        ("call", "import os\nasync def f():\n    os.system('x')"),
        ("call", "import os\ndef f():\n    class A:\n        x = os.system('x')"),
        ("call", "import os\ndef f():\n    def g(a=os.system('x')): pass"),
        ("call", "import os\nif __name__ == '__main__':\n    os.system('x')"),
        ("call", "from __future__ import annotations\nimport os\ndef f(a: os.system('x')) -> os.system('x'): pass"),
    ],
)
def test_on_import_and_when_called_are_told_apart(when: str, source: str) -> None:
    assert {finding.when for finding in find(source)} == {when}


def test_a_finding_names_place_and_line_escaped() -> None:
    [system, bidi] = find("import os\n\n    \nos.system('\u202eevil')  # \t tab\n")
    assert (bidi.kind, bidi.line, system.kind, system.line, system.column) == (rules.HIDDEN, 4, rules.PROCESS, 4, 1)
    assert system.where == "m.py:4"
    assert "\\u202e" in system.snippet and "\u202e" not in system.snippet
    assert "U+202E" in bidi.what
    assert system.to_dict()["what"] == "os.system"


def test_one_use_is_one_finding() -> None:
    assert len(find("import subprocess\nsubprocess.Popen(['x']).communicate()")) == 1
    assert len(find("import urllib.request\nurllib.request.urlopen('x').read()")) == 1


def test_too_many_findings_are_counted() -> None:
    found = find("import os\n" + "os.system('x')\n" * 900)
    assert len(found) == 501
    assert found[-1].what == "and 400 more findings"


def test_long_lines_are_cut() -> None:
    [finding] = find(f"import os\nos.system('{'x ' * 5000}')")
    assert len(finding.snippet) <= 121


def test_nothing_claims_that_code_is_harmless() -> None:
    # Absence of findings is not a verdict; no word of ours may say so.
    for path in Path(uncrate.trust.__path__[0]).glob("*.py"):
        words = set(re.findall(r"[a-z]+", path.read_text().lower()))
        assert not words & {"safe", "harmless", "secure", "benign", "trustworthy"}, path
