"""The Python files of one repository: which files an import runs, and who wins when names clash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from uncrate.checkpoint.codefacts import Origin
from uncrate.checkpoint.files import Files
from uncrate.checkpoint.imports import Facts
from uncrate.checkpoint.source import HubSource
from uncrate.errors import CodeError, escape


@dataclass(frozen=True)
class Tree:
    """The Python files of one repository, and how its paths are told apart from other repositories' (`prefix`)."""

    files: Files
    prefix: str
    origin: Origin | None
    paths: frozenset[str]
    folders: frozenset[str]

    @classmethod
    def of(cls, files: Files, prefix: str = "") -> Tree:
        paths = frozenset(entry.path for entry in files.entries() if entry.path.endswith(".py"))
        parts = (path.split("/") for path in paths)
        folders = frozenset("/".join(names[:depth]) for names in parts for depth in range(1, len(names)))
        source = files.source
        origin = Origin(source.repo, files.commit) if isinstance(source, HubSource) and files.commit else None
        return cls(files, prefix, origin, paths, folders)

    def locate(self, module: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the files that importing `module` runs, packages first; () for a bare folder; None: no such module.

        The repository's own root is never a package: an `__init__.py` there is not run, as in transformers.
        Raises CodeError where a module and a package share a name.
        """
        found: list[str] = []
        for depth in range(1, len(module) + 1):
            name = "/".join(module[:depth])
            package, single = f"{name}/__init__.py" in self.paths, f"{name}.py" in self.paths
            if package and single:
                # Python takes the package, transformers' copy step the file: what runs might not be what was reviewed.
                raise CodeError(
                    f"{escape(name)}.py and {escape(name)}/__init__.py are both there",
                    where=escape(self.prefix + name),
                    why="the two ways to import them disagree about which one runs",
                    next="remove or rename one of them",
                )
            if package:
                found.append(f"{name}/__init__.py")
            elif single:
                return (*found, f"{name}.py") if depth == len(module) else None
            elif name not in self.folders:
                return None
        return tuple(found)


def defines(
    facts: Mapping[str, Facts | None], tree: Tree, module: tuple[str, ...], name: str, *, functions: bool = False
) -> bool:
    """Whether `module` holds a top-level class (or function) `name`, its own or re-exported from a file of the closure.

    What merely has the name (`Name = something`, an import from a package) does not count: it was not reviewed.
    """
    waiting = [(module, name)]
    seen: set[tuple[tuple[str, ...], str]] = set()
    while waiting:
        place = waiting.pop()
        located = tree.locate(place[0]) if place not in seen else None
        known = facts.get(tree.prefix + located[-1]) if located else None
        seen.add(place)
        if located is None or known is None:
            continue
        if place[1] in (known.functions if functions else known.classes):
            return True
        package = tuple(located[-1].split("/")[:-1])
        for statement in known.reexports:
            if statement.level - 1 > len(package):
                continue
            base = (package[: len(package) - statement.level + 1] if statement.level else ()) + statement.module
            for imported, bound in statement.names:
                if imported == "*":
                    waiting.append((base, place[1]))
                elif bound == place[1]:
                    waiting.append((base, imported))
    return False
