"""From references to the closure: follow every import of the checkpoint's own files, in bounds, running none."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from uncrate.checkpoint.codefacts import Code, CodeFile, CodeRedirect, EntryPoint, Package, unreached
from uncrate.checkpoint.files import Files, open_files
from uncrate.checkpoint.imports import Facts, ImportStatement, is_installed, is_standard, read_facts
from uncrate.checkpoint.references import KernelReference, Reference
from uncrate.checkpoint.source import HubSource
from uncrate.checkpoint.syntax import MAX_BYTES, Unparsable, decode_source, parse_source
from uncrate.checkpoint.tree import Tree, defines
from uncrate.checkpoint.walk import walk
from uncrate.errors import CheckpointError, CodeError, SourceError, UncrateError, escape
from uncrate.trust.closure import closure_hash
from uncrate.trust.findings import Finding, find_in_source

MAX_FILES = 512
MAX_TOTAL_BYTES = 8 << 20
MAX_TOTAL_TOKENS = 300_000
MAX_REPOSITORIES = 8
MAX_REQUIREMENTS = 64 << 10
MAX_PREFETCH = 64


@dataclass
class _Read:
    """One file of the closure while it is collected."""

    tree: Tree
    path: str
    data: bytes
    text: str
    facts: Facts | None
    unparsable: str | None
    findings: tuple[Finding, ...]
    pulled_in_by: list[str] = field(default_factory=list)
    packages: dict[tuple[str, bool], Package] = field(default_factory=dict)
    needs: dict[str, None] = field(default_factory=dict)
    unresolved: list[str] = field(default_factory=list)


class Reach:
    """Collects a closure: add references, then `finish`."""

    def __init__(self, files: Files, *, pins: Mapping[str, str], offline: bool | None) -> None:
        _prefetch(files)
        self._own = Tree.of(files)
        self._pins = pins
        self._offline = offline
        self._trees: dict[str, Tree | UncrateError] = {}
        self._read: dict[str, _Read] = {}
        self._waiting: deque[_Read] = deque()
        self._entries: list[tuple[Reference, Tree | None, str | None]] = []
        self._redirects: list[CodeRedirect] = []
        self._problems: list[str] = []
        self._requirements: tuple[str, ...] = ()
        self._tokens = self._bytes = 0

    def add_reference(self, reference: Reference) -> None:
        """Take up one reference; its file, when it is there, joins the closure with all that it imports."""
        tree = self._tree(reference)
        if tree is None:
            self._entries.append((reference, None, self._redirects[-1].problem))
            return
        module = tuple(reference.path.removesuffix(".py").split("/"))
        found = tree.locate(module)
        if not found:
            outer = f"{'/'.join(module[:-1])}.py"
            if len(module) > 1 and outer in tree.paths:
                raise CodeError(
                    f"{escape(reference.text)!r} is not a reference to a class: the class name is dotted",
                    where=reference.where,
                    next="name a class that stands at the top level of the file",
                )
            problem = (
                f"{escape(tree.prefix + reference.path)} is not in the {'repository' if tree.prefix else 'checkpoint'}"
            )
            self._entries.append((reference, tree, problem))
            return
        for path in found:
            self._add(tree, path, reference.where)
        self._entries.append((reference, tree, None))
        self._follow()

    def add_custom_generate(self) -> None:
        """Take up custom_generate/generate.py, which transformers runs without any JSON naming it."""
        name = "custom_generate/generate.py"
        self.add_reference(Reference(name, "", "custom_generate", "custom_generate.generate", None, name, "generate"))
        needed = "custom_generate/requirements.txt"
        if any(entry.path == needed for entry in self._own.files.entries()):
            lines = self._own.files.read(needed, MAX_REQUIREMENTS).decode("utf-8", "replace").splitlines()
            kept = (line.partition("#")[0].strip() for line in lines[:200])
            self._requirements = tuple(escape(line) for line in kept if line)

    def add_kernel(self, kernel: KernelReference) -> None:
        """Note a repository of compiled kernels; it is never fetched or run."""
        target = f"{kernel.repo}@{kernel.revision}" if kernel.revision else kernel.repo
        pinned = HubSource(kernel.repo, kernel.revision).pinned
        self._redirects.append(
            CodeRedirect("kernel", target, kernel.where, not pinned, problem="kernels from the hub are never fetched")
        )

    def finish(self, notes: tuple[str, ...]) -> Code:
        """Return the closure."""
        entries = tuple(self._entry(*entry) for entry in self._entries)
        files = tuple(self._file(key, self._read[key]) for key in sorted(self._read))
        own = tuple(key for key in self._read if "--" not in key)
        problems = [f"{entry.where}: {entry.problem}" for entry in entries if entry.problem]
        problems += [f"{file.path}: cannot run: {file.unparsable}" for file in files if file.unparsable]
        named = [(e.json_file, e.pointer, e.auto_class, e.path, e.class_name) for e in entries]
        return Code(
            files=files,
            entry_points=entries,
            redirects=tuple(self._redirects),
            not_run=unreached({entry.path: entry.size for entry in self._own.files.entries()}, own),
            closure=closure_hash([(file.path, file.sha256) for file in files], named) if files else "",
            problems=(*notes, *problems, *self._problems),
            requirements=self._requirements,
            sources=MappingProxyType({key: self._read[key].data for key in sorted(self._read)}),
        )

    def _tree(self, reference: Reference) -> Tree | None:
        """Return where a reference's file lies, opening the repository that it names; None when out of reach."""
        repo = reference.repo
        own = self._own.origin
        if repo is None or (own is not None and own.repo.lower() == repo.lower()):
            # transformers writes the repository's own name into auto_map when it saves: that is no redirect.
            return self._own
        if repo not in self._trees:
            if len(self._trees) >= MAX_REPOSITORIES:
                raise CodeError(f"code in more than {MAX_REPOSITORIES} other repositories", where=reference.where)
            try:
                files = open_files(HubSource(repo, self._pins.get(repo)), offline=self._offline)
                _prefetch(files)
                self._trees[repo] = Tree.of(files, f"{repo}--")
            except SourceError as error:
                self._trees[repo] = error
        tree = self._trees[repo]
        if isinstance(tree, Tree):
            self._redirects.append(CodeRedirect("code", repo, reference.where, True, commit=tree.files.commit))
            return tree
        problem = f"the repository {escape(repo)} cannot be reached: {tree.what}"
        self._redirects.append(CodeRedirect("code", repo, reference.where, True, problem=problem))
        return None

    def _add(self, tree: Tree, path: str, pulled_in_by: str) -> None:
        key = tree.prefix + path
        known = self._read.get(key)
        if known is None:
            known = self._read[key] = self._open(tree, path, key)
            self._waiting.append(known)
        if pulled_in_by not in known.pulled_in_by:
            known.pulled_in_by.append(pulled_in_by)

    def _open(self, tree: Tree, path: str, key: str) -> _Read:
        if len(self._read) >= MAX_FILES:
            raise CodeError(
                f"the code reaches more than {MAX_FILES} files",
                where=escape(key),
                why="nobody could review that many",
                next="do not use this checkpoint's code",
            )
        try:
            data = tree.files.read(path, MAX_BYTES)
        except CheckpointError as error:
            raise CodeError(error.what, where=error.where or escape(key), why=error.why, next=error.next) from error
        text = decode_source(data, key)
        self._bytes += len(data)
        facts: Facts | None = None
        unparsable: str | None = None
        findings: tuple[Finding, ...] = ()
        try:
            parsed, tokens = parse_source(text, key, limit=MAX_TOTAL_TOKENS - self._tokens)
        except Unparsable as error:
            unparsable = f"line {error.line}: {error.reason}" if error.line else error.reason
        else:
            self._tokens += tokens
            nodes = walk(parsed)
            facts, findings = read_facts(parsed, nodes), find_in_source(nodes, text, key)
        if self._bytes > MAX_TOTAL_BYTES:
            raise CodeError(
                "the code is larger than can be reviewed", where=escape(key), next="do not use this checkpoint's code"
            )
        return _Read(tree, path, data, text, facts, unparsable, findings)

    def _follow(self) -> None:
        while self._waiting:
            read = self._waiting.popleft()
            for statement in read.facts.imports if read.facts else ():
                if statement.level:
                    self._relative(read, statement)
                else:
                    self._absolute(read, statement)

    def _relative(self, read: _Read, statement: ImportStatement) -> None:
        package = tuple(read.path.split("/")[:-1])
        shown = "." * statement.level + ".".join(statement.module)
        if statement.level - 1 > len(package):
            self._unresolved(read, statement, f"the import of {escape(shown)} leads out of the checkpoint")
            return
        base = package[: len(package) - statement.level + 1] + statement.module
        if not self._import(read, base, statement):
            names = ", ".join(name for name, _ in statement.names[:5])
            self._unresolved(
                read, statement, f"{escape(shown)} is not in the checkpoint, so {names} cannot be imported"
            )

    def _unresolved(self, read: _Read, statement: ImportStatement, what: str) -> None:
        """Note an import that leads nowhere: it breaks its file when nothing provides for its failing."""
        if not statement.optional:
            self._problems.append(f"{_place(read, statement)}: {what}")
            if statement.when == "import":
                read.unresolved.append(self._problems[-1])

    def _import(self, read: _Read, base: tuple[str, ...], statement: ImportStatement) -> bool:
        """Add the files that an import from the module `base` runs; False when a name of it is nowhere."""
        found = read.tree.locate(base)
        if found is None:
            return False
        self._add_all(read, found, statement)
        if found and not found[-1].endswith("/__init__.py"):
            return True
        holder = f"{'/'.join(base)}/__init__.py" if base else ""
        names = [name for name, _ in statement.names]
        complete = True
        for name in self._listed(read.tree, holder) if names == ["*"] else names:
            inner = read.tree.locate((*base, name))
            if inner:
                self._add_all(read, inner, statement)
            elif inner is None and holder not in found:
                complete = False
        return complete

    def _add_all(self, read: _Read, paths: tuple[str, ...], statement: ImportStatement) -> None:
        for path in paths:
            self._add(read.tree, path, _place(read, statement))
            if statement.when == "import" and not statement.optional:
                read.needs[read.tree.prefix + path] = None

    def _listed(self, tree: Tree, holder: str) -> tuple[str, ...]:
        """What `import *` from a package imports beyond its own names: the submodules that its `__all__` lists."""
        read = self._read.get(tree.prefix + holder)
        return read.facts.listed if read and read.facts else ()

    def _absolute(self, read: _Read, statement: ImportStatement) -> None:
        name = statement.module[0]
        if is_standard(name):
            return
        installed = is_installed(name)
        # An installed package always wins: torch.py in a checkpoint never stands in for torch.
        sibling = not installed and read.tree.locate((name,)) is not None
        if sibling and not self._import(read, statement.module, statement):
            self._unresolved(read, statement, f"{escape('.'.join(statement.module))} is not in the checkpoint")
        package = Package(name, statement.line, installed, statement.optional, statement.when, sibling)
        must = not statement.optional and statement.when == "import"
        known = read.packages.get((name, sibling))
        if known is None or (must and (known.optional or known.when == "call")):
            read.packages[(name, sibling)] = package

    def _file(self, key: str, read: _Read) -> CodeFile:
        return CodeFile(
            path=key,
            sha256=hashlib.sha256(read.data).hexdigest(),
            lines=read.text.count("\n") + (not read.text.endswith("\n") and bool(read.text)),
            size=len(read.data),
            pulled_in_by=tuple(read.pulled_in_by),
            imports=tuple(sorted(read.packages.values(), key=lambda package: package.name)),
            findings=read.findings,
            origin=read.tree.origin,
            unparsable=read.unparsable,
            needs=tuple(read.needs),
            unresolved=tuple(read.unresolved),
        )

    def _entry(self, reference: Reference, tree: Tree | None, problem: str | None) -> EntryPoint:
        prefix = tree.prefix if tree is not None else f"{reference.repo}--"
        path = reference.path
        if problem is None and tree is not None:
            module = tuple(path.removesuffix(".py").split("/"))
            path = (tree.locate(module) or (path,))[-1]
            kind = "function" if reference.auto_class == "custom_generate" else "class"
            facts = {key: read.facts for key, read in self._read.items()}
            if not defines(facts, tree, module, reference.class_name, functions=kind == "function"):
                problem = f"{escape(prefix + path)} defines no {kind} {escape(reference.class_name)}"
        return EntryPoint(
            json_file=reference.json_file,
            pointer=reference.pointer,
            auto_class=reference.auto_class,
            reference=escape(reference.text),
            path=prefix + path,
            class_name=reference.class_name,
            problem=problem,
        )


def _prefetch(files: Files) -> None:
    """Fetch a repository's few code files side by side: one after the other, each waits for the network."""
    paths = [entry.path for entry in files.entries() if entry.path.endswith(".py") and entry.size <= MAX_BYTES]
    if len(paths) <= MAX_PREFETCH:
        files.prefetch(paths)


def _place(read: _Read, statement: ImportStatement) -> str:
    return f"{escape(read.tree.prefix + read.path)}:{statement.line}"
