"""The closure of some names over our modules, and its text as one file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from uncrate.export.inline import PACKAGE, External, Name, Source, Statement, Use, read_source, uses
from uncrate.export.layout import from_line, import_lines, section_head, spaced


@dataclass(frozen=True, kw_only=True)
class FilePlan:
    """One file to write: its docstring, the names that must be in it (module and name there), what they are called in
    the file, and files of the same folder that names are taken from. `optional` are packages that functions import and
    that may not be installed, each with what takes its place then (None: nothing).
    `heads` are words about a module in place of its own.
    """

    doc: str
    roots: tuple[Name, ...]
    called: Mapping[Name, str] = field(default_factory=dict)
    beside: Mapping[str, Mapping[Name, str]] = field(default_factory=dict)
    optional: Mapping[str, Name | None] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GeneratedFile:
    """The text of a file, and under which name it holds each of our definitions."""

    text: str
    names: Mapping[Name, str]


def generate(plan: FilePlan, standins: Mapping[Name, Name], prefixes: Mapping[str, str]) -> GeneratedFile:
    """Return the file: every definition that the roots need, in an order in which it can be run.

    `standins` maps a name to a simpler one that takes its place. `prefixes` gives each module a word for names that
    two modules share.
    """
    gathered = _Gathered(standins, {name for names in plan.beside.values() for name in names})
    for root in plan.roots:
        gathered.take(root)
    for fallback in plan.optional.values():
        if fallback is not None:
            gathered.take(fallback)
    order = _ordered(gathered.modules, standins)
    given = {name: called for beside in plan.beside.values() for name, called in beside.items()}
    hidden: set[Name] = set()
    while True:
        names = _choose_names(gathered, order, plan, prefixes, hidden)
        known = names | given
        clashes = _hidden(gathered, known)
        if not clashes:
            break
        assert not clashes & (hidden | given.keys()), f"hidden by local names: {sorted(clashes)}"
        hidden |= clashes
    sections = []
    for module in order:
        source = read_source(module)
        parts = [
            _rewritten(source, statement, gathered, known, plan.optional)
            for statement in source.statements
            if any((module, name) in gathered.names for name in statement.names)
        ]
        if parts:
            sections.append(section_head(source, plan.heads.get(module)) + "\n\n\n" + spaced(parts))
    body = "\n\n\n".join(sections)
    imports = _imports(gathered, plan, known)
    text = f'"""{plan.doc}"""\n\nfrom __future__ import annotations\n\n{imports}\n\n\n{body}\n'
    return GeneratedFile(text, names)


class _Gathered:
    """What is needed so far: our names, others' imports, and names from files beside."""

    def __init__(self, standins: Mapping[Name, Name], beside: set[Name]) -> None:
        self.standins = standins
        self.given = beside
        self.names: set[Name] = set()
        self.modules: dict[str, None] = {}
        self.external: dict[str, External] = {}
        self.from_beside: set[Name] = set()

    def resolve(self, source: Source, use: Use) -> Name | External | None:
        """What a use means: a definition of ours where it is made, an import, or None for a builtin."""
        if use.module is not None:
            return self._follow((use.module, use.name))
        if source.defines(use.name) is not None:
            return self._follow((source.module, use.name))
        if use.name in source.internal:
            return self._follow(source.internal[use.name])
        return source.external.get(use.name)

    def _follow(self, name: Name) -> Name:
        """Pass over re-exports to the module that defines a name, and to what stands in for it."""
        name = self.standins.get(name, name)
        source = read_source(name[0])
        while source.defines(name[1]) is None and name[1] in source.internal:
            name = source.internal[name[1]]
            name = self.standins.get(name, name)
            source = read_source(name[0])
        assert source.defines(name[1]) is not None, f"{name[0]} does not define {name[1]}"
        return name

    def take(self, name: Name) -> None:
        """Take a definition and everything it names."""
        waiting = [self._follow(name)]
        while waiting:
            name = waiting.pop()
            if name in self.given:
                self.from_beside.add(name)
                continue
            if name in self.names:
                continue
            source = read_source(name[0])
            statement = source.defines(name[1])
            assert statement is not None
            self.names |= {(name[0], bound) for bound in statement.names}
            self.modules[name[0]] = None
            for _, meant in self.meanings(source, statement):
                if isinstance(meant, External):
                    there = self.external.setdefault(meant.binding, meant)
                    assert there == meant, f"{meant.binding} means {there.text()} and {meant.text()}"
                else:
                    waiting.append(meant)

    def meanings(self, source: Source, statement: Statement) -> Iterator[tuple[Use, Name | External]]:
        """Yield every use of a definition or import in a statement with what it means; builtins mean nothing here."""
        found, inside = uses(source, statement)
        local = _inside_names(inside)
        for use in found:
            meant = self._follow(local[use.name]) if use.name in local else self.resolve(source, use)
            if meant is not None:
                yield use, meant


def _inside_names(inside: Iterable[ast.stmt]) -> dict[str, Name]:
    """What imports of ours inside functions bind."""
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in inside
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _ordered(modules: Iterable[str], standins: Mapping[Name, Name]) -> list[str]:
    """Modules so that each comes after those it imports, whether or not these are in the file."""
    order: dict[str, None] = {}
    wanted = list(modules)

    def visit(module: str, above: tuple[str, ...]) -> None:
        if module in order or module in above:
            return
        for below in read_source(module).needs:
            if below.startswith(PACKAGE + "."):
                visit(below, (*above, module))
        order[module] = None

    for module in sorted({name[0] for name in standins.values()} & set(wanted)) + wanted:
        visit(module, ())
    return [module for module in order if module in wanted]


