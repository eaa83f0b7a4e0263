"""The one place where a checkpoint's code is executed: approved bytes, in a private namespace named by their hash.

A closure (all code that a checkpoint can reach) becomes the package `uncrate.runtime.approved.c<hash>`. Its modules are
compiled from the very bytes that were approved: no `.pyc`, nothing read by path, no import that wanders into the
checkpoint's folder. `__file__` of such a module lies under /dev/null, where no file can be planted: code that looks for
data next to itself finds nothing, and a debugger or `torch.jit.script` gets the source from here. Two revisions of one
checkpoint are two packages. A process that meets such a name without having registered the closure (a spawned worker,
another rank) takes the bytes from the store of approved code, which checks hash and approval again.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import linecache
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import Any

from uncrate.checkpoint.syntax import decode_source
from uncrate.errors import CodeError, MissingPackage, UncrateError, escape
from uncrate.runtime.keep_code import keep_code

PACKAGE = "uncrate.runtime.approved"
ORIGIN = "/dev/null/uncrate"
_CLOSURE_NAME = re.compile(r"c([0-9a-f]{64})")


@dataclass(frozen=True)
class Closure:
    """The approved code of one checkpoint.

    hash: 64 hexadecimal digits. files: posix path inside the closure to exact bytes. siblings: top-level names of its
    own
    modules that its code may import absolutely (`import configuration_chatglm`). compat: whether its modules see the
    removed parts of transformers given back.
    """

    hash: str
    files: Mapping[str, bytes]
    siblings: frozenset[str] = frozenset()
    compat: bool = True
    _hooks: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def package(self) -> str:
        """The full name of the package that holds the closure's modules."""
        return f"{PACKAGE}.c{self.hash}"

    def path_of(self, module: str) -> tuple[str, bool] | None:
        """Return the closure path of a dotted module name ("" is the root) and whether it is a package, or None."""
        if not module:
            # The root stays empty, as in transformers: a checkpoint's own __init__.py is not part of importing a
            # module.
            return "", True
        stem = module.replace(".", "/")
        if f"{stem}/__init__.py" in self.files:
            return f"{stem}/__init__.py", True
        if f"{stem}.py" in self.files:
            return f"{stem}.py", False
        if any(path.startswith(f"{stem}/") for path in self.files):
            return "", True
        return None

    def home(self, module: str) -> str:
        """Return the package that is the root for a module's absolute imports: its repository's."""
        first = module[len(self.package) + 1 :].partition(".")[0]
        return (
            f"{self.package}.{first}"
            if first.startswith("from_") and "." in module[len(self.package) + 1 :]
            else self.package
        )

    def hooks(self) -> Any:
        """Return the compatibility hooks of this closure, made on first use."""
        if "made" not in self._hooks:
            from uncrate.runtime.compat import make_hooks

            sources = (data.decode("utf-8", "replace") for path, data in self.files.items() if path.endswith(".py"))
            self._hooks["made"] = make_hooks(self.hash, sources)
        return self._hooks["made"]


_closures: dict[str, Closure] = {}
_lock = threading.RLock()


def register_closure(
    closure_hash: str, files: Mapping[str, bytes], *, siblings: frozenset[str] = frozenset(), compat: bool = True
) -> Closure:
    """Make a closure importable in this process and return it; the caller has checked that it is approved.

    Registering the same closure again returns the first one. Raises `CodeError` when the hash is malformed or names
    other
    bytes than before.
    """
    if not _CLOSURE_NAME.fullmatch(f"c{closure_hash}"):
        raise CodeError(f"{escape(closure_hash)} is not a closure hash", why="64 hexadecimal digits are expected")
    with _lock:
        known = _closures.get(closure_hash)
        if known is not None:
            if dict(known.files) != {python_path(path): data for path, data in files.items()}:
                raise CodeError(
                    f"closure {closure_hash[:8]} was registered with other bytes", why="one hash names one content"
                )
            return known
        closure = Closure(
            closure_hash, MappingProxyType({python_path(path): data for path, data in files.items()}), siblings, compat
        )
        _closures[closure_hash] = closure
        return closure


