"""What one closure sees instead of the installed transformers: import results, and its class statements.

Nothing here touches transformers itself. A checkpoint's modules import through `Hooks.import_module`, which answers
with
views of transformers' modules: a removed name is given back, a few classes are replaced by subclasses that still speak
the
old language, shared tables are copied. Their class statements pass through `Hooks.build_class`, which puts our mixins
between the checkpoint's class and transformers' base class. Code outside the closure never meets any of it.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

# Where the base classes live that decide how a class statement is treated; looked up only once transformers is loaded.
KINDS = (
    ("config", "transformers.configuration_utils", "PreTrainedConfig"),
    ("model", "transformers.modeling_utils", "PreTrainedModel"),
    ("slow tokenizer", "transformers.tokenization_python", "PythonBackend"),
    ("fast tokenizer", "transformers.tokenization_utils_tokenizers", "TokenizersBackend"),
    ("processor", "transformers.processing_utils", "ProcessorMixin"),
    ("image processor", "transformers.image_processing_utils", "BaseImageProcessor"),
)


class Legacy:
    """Marks every mixin of this package, so that a class gets each of them once."""


@dataclass
class ClassBody:
    """A class statement of a checkpoint, after its body ran and before the class exists; edits change it in place."""

    kind: str
    name: str
    bases: list[type]
    namespace: dict[str, Any]

    def inherits(self, name: str) -> Any:
        """Return what the bases define under `name`, or None."""
        for base in self.bases:
            for owner in base.__mro__:
                if name in owner.__dict__:
                    return owner.__dict__[name]
        return None


Edit = Callable[[ClassBody], None]
Names = Mapping[str, Callable[[], Any]]


@dataclass
class Hooks:
    """What the shims have asked for on behalf of one closure.

    text: the closure's sources, for shims that must tell which era code was written for. names: removed name to a
    factory, by module ("" holds for every module of transformers). modules: removed modules, as
    another module's name or as names. replace: (module, name) of an existing object to a factory of its stand-in.
    """

    closure: str
    text: str = ""
    names: dict[str, dict[str, Callable[[], Any]]] = field(default_factory=dict)
    modules: dict[str, str | Names] = field(default_factory=dict)
    replace: dict[tuple[str, str], Callable[[Any], Any]] = field(default_factory=dict)
    replace_class: list[Callable[[type], type | None]] = field(default_factory=list)
    guess: list[Callable[[str, str], Any]] = field(default_factory=list)
    mixins: dict[str, list[type]] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    _views: dict[str, ModuleType] = field(default_factory=dict)
    _made: dict[tuple[str, str], Any] = field(default_factory=dict)
    _stand_ins: dict[int, Any] = field(default_factory=dict)

    def add_names(self, module: str, **factories: Callable[[], Any]) -> None:
        """Give removed names back in one module ("" for all of transformers)."""
        self.names.setdefault(module, {}).update(factories)

    def import_module(self, name: str, fromlist: tuple[str, ...]) -> ModuleType:
        """Return what `import name` or `from name import fromlist` gives to a module of the closure."""
        view = self.view(name)
        if not fromlist:
            return self.view(name.partition(".")[0])
        for item in fromlist:
            if item != "*" and not hasattr(view, item) and hasattr(view, "__path__"):
                self._import_child(name, item)
        return view

    def _import_child(self, name: str, item: str) -> None:
        child = f"{name}.{item}"
        try:
            self.view(child)
        except ModuleNotFoundError as error:
            if error.name != child:
                raise

    def view(self, name: str) -> ModuleType:
        """Return the view of one module of transformers, real or removed."""
        if name in self._views:
            return self._views[name]
        removed = self.modules.get(name)
        try:
            with _quiet():
                real: ModuleType | None = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if removed is None or not (error.name and name.startswith(error.name)):
                raise
            real = importlib.import_module(removed) if isinstance(removed, str) else None
        names = removed if isinstance(removed, Mapping) else {}
        view = ModuleView(name, self, real, names)
        self._views[name] = view
        parent, _, child = name.rpartition(".")
        if parent:
            self.view(parent).__dict__.setdefault(child, view)
        return view

    def look_up(self, module: str, name: str, real: ModuleType | None) -> Any:
        """Return a module's attribute as the closure sees it; raise AttributeError when nobody knows it."""
        key = (module, name)
        if key in self._made:
            return self._made[key]
        try:
            with _quiet():
                value = getattr(real, name) if real is not None else None
            found = real is not None
        except (AttributeError, ImportError):
            found = False
        made = self._stand_in(module, name, value) if found else self._removed(module, name)
        self._made[key] = made
        return made

    def _stand_in(self, module: str, name: str, value: Any) -> Any:
        if isinstance(value, ModuleType):
            inside = value.__name__.partition(".")[0] == "transformers"
            return self.view(value.__name__) if inside else value
        if id(value) in self._stand_ins:
            return self._stand_ins[id(value)][1]
        home = getattr(value, "__module__", None)
        factory = self.replace.get((home if isinstance(home, str) else module, name)) or self.replace.get(
            (module, name)
        )
        made = value
        if factory is not None:
            made = factory(value)
        elif isinstance(value, type):
            made = next((new for try_class in self.replace_class if (new := try_class(value)) is not None), value)
        # The original is kept beside its stand-in: an id is only a key while the object lives.
        self._stand_ins[id(value)] = (value, made)
        return made

    def _removed(self, module: str, name: str) -> Any:
        for table in (self.names.get(module), self.names.get("")):
            if table and name in table:
                return table[name]()
        moved = self.modules.get(module)
        if isinstance(moved, str) and hasattr(self.view(moved), name):
            return getattr(self.view(moved), name)
        if f"{module}.{name}" in self.modules:
            return self.view(f"{module}.{name}")
        for guess in self.guess:
            made = guess(module, name)
            if made is not None:
                return made
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    def build_class(
        self, body: Callable[..., object], name: str, bases: tuple[Any, ...], keywords: dict[str, Any]
    ) -> type:
        """Carry out a class statement, with our mixins and edits when it derives from a base class of transformers."""
        resolved = types.resolve_bases(bases)
        kind = _kind(resolved)
        if kind is None:
            made: type = builtins.__build_class__(body, name, *bases, **keywords)  # type: ignore[arg-type]
            return made
        explicit = keywords.pop("metaclass", None)
        maker = _Maker(self, kind, explicit)
        built: type = builtins.__build_class__(body, name, *bases, metaclass=maker, **keywords)  # type: ignore[arg-type]
        return built

    def edit(self, body: ClassBody) -> None:
        """Apply mixins and edits to a class statement."""
        self.add_mixins(body)
        for edit in self.edits:
            edit(body)

    def add_mixins(self, body: ClassBody) -> None:
        """Put our mixins right before the first base that descends from transformers, unless it has them already."""
        wanted = self.mixins.get(body.kind, [])
        if not wanted or any(issubclass(base, wanted[0]) for base in body.bases):
            return
        at = next(index for index, base in enumerate(body.bases) if _kind((base,)) == body.kind)
        body.bases[at:at] = wanted