def _hidden(gathered: _Gathered, names: Mapping[Name, str]) -> set[Name]:
    """Definitions whose name in the file is that of a local variable where they are used."""
    found: set[Name] = set()
    for module, bound in gathered.names:
        source = read_source(module)
        statement = source.defines(bound)
        assert statement is not None
        for use, meant in gathered.meanings(source, statement):
            if not isinstance(meant, External) and names[meant] in use.local:
                found.add(meant)
    return found


def _choose_names(
    gathered: _Gathered, order: Sequence[str], plan: FilePlan, prefixes: Mapping[str, str], hidden: set[Name]
) -> dict[Name, str]:
    """Every definition's name in the file: its own where it is free and not `hidden`, else with its module's word."""
    chosen: dict[Name, str] = {}
    taken = set(gathered.external) | {called for given in plan.beside.values() for called in given.values()}
    first = [gathered._follow(root) for root in plan.roots]
    for name in first:
        chosen[name] = plan.called.get(name, name[1])
        taken.add(chosen[name])
    for module in order:
        for name in sorted(item for item in gathered.names if item[0] == module and item not in chosen):
            statement = read_source(module).defines(name[1])
            is_class = statement is not None and isinstance(statement.node, ast.ClassDef)
            free = name[1] not in taken and name not in hidden
            called = name[1] if free else _with_word(name[1], prefixes[module], is_class)
            assert called not in taken, f"{called} is taken twice"
            chosen[name] = called
            taken.add(called)
    return chosen


def _with_word(name: str, word: str, is_class: bool) -> str:
    """`MLP` and "Vision" give VisionMLP, `_check` and "Expand" _check_expand, `LIMIT` LIMIT_EXPAND."""
    if is_class:
        bare = name.lstrip("_")
        return "_" * (len(name) - len(bare)) + word + bare
    return f"{name}_{word.upper() if name.isupper() else word.lower()}"


def _rewritten(
    source: Source,
    statement: Statement,
    gathered: _Gathered,
    names: Mapping[Name, str],
    optional: Mapping[str, Name | None],
) -> str:
    """Return a statement's text with every global under its name in the file, and imports of ours gone."""
    lines = [line.encode("utf-8") for line in source.lines]
    edits: list[tuple[int, int, int, bytes]] = []
    for use, meant in gathered.meanings(source, statement):
        if not isinstance(meant, External) and (names[meant] != use.name or use.module):
            edits.append((use.line, use.start, use.end, names[meant].encode()))
    _, inside = uses(source, statement)
    node = statement.node
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        called = names[(source.module, node.name)]
        if called != node.name:
            at = lines[node.lineno - 1].index(node.name.encode())
            edits.append((node.lineno, at, at + len(node.name.encode()), called.encode()))
    for line, start, end, new in sorted(edits, reverse=True):
        old = lines[line - 1]
        lines[line - 1] = old[:start] + new + old[end:]
    gone = {number for item in inside for number in range(item.lineno, (item.end_lineno or item.lineno) + 1)}
    guards = dict(_optional_imports(node, optional))
    out: list[str] = []
    for number in range(statement.first, statement.last + 1):
        if number in gone:
            continue
        text = lines[number - 1].decode("utf-8")
        out += _guarded(text, guards[number], names) if number in guards else [text]
    return "\n".join(out)


def _optional_imports(
    node: ast.AST, optional: Mapping[str, Name | None]
) -> Iterator[tuple[int, tuple[str, Name | None]]]:
    """Lines of imports inside functions of packages that may not be there: what they bind, and what takes its place."""
    for item in ast.walk(node):
        if isinstance(item, ast.Import | ast.ImportFrom):
            package = (item.module or "") if isinstance(item, ast.ImportFrom) else item.names[0].name
            if package in optional:
                assert item.lineno == item.end_lineno, f"an import of {package} on several lines cannot be guarded"
                yield item.lineno, (item.names[0].asname or item.names[0].name, optional[package])


def _guarded(text: str, guard: tuple[str, Name | None], names: Mapping[Name, str]) -> list[str]:
    """transformers asks for every package that a file imports outside `try`."""
    indent = text[: len(text) - len(text.lstrip())]
    binding, fallback = guard
    instead = "raise" if fallback is None else f"{binding} = {names[fallback]}"
    return [f"{indent}try:", f"    {text}", f"{indent}except ImportError:", f"{indent}    {instead}"]


def _imports(gathered: _Gathered, plan: FilePlan, names: Mapping[Name, str]) -> str:
    """Return the import block: the standard library, other packages, files beside."""
    groups: dict[bool, list[External]] = {True: [], False: []}
    for item in gathered.external.values():
        groups[item.module.partition(".")[0] in sys.stdlib_module_names].append(item)
    blocks = [import_lines(group) for group in groups.values() if group]
    local = []
    for file, given in plan.beside.items():
        used = sorted(given[name] for name in gathered.from_beside if name in given)
        if used:
            local.append(from_line(f".{file}", used))
    return "\n\n".join([*blocks, *(["\n".join(local)] if local else [])])
