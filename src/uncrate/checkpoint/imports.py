"""What one Python file of a checkpoint needs and offers, read from its syntax tree: imports, classes, re-exports."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder

from uncrate.checkpoint.walk import Placed


@dataclass(frozen=True)
class ImportStatement:
    """One import of one module: `level` dots (0 is absolute), module path, imported names ("*" for all; () for none).

    `names` are pairs (name, bound as). `when` is "import" or "call"; `optional` when its failing is provided for.
    """

    line: int
    level: int
    module: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    when: str
    optional: bool


@dataclass(frozen=True)
class Facts:
    """Of one file: its imports in source order, its top-level classes and functions, and what `__all__` lists."""

    imports: tuple[ImportStatement, ...]
    classes: frozenset[str]
    functions: frozenset[str]
    reexports: tuple[ImportStatement, ...]
    listed: tuple[str, ...]


def read_facts(tree: ast.Module, nodes: Sequence[Placed]) -> Facts:
    """Return what the file imports and defines; `nodes` is `walk(tree)`. Nothing is imported."""
    imports: list[ImportStatement] = []
    for node, context in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.extend(_statements(node, context.when, context.optional))
    classes: set[str] = set()
    functions: set[str] = set()
    reexports: list[ImportStatement] = []
    listed: list[str] = []
    for statement in _top_level(tree):
        if isinstance(statement, ast.ClassDef):
            classes.add(statement.name)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.add(statement.name)
        elif isinstance(statement, ast.ImportFrom):
            reexports.extend(_statements(statement, "import", False))
        elif isinstance(statement, ast.Assign | ast.AugAssign):
            listed.extend(_listed(statement))
    return Facts(tuple(imports), frozenset(classes), frozenset(functions), tuple(reexports), tuple(listed))


def _statements(node: ast.Import | ast.ImportFrom, when: str, optional: bool) -> Iterator[ImportStatement]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield ImportStatement(node.lineno, 0, tuple(alias.name.split(".")), (), when, optional)
    else:
        module = tuple(node.module.split(".")) if node.module else ()
        names = tuple((alias.name, alias.asname or alias.name) for alias in node.names)
        yield ImportStatement(node.lineno, node.level, module, names, when, optional)


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run in the module's own scope, also inside if, try, with and loops."""
    stack: list[ast.stmt] = list(reversed(tree.body))
    while stack:
        statement = stack.pop()
        yield statement
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        blocks: list[ast.stmt] = []
        for field in ("body", "orelse", "finalbody"):
            blocks.extend(getattr(statement, field, ()))
        for handler in getattr(statement, "handlers", ()):
            blocks.extend(handler.body)
        for case in getattr(statement, "cases", ()):
            blocks.extend(case.body)
        stack.extend(reversed(blocks))


def _listed(statement: ast.Assign | ast.AugAssign) -> Iterator[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    named_all = any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)
    if named_all and isinstance(statement.value, ast.List | ast.Tuple):
        for item in statement.value.elts:
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                yield item.value


def is_standard(package: str) -> bool:
    """Whether a top-level name belongs to Python itself."""
    return package in sys.stdlib_module_names or package in sys.builtin_module_names


@cache
def is_installed(package: str) -> bool:
    """Whether a top-level package could be imported here; it is looked for on disk, never imported.

    The working directory is left out of the search: a file that lies in a checkpoint's folder is not an installed
    package, also when Python was started there.
    """
    loaded = sys.modules.get(package)
    if loaded is not None and getattr(loaded, "__spec__", None) is not None:
        return True
    if not package.isidentifier():
        return False
    folders = [folder for folder in sys.path if folder not in ("", ".")]
    folders = [folder for folder in folders if not _is_working_folder(folder)]
    if PathFinder.find_spec(package, folders) is not None:
        return True
    # Editable installs answer through finders of their own.
    own = [finder for finder in sys.meta_path if getattr(finder, "__module__", "").startswith("__editable__")]
    return any(finder.find_spec(package, None) is not None for finder in own if hasattr(finder, "find_spec"))


def _is_working_folder(folder: str) -> bool:
    try:
        return os.path.samefile(folder, ".")
    except OSError:
        return False
