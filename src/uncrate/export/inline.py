"""Several of our modules as one file: what some classes need, gathered by syntax tree, with the sources' own text.

Nothing is imported and nothing runs. Top-level definitions are taken over as they are written, comments included; only
names change, where two modules use one name for different things, and our own imports go.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Name = tuple[str, str]
"""A top-level name: its module and how it is called there."""

PACKAGE = "uncrate"
_NAMED = ast.FunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Statement:
    """One top-level definition: the names it binds, its first line (comments and decorators before it), its last."""

    node: ast.stmt
    names: tuple[str, ...]
    first: int
    last: int


@dataclass(frozen=True)
class External:
    """A name from another package: `from module import name as binding`, or `import module as binding` (name None)."""

    module: str
    name: str | None
    binding: str

    def text(self) -> str:
        """Return the import statement."""
        if self.name is None:
            plain = self.binding == self.module.partition(".")[0]
            return f"import {self.module}" if plain else f"import {self.module} as {self.binding}"
        renamed = "" if self.binding == self.name else f" as {self.binding}"
        return f"from {self.module} import {self.name}{renamed}"


@dataclass(frozen=True)
class Source:
    """One module as text: its statements, what it imports from us, and from others."""

    module: str
    lines: tuple[str, ...]
    doc: str
    statements: tuple[Statement, ...]
    internal: Mapping[str, Name]
    modules: Mapping[str, str]
    external: Mapping[str, External]
    needs: tuple[str, ...]

    def defines(self, name: str) -> Statement | None:
        """The statement that binds `name`."""
        return next((statement for statement in self.statements if name in statement.names), None)


@cache
def read_source(module: str) -> Source:
    """Return one of our modules, read and cut into statements; it is not imported."""
    path = module_path(module)
    assert path is not None, module
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    made = _Made(module)
    lines = tuple(text.splitlines())
    previous = 0
    for node in tree.body:
        made.add(node, lines, previous)
        previous = node.end_lineno or previous
    return Source(
        module=module,
        lines=lines,
        doc=ast.get_docstring(tree) or "",
        statements=tuple(made.statements),
        internal=made.internal,
        modules=made.modules,
        external=made.external,
        needs=tuple(dict.fromkeys(made.needs)),
    )


@cache
def module_path(module: str) -> Path | None:
    """Return the file of one of our modules, None where there is none."""
    root = find_spec(PACKAGE)
    assert root is not None and root.origin is not None
    path = Path(root.origin).parent.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@dataclass
class _Made:
    module: str
    statements: list[Statement] = field(default_factory=list)
    internal: dict[str, Name] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    external: dict[str, External] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)

    def add(self, node: ast.stmt, lines: Sequence[str], previous: int) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.take_import(node)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            # Annotations are never evaluated; what they name of ours is taken along, so that the file reads whole.
            before = dict(self.external)
            needs = list(self.needs)
            for inner in node.body:
                assert isinstance(inner, ast.Import | ast.ImportFrom)
                self.take_import(inner)
            self.external, self.needs = before, needs
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring, or a text about the constant above it
        else:
            names = tuple(_bound(node))
            assert names, f"{self.module}, line {node.lineno}: a statement that binds nothing cannot be moved"
            if names == ("__all__",):
                return
            first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", ()))])
            while first - 1 > previous and lines[first - 2].lstrip().startswith("#"):
                first -= 1
            self.statements.append(Statement(node, names, first, node.end_lineno or node.lineno))

    def take_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith(PACKAGE + "."), alias.name
                binding = alias.asname or alias.name.partition(".")[0]
                self.external[binding] = External(alias.name, None, binding)
            return
        module = node.module or ""
        for alias in node.names:
            binding = alias.asname or alias.name
            if module == "__future__":
                continue
            if module != PACKAGE and not module.startswith(PACKAGE + "."):
                self.external[binding] = External(module, alias.name, binding)
            elif module_path(f"{module}.{alias.name}") is not None:
                self.modules[binding] = f"{module}.{alias.name}"
                self.needs.append(f"{module}.{alias.name}")
            else:
                self.internal[binding] = (module, alias.name)
                self.needs.append(module)


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    for target in targets:
        for inner in ast.walk(target) if target is not None else ():
            if isinstance(inner, ast.Name):
                yield inner.id


@dataclass(frozen=True)
class Use:
    """One place that names a global: its lines and columns (of the syntax tree, in UTF-8), and what is named there.

    `local` are the names that functions around it bind: under one of those it could not be reached.
    """

    line: int
    start: int
    end: int
    name: str
    module: str | None = None
    local: frozenset[str] = frozenset()


def uses(source: Source, statement: Statement) -> tuple[list[Use], list[ast.stmt]]:
    """Return every place in a statement that names a global of its module, and the imports of ours inside functions.

    A name that a function binds itself is no global; `alias.X` of an imported module of ours is one use.
    """
    found: list[Use] = []
    inside: list[ast.stmt] = []

    def visit(node: ast.AST, local: frozenset[str]) -> None:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            inside.append(node)
            return
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in local:
            module = source.modules.get(node.value.id)
            if module is not None:
                end = node.end_col_offset or 0
                found.append(Use(node.lineno, node.col_offset, end, node.attr, module, local))
                return
        if isinstance(node, ast.Name) and node.id not in local:
            found.append(Use(node.lineno, node.col_offset, node.end_col_offset or 0, node.id, None, local))
        if isinstance(node, _Function):
            _visit_function(node, local, visit)
            return
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            local = local | set(_stored(gen.target for gen in node.generators))
        for child in ast.iter_child_nodes(node):
            visit(child, local)

    visit(statement.node, frozenset())
    return found, inside


def _stored(targets: Iterable[ast.expr]) -> Iterator[str]:
    for target in targets:
        yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _visit_function(node: _Function, local: frozenset[str], visit: Callable[[ast.AST, frozenset[str]], None]) -> None:
    """Defaults, decorators and annotations belong to the scope outside; the body has the function's own names."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    listed = [item for item in every if item is not None]
    outside: list[ast.AST] = [*arguments.defaults, *(item for item in arguments.kw_defaults if item is not None)]
    outside += [item.annotation for item in listed if item.annotation is not None]
    if not isinstance(node, ast.Lambda):
        outside += [*node.decorator_list, *([node.returns] if node.returns is not None else [])]
    for item in outside:
        visit(item, local)
    body: Sequence[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else node.body
    inner = local | {item.arg for item in listed} | set(_locals(body))
    for item in body:
        visit(item, inner)


def _locals(body: Sequence[ast.AST]) -> Iterator[str]:
    """Names that a function's body binds: assigned, imported from elsewhere, defined, caught."""
    for statement in body:
        for node in [statement, *_inner_nodes(statement)]:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
                yield node.id
            elif isinstance(node, _NAMED) and node.name:
                yield node.name
            elif isinstance(node, ast.Import | ast.ImportFrom):
                ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
                yield from () if ours else (alias.asname or alias.name.partition(".")[0] for alias in node.names)


def _inner_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes of one scope: nested functions and comprehensions have names of their own."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, _Function | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            return
        yield child
        yield from _inner_nodes(child)
