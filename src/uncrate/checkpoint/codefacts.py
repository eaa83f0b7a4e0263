"""The plain values that a checkpoint's code is told in: files, packages, entry points, redirects, the closure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from uncrate.errors import CodeError, escape

if TYPE_CHECKING:
    from uncrate.trust.findings import Finding


@dataclass(frozen=True)
class Origin:
    """The hub repository that a file comes from, and the commit it was read at."""

    repo: str
    commit: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit}"


@dataclass(frozen=True)
class Package:
    """A package that a file imports absolutely: is it installed, may it be absent, when is it needed ("import"/"call").

    `sibling` marks a file of the checkpoint that is imported as if it were a package; it is served from the closure.
    """

    name: str
    line: int
    installed: bool
    optional: bool
    when: str
    sibling: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `--json` prints them."""
        return dict(vars(self))


@dataclass(frozen=True)
class CodeFile:
    """One Python file of the closure. `path` is `owner/name--path` for a file of another repository.

    `imports` are the packages outside Python's own library; `unparsable` says why the file cannot run here at all;
    `needs` are the files of the closure that importing it imports at once and cannot do without; `unresolved` says
    which of such imports lead nowhere.
    """

    path: str
    sha256: str
    lines: int
    size: int
    pulled_in_by: tuple[str, ...]
    imports: tuple[Package, ...]
    findings: tuple[Finding, ...]
    origin: Origin | None = None
    unparsable: str | None = None
    needs: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()

    @property
    def missing_packages(self) -> tuple[str, ...]:
        """Packages that importing this file needs and that are not installed."""
        return tuple(
            p.name for p in self.imports if not (p.installed or p.optional or p.sibling) and p.when == "import"
        )

    @property
    def siblings(self) -> tuple[str, ...]:
        """Files of the checkpoint that this one imports absolutely."""
        return tuple(p.name for p in self.imports if p.sibling)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `--json` prints them; the bytes are not among them."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "lines": self.lines,
            "size": self.size,
            "pulled_in_by": list(self.pulled_in_by),
            "imports": [package.to_dict() for package in self.imports],
            "missing_packages": list(self.missing_packages),
            "findings": [finding.to_dict() for finding in self.findings],
            "origin": {"repo": self.origin.repo, "commit": self.origin.commit} if self.origin else None,
            "unparsable": self.unparsable,
        }


@dataclass(frozen=True)
class EntryPoint:
    """A place in a JSON file that names a class of the closure; `problem` says why it cannot be used, if it cannot."""

    json_file: str
    pointer: str
    auto_class: str
    reference: str
    path: str
    class_name: str
    problem: str | None = None

    @property
    def where(self) -> str:
        """The place, as it is printed: `config.json#/auto_map/AutoModel`."""
        return f"{self.json_file}#{self.pointer}" if self.pointer else self.json_file

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `--json` prints them."""
        return dict(vars(self))


@dataclass(frozen=True)
class CodeRedirect:
    """Code outside the checkpoint: `kind` is "code" or "kernel", `target` a hub id, with the revision that is named.

    `moving` when the text names no commit; `commit` is what it was resolved to now, None when it could not be reached
    (`problem` says why) or is never fetched (kernels).
    """

    kind: str
    target: str
    named_by: str
    moving: bool
    commit: str | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `--json` prints them."""
        return dict(vars(self))


