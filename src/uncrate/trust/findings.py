"""Places in a checkpoint's code where a reviewer should look, found in the syntax tree; nothing runs.

A finding says "look here", no more. Code without findings is code in which this table saw nothing, which is less than
code that can do no harm: there are always ways around a table. Approval means "may run as you".
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from uncrate.checkpoint.walk import Placed
from uncrate.errors import escape
from uncrate.trust import rules
from uncrate.trust.hidden import hidden_text, is_encoded
from uncrate.trust.names import Names

MAX_FINDINGS = 500
_OPENERS = frozenset(
    ("builtins.open", "io.open", "codecs.open", "gzip.open", "bz2.open", "lzma.open", "pathlib.Path().open")
)
_ENVIRONMENT_CALLS = frozenset(("update", "setdefault", "pop", "clear", "popitem"))
_BUILTIN_NAMES = frozenset(dir(builtins))


@dataclass(frozen=True)
class Finding:
    """One place to look at: its `kind` (trust/rules.py), `what` was seen, where, the escaped source line.

    `when` is "import" (runs as soon as the class is loaded) or "call". Lines and columns count from 1.
    """

    kind: str
    what: str
    path: str
    line: int
    column: int
    snippet: str
    when: str

    @property
    def where(self) -> str:
        """The place, as it is printed: `modeling_x.py:12`."""
        return f"{self.path}:{self.line}"

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields as `--json` prints them."""
        return dict(vars(self))


def find_in_source(nodes: Sequence[Placed], text: str, path: str) -> tuple[Finding, ...]:
    """Return the findings of one file, by line; `nodes` is `walk` of its tree.

    After 500 one last finding says how many more there are.
    """
    lines = text.split("\n")
    found: dict[tuple[str, int, int], Finding] = {}

    def add(kind: str, what: str, line: int, column: int, when: str) -> None:
        snippet = escape(lines[line - 1].strip()) if 0 < line <= len(lines) else ""
        found.setdefault((kind, line, column), Finding(kind, escape(what), escape(path), line, column, snippet, when))

    for line, column, what in hidden_text(text):
        add(rules.HIDDEN, what, line, column, "import")
    names = Names.of(node for node, _ in nodes)
    scan = _Scan(names)
    for node, context in nodes:
        for kind, what in scan.visit(node):
            add(kind, what, getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1, context.when)
    ordered = sorted(found.values(), key=lambda f: (f.line, f.column, f.kind))
    if len(ordered) > MAX_FINDINGS:
        last = ordered[MAX_FINDINGS]
        more = Finding(
            last.kind, f"and {len(ordered) - MAX_FINDINGS} more findings", escape(path), last.line, 1, "", last.when
        )
        ordered = [*ordered[:MAX_FINDINGS], more]
    return tuple(ordered)


class _Scan:
    """Judges one node at a time; parts of a name that was judged as a whole are passed over."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._judged: set[int] = set()

    def visit(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Attribute | ast.Name):
            yield from self._name(node)
        elif isinstance(node, ast.Call):
            yield from self._call(node)
        elif isinstance(node, ast.Subscript):
            if not isinstance(node.ctx, ast.Load) and self._names.dotted(node.value) == "os.environ":
                yield rules.ENVIRONMENT, "os.environ is changed"
            elif (name := self._names.dotted(node)) and (kind := rules.kind_of(name)):
                self._pass_over(node)
                yield kind, name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and is_encoded(node.value):
            yield rules.HIDDEN, f"a literal of {len(node.value)} characters that looks encoded"
        elif isinstance(node, ast.ImportFrom) and not node.level and any(alias.name == "*" for alias in node.names):
            kind = rules.kind_of(f"{node.module}.x")
            if kind:
                yield kind, f"everything is imported from {node.module}"

    def _pass_over(self, node: ast.AST) -> None:
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
            node = node.func if isinstance(node, ast.Call) else node.value
            self._judged.add(id(node))

    def _name(self, node: ast.Attribute | ast.Name) -> Iterator[tuple[str, str]]:
        if id(node) in self._judged:
            return
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            target = self._names.dotted(node.value)
            if target and self._names.is_foreign(node.value) and not target.startswith("os.environ"):
                yield rules.PATCH, f"{target}.{node.attr} is replaced"
            return
        name = self._names.dotted(node)
        kind = rules.kind_of(name) if name else None
        if kind is None and isinstance(node, ast.Name):
            for module in self._names.stars:
                kind = kind or rules.kind_of(f"{module}.{node.id}") if node.id not in _BUILTIN_NAMES else kind
            name = name or node.id
        if kind is not None and name is not None:
            self._pass_over(node)
            yield kind, name
        elif isinstance(node, ast.Attribute) and node.attr in rules.INTERNALS:
            yield rules.BUILTINS, f".{node.attr}"

    def _call(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        whole = self._names.dotted(node)
        if whole and not whole.endswith("()") and (kind := rules.kind_of(whole)):
            # getattr(os, "system"), __import__("os"): a name in other words.
            yield kind, whole
        name = self._names.dotted(node.func) or ""
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in _OPENERS or method == "open":
            yield from self._open(node, name, method)
        elif name == "torch.load" and not _constant(node, "weights_only", True):
            yield rules.PICKLE, "torch.load without weights_only=True"
        elif name == "numpy.load" and _keyword(node, "allow_pickle") and not _constant(node, "allow_pickle", False):
            yield rules.PICKLE, "numpy.load with allow_pickle"
        elif method == "from_pretrained":
            yield from self._from_pretrained(node)
        elif name in ("builtins.setattr", "builtins.delattr") and node.args and self._names.is_foreign(node.args[0]):
            yield rules.PATCH, f"{self._names.dotted(node.args[0])} is changed by {name.removeprefix('builtins.')}"
        elif name == "builtins.getattr" and len(node.args) > 1 and self._names.constant_text(node.args[1]) is None:
            holder = self._names.dotted(node.args[0]) or ""
            root = holder.partition(".")[0]
            if root in rules.GUARDED and not holder.startswith("builtins."):
                yield rules.BUILTINS, f"an attribute of {root} by a computed name"
        elif name.rpartition(".")[0] == "os.environ" and method in _ENVIRONMENT_CALLS:
            yield rules.ENVIRONMENT, "os.environ is changed"
        elif method in rules.METHODS and rules.kind_of(name) is None:
            yield rules.METHODS[method], f".{method}()"

    def _open(self, node: ast.Call, name: str, method: str) -> Iterator[tuple[str, str]]:
        place = 0 if name.endswith("Path().open") or name not in _OPENERS else 1
        mode = _keyword(node, "mode") or (node.args[place] if len(node.args) > place else None)
        if mode is None or (method == "open" and rules.kind_of(name)):
            return
        text = self._names.constant_text(mode)
        if text is None:
            if name in _OPENERS:
                yield rules.FILES, "open with a computed mode"
        elif len(text) <= 4 and set(text) & set("wax+") and set(text) <= set("wax+rbtU"):
            yield rules.FILES, f"open for writing ({text!r})"

    def _from_pretrained(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        assert isinstance(node.func, ast.Attribute)
        trusting = _keyword(node, "trust_remote_code")
        if trusting is not None and not _constant(node, "trust_remote_code", False):
            yield rules.DOWNLOAD, "from_pretrained with trust_remote_code"
        elif self._names.is_foreign(node.func.value):
            yield rules.DOWNLOAD, f"{self._names.dotted(node.func)}"


def _keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)


def _constant(node: ast.Call, name: str, value: bool) -> bool:
    found = _keyword(node, name)
    return isinstance(found, ast.Constant) and found.value is value