def load_module(closure: Closure, module: str) -> ModuleType:
    """Import one module of a registered closure, running it if that has not happened yet.

    Raises `CodeError` when the closure has no such module or when its code fails, `MissingPackage` when it needs a
    package
    that is not installed.
    """
    if closure.path_of(module) is None:
        raise CodeError(f"the approved code has no module {escape(module)}", where=f"closure {closure.hash[:8]}")
    try:
        return importlib.import_module(f"{closure.package}.{module}")
    except UncrateError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(closure, module, error) from error
    except Exception as error:  # foreign code may raise anything at all; it ends as one sentence with its place
        raise CodeError(
            f"the checkpoint's code failed while being imported: {type(error).__name__}: {escape(str(error), 300)}",
            where=_place(error) or module,
        ) from error


def load_class(
    closure_hash: str,
    files: Mapping[str, bytes],
    reference: str,
    *,
    siblings: frozenset[str] = frozenset(),
    compat: bool = True,
) -> type:
    """Return the class that `reference` ("modeling_x.Model") names in an approved closure.

    files: closure path to approved bytes. Raises `CodeError` when it is not there or not a class of the closure,
    `MissingPackage` when the code needs a package that is not installed.
    """
    closure = register_closure(closure_hash, files, siblings=siblings, compat=compat)
    module_name, _, class_name = reference.rpartition(".")
    if not module_name or not class_name.isidentifier() or class_name.startswith("__"):
        raise CodeError(f"{escape(repr(reference))} does not name a class", why="module.Class is expected")
    module = load_module(closure, module_name)
    found = vars(module).get(class_name)
    if not isinstance(found, type):
        raise CodeError(
            f"{escape(class_name)} is not a class of {escape(module_name)}.py", where=f"closure {closure_hash[:8]}"
        )
    keep_code(found, {path: data for path, data in files.items() if "--" not in path})
    return found


def python_path(path: str) -> str:
    """Return where a closure file lies among the importable modules: a file of another repository
    (`owner/name--file.py`) lies in a folder named after it, all others where they are.
    """
    repo, mark, inner = path.rpartition("--")
    if not mark:
        return path
    return f"from_{re.sub(r'[^0-9A-Za-z]', '_', repo)}_{hashlib.sha256(repo.encode()).hexdigest()[:8]}/{inner}"