@dataclass(frozen=True)
class Code:
    """All code that a checkpoint can reach. `closure` is its hash (trust/closure.py); empty when there is no code.

    `not_run` are Python and binary files of the checkpoint that nothing reaches; `problems` what would fail, as text;
    `requirements` the packages that custom_generate/requirements.txt asks for.
    """

    files: tuple[CodeFile, ...] = ()
    entry_points: tuple[EntryPoint, ...] = ()
    redirects: tuple[CodeRedirect, ...] = ()
    not_run: tuple[str, ...] = ()
    closure: str = ""
    problems: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    sources: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.files)

    def read(self, path: str) -> bytes:
        """Return exactly the bytes of `path` that were hashed; CodeError when it is not a file of the closure."""
        try:
            return self.sources[path]
        except KeyError:
            raise CodeError(f"{escape(path)} is not a file of the closure") from None

    def intact(self) -> bool:
        """Whether the bytes still have the hashes that stand here, and these the closure's: all is hashed again."""
        from uncrate.trust.closure import closure_hash

        if set(self.sources) != {file.path for file in self.files}:
            return False
        if any(hashlib.sha256(self.sources[file.path]).hexdigest() != file.sha256 for file in self.files):
            return False
        entries = [(e.json_file, e.pointer, e.auto_class, e.path, e.class_name) for e in self.entry_points]
        files = [(file.path, file.sha256) for file in self.files]
        return self.closure == (closure_hash(files, entries) if files else "")

    def file(self, path: str) -> CodeFile:
        """Return the file of the closure at `path`; CodeError when there is none."""
        for found in self.files:
            if found.path == path:
                return found
        raise CodeError(f"{escape(path)} is not a file of the closure")

    def entry(self, auto_class: str, *, json_file: str | None = None, slot: int | None = None) -> EntryPoint | None:
        """Return the entry point for an Auto class, of config.json first; `slot` 0 or 1 picks of a [slow, fast] pair.

        None when no JSON file names one. Without `slot` the fast class of a pair is preferred.
        """
        found = [e for e in self.entry_points if e.auto_class == auto_class and json_file in (None, e.json_file)]
        if slot is not None:
            found = [e for e in found if e.pointer.endswith(f"/{slot}")]
        # Top-level maps before nested ones, config.json before other files, the fast class of a pair before the slow.
        found.sort(key=lambda e: e.pointer, reverse=True)
        found.sort(key=lambda e: (not e.pointer.startswith("/auto_map"), e.json_file != "config.json", e.json_file))
        return found[0] if found else None

    def faults(self, entry: EntryPoint) -> tuple[str, ...]:
        """Return what stops `entry` from being used: its own problem, or what importing its file would fail on.

        A file that cannot run, an import that leads nowhere, a package that is not installed. What only other entry
        points need, what stands in `try`, and what is imported when something is called is no fault.
        """
        if entry.problem is not None:
            return (f"{entry.where}: {entry.problem}",)
        files = {file.path: file for file in self.files}
        waiting, seen, faults = [entry.path], {entry.path}, []
        while waiting:
            file = files.get(waiting.pop(0))
            if file is None:
                continue
            if file.unparsable:
                faults.append(f"{escape(file.path)} cannot run: {file.unparsable}")
            faults += file.unresolved
            for package in file.imports:
                if package.name in file.missing_packages:
                    where = f"{escape(file.path)}:{package.line}"
                    faults.append(f"{where} needs the package {escape(package.name)}, which is not installed")
            fresh = [path for path in file.needs if path not in seen]
            seen.update(fresh)
            waiting += fresh
        return tuple(faults)

    @property
    def missing_packages(self) -> tuple[str, ...]:
        """Packages that some file of the closure needs when imported and that are not installed, sorted."""
        return tuple(sorted({name for file in self.files for name in file.missing_packages}))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all files, in the order of files and lines."""
        return tuple(finding for file in self.files for finding in file.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the `code` part of `inspect --json`."""
        return {
            "closure": self.closure,
            "files": [file.to_dict() for file in self.files],
            "entry_points": [entry.to_dict() for entry in self.entry_points],
            "redirects": [redirect.to_dict() for redirect in self.redirects],
            "not_run": list(self.not_run),
            "problems": list(self.problems),
            "requirements": list(self.requirements),
            "missing_packages": list(self.missing_packages),
        }


NO_CODE = Code()


def unreached(paths: Mapping[str, int], reached: tuple[str, ...]) -> tuple[str, ...]:
    """Return the files of a checkpoint that hold code and are not in the closure, sorted: they are never run."""
    return tuple(
        sorted(path for path in paths if path.endswith((".py", ".pyc", ".so", ".pyd", ".dll")) and path not in reached)
    )