class _Maker:
    """Stands where a metaclass stands in a class statement: runs the edits between the body and the class."""

    def __init__(self, hooks: Hooks, kind: str, metaclass: Any) -> None:
        self.hooks = hooks
        self.kind = kind
        self.metaclass = metaclass

    def _prepare(self, name: str, bases: tuple[type, ...], keywords: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        given = dict(keywords)
        if self.metaclass is not None:
            given["metaclass"] = self.metaclass
        meta, namespace, rest = types.prepare_class(name, bases, given)
        return meta, namespace, rest

    def __prepare__(self, name: str, bases: tuple[type, ...], **keywords: Any) -> Any:
        return self._prepare(name, bases, keywords)[1]

    def __call__(self, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any) -> Any:
        meta, _, rest = self._prepare(name, bases, keywords)
        body = ClassBody(self.kind, name, list(bases), namespace)
        self.hooks.edit(body)
        return meta(name, tuple(body.bases), body.namespace, **rest)


class ModuleView(ModuleType):
    """A module of transformers as one closure sees it."""

    def __init__(self, name: str, hooks: Hooks, real: ModuleType | None, names: Names) -> None:
        super().__init__(name, getattr(real, "__doc__", None))
        own = self.__dict__
        own["_hooks"], own["_real"], own["_names"] = hooks, real, names
        for key in ("__spec__", "__package__", "__file__", "__path__", "__version__"):
            if real is not None and hasattr(real, key):
                own[key] = getattr(real, key)

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        if name == "__all__":
            return self.__dir__()
        if name.startswith("__") and name.endswith("__"):
            if own["_real"] is None:
                raise AttributeError(name)
            return getattr(own["_real"], name)
        if name in own["_names"]:
            own[name] = own["_names"][name]()
            return own[name]
        return own["_hooks"].look_up(self.__name__, name, own["_real"])

    def __dir__(self) -> list[str]:
        own = self.__dict__
        real = own["_real"]
        listed = (
            list(getattr(real, "__all__", None) or [name for name in dir(real) if not name.startswith("_")])
            if real
            else []
        )
        added = [*own["_names"], *own["_hooks"].names.get(self.__name__, {})]
        return [*listed, *(name for name in added if name not in listed)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep remarks about deprecated names to ourselves: who runs a checkpoint cannot rewrite its imports."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        yield


def _kind(bases: tuple[Any, ...]) -> str | None:
    for kind, module, name in KINDS:
        loaded = sys.modules.get(module)
        root = getattr(loaded, name, None) if loaded is not None else None
        if root is not None and any(isinstance(base, type) and issubclass(base, root) for base in bases):
            return kind
    return None