def module_name(path: str) -> str:
    """Return the dotted module name of a closure file, as in the reference that `load_class` takes."""
    return python_path(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def closure_of(name: str) -> str | None:
    """Return the closure hash in a module name such as `__module__` of a class, or None when it is not checkpoint
    code."""
    if not name.startswith(f"{PACKAGE}.c"):
        return None
    match = _CLOSURE_NAME.fullmatch(name[len(PACKAGE) + 1 :].partition(".")[0])
    return match.group(1) if match else None


def install_finder() -> None:
    """Put the finder of approved code first among the import finders, once."""
    with _lock:
        if not any(isinstance(finder, ApprovedFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, ApprovedFinder())


class ApprovedFinder(importlib.abc.MetaPathFinder):
    """Serve the modules of approved closures, and nothing else, under `uncrate.runtime.approved`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a closure's module; None for every name outside the package."""
        if not fullname.startswith(f"{PACKAGE}."):
            return None
        closure_hash = closure_of(fullname)
        module = fullname[len(PACKAGE) + 1 :].partition(".")[2]
        closure = find_closure(closure_hash) if closure_hash else None
        found = closure.path_of(module) if closure else None
        if closure is None or found is None:
            raise ModuleNotFoundError(f"the approved code has no module {fullname!r}", name=fullname)
        source, is_package = found
        loader = ApprovedLoader(closure, source)
        return importlib.machinery.ModuleSpec(fullname, loader, origin=loader.filename, is_package=is_package)


class ApprovedLoader(importlib.abc.InspectLoader):
    """Run one file of a closure from its approved bytes."""

    def __init__(self, closure: Closure, path: str) -> None:
        self.closure = closure
        self.path = path
        self.filename = f"{ORIGIN}/{closure.hash}/{path or '__init__.py'}"

    def get_source(self, fullname: str) -> str:
        """Return the text that was approved and is run."""
        if not self.path:
            return ""
        # The reviewer's own decoder, so that what runs is the text that was reviewed.
        return decode_source(self.closure.files[self.path], self.path)

    def is_package(self, fullname: str) -> bool:
        """Whether the module may have sub-modules."""
        return not self.path or self.path.endswith("__init__.py")

    def exec_module(self, module: ModuleType) -> None:
        """Compile and run the approved text in the module's namespace."""
        text = self.get_source(module.__name__)
        lines = text.splitlines(keepends=True)
        # An entry without a modification time is never compared with a file: what is shown and scripted is what ran.
        linecache.cache[self.filename] = (len(text), None, lines, self.filename)
        module.__file__ = self.filename
        module.__dict__["__builtins__"] = _builtins_for(self.closure)
        code = compile(text, self.filename, "exec", dont_inherit=True)
        exec(code, module.__dict__)


def find_closure(closure_hash: str) -> Closure:
    """Return a registered closure, else the approved one from the store; raise `NotApproved` when there is none."""
    with _lock:
        known = _closures.get(closure_hash)
    if known is not None:
        return known
    from uncrate.runtime.closure_store import approved_closure

    files, siblings = approved_closure(closure_hash)
    return register_closure(closure_hash, files, siblings=siblings)


def _builtins_for(closure: Closure) -> dict[str, Any]:
    """Return the builtins that a closure's modules see: their own import, and their own class statement."""
    own = dict(vars(builtins))
    own["__import__"] = _importer(closure)
    if closure.compat:
        own["__build_class__"] = _class_builder(closure)
    return own


def _importer(closure: Closure) -> Callable[..., ModuleType]:
    def import_for_checkpoint(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level:
            package = str((globals or {}).get("__package__") or "")
            parts = package.split(".")
            if len(parts) - (level - 1) < closure.package.count(".") + 1:
                raise ImportError(f"relative import beyond the checkpoint: {'.' * level}{name}")
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        top = name.partition(".")[0]
        if top in closure.siblings:
            home = closure.home(str((globals or {}).get("__name__") or ""))
            module = importlib.import_module(f"{home}.{name}")
            return module if fromlist else sys.modules[f"{home}.{top}"]
        if top == "transformers" and closure.compat:
            found: ModuleType = closure.hooks().import_module(name, tuple(fromlist or ()))
            return found
        return builtins.__import__(name, globals, locals, fromlist or (), 0)

    return import_for_checkpoint


def _class_builder(closure: Closure) -> Callable[..., type]:
    def build_class(body: Callable[..., object], name: str, /, *bases: Any, **keywords: Any) -> type:
        made: type = closure.hooks().build_class(body, name, bases, keywords)
        return made

    return build_class


def _missing(closure: Closure, module: str, error: ModuleNotFoundError) -> UncrateError:
    """Turn a failed import into the error that helps: a package to install, or a file that the closure lacks."""
    name = error.name or str(error)
    if name.startswith(closure.package):
        lacking = name[len(closure.package) + 1 :]
        return CodeError(f"the approved code lacks the module {escape(lacking)}", where=_place(error) or module)
    top = name.partition(".")[0]
    if top == "transformers" and name != top:
        return CodeError(
            f"the checkpoint's code needs {escape(name)}, which this transformers does not have", where=_place(error)
        )
    package = "uncrate[transformers]" if top == "transformers" else top
    return MissingPackage(
        f"the checkpoint's code imports {escape(name)}, which is not installed",
        where=_place(error) or module,
        next=f"pip install '{escape(package)}'" if "[" in package else f"pip install {escape(package)}",
    )


def _place(error: BaseException) -> str | None:
    """Return file:line of the innermost line of checkpoint code in a traceback."""
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(ORIGIN):
        return f"{error.filename.removeprefix(ORIGIN + '/')[65:]}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(ORIGIN):
            return f"{frame.filename.removeprefix(ORIGIN + '/')[65:]}:{frame.lineno}"
    return None
