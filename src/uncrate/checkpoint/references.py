"""What a checkpoint's JSON names as code: `auto_map` and its relatives, found at any depth and read strictly.

    "modeling_x.XModel"              class XModel in modeling_x.py
    "sub.modeling_x.XModel"          class XModel in sub/modeling_x.py
    "owner/name--modeling_x.XModel"  the same in another repository: a redirect

Nothing here opens a file or knows whether the named one exists.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from uncrate.checkpoint.jsonfile import kind, pointer, thaw
from uncrate.errors import CodeError, escape

MAX_REFERENCES = 1_000
MAX_LENGTH = 512

ATTENTION_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "attn_implementation_internal",
    "_attn_implementation_internal",
)
KEYS = ("auto_map", "custom_pipelines", "auto_mapping", *ATTENTION_KEYS)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_WORD}/{_WORD}")
_KERNEL = re.compile(rf"(?:[a-z]+\|)*(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>[\w./\-]+))?(?::(?P<function>[\w\-]+))?")
_FIX = 'write "module.Class", where module.py lies in the checkpoint and holds the class'


@dataclass(frozen=True)
class Reference:
    """One place in a JSON file that names a class: `path` is the Python file it means, in `repo` when not None."""

    json_file: str
    pointer: str
    auto_class: str
    text: str
    repo: str | None
    path: str
    class_name: str

    @property
    def where(self) -> str:
        """The place, as it is printed: `config.json#/auto_map/AutoModel`."""
        return f"{self.json_file}#{self.pointer}" if self.pointer else self.json_file


@dataclass(frozen=True)
class KernelReference:
    """A hub repository of compiled kernels that a configuration asks for; `revision` is None when nothing pins it."""

    where: str
    repo: str
    revision: str | None


def find_references(documents: Mapping[str, Any]) -> tuple[tuple[Reference, ...], tuple[KernelReference, ...]]:
    """Return every reference to code in `documents` (file name to parsed JSON), in the order of file and place.

    Raises CodeError that names each malformed one by file, JSON pointer and value.
    """
    references: list[Reference] = []
    kernels: list[KernelReference] = []
    faults: list[tuple[str, str]] = []
    for name in sorted(documents):
        for path, key, value in _find_keys(documents[name]):
            if isinstance(value, int) and name.rpartition("/")[2] in ("vocab.json", "added_tokens.json"):
                continue  # a vocabulary with a word that is spelled like one of our keys
            place = _Place(name, path, faults)
            if key == "auto_map":
                references.extend(_auto_map(place, value))
            elif key == "custom_pipelines":
                references.extend(_pipelines(place, value))
            elif key == "auto_mapping":
                _check_mapping(place, value)
            else:
                kernels.extend(_attention(place, value))
            if len(references) + len(kernels) + len(faults) > MAX_REFERENCES:
                raise CodeError(f"more than {MAX_REFERENCES:,} references to code", where=escape(name), next=_FIX)
    if faults:
        raise references_error(faults)
    return tuple(references), tuple(kernels)


def references_error(faults: list[tuple[str, str]]) -> CodeError:
    """Return one error that tells all faults (place, what is wrong), the first dozen in full."""
    if len(faults) == 1:
        return CodeError(faults[0][1], where=faults[0][0], next=_FIX)
    told = "".join(f"\n  - {where}: {what}" for where, what in faults[:12])
    more = f"\n  - and {len(faults) - 12} more" if len(faults) > 12 else ""
    return CodeError(f"{len(faults)} references to code cannot be accepted{told}{more}", next=_FIX)


@dataclass(frozen=True)
class _Place:
    """A value in a JSON file while it is read, and the list that collects what is wrong there."""

    file: str
    path: tuple[str | int, ...]
    faults: list[tuple[str, str]]

    def at(self, *more: str | int) -> _Place:
        return _Place(self.file, (*self.path, *more), self.faults)

    def __str__(self) -> str:
        return f"{escape(self.file)}#{pointer(*self.path)}"

    def fault(self, text: str) -> None:
        self.faults.append((str(self), text))


def _find_keys(document: Any) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
    """Yield path, key and value of every object member that can name code. Values of such members are not searched."""
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while stack:
        path, value = stack.pop()
        children: list[tuple[tuple[str | int, ...], Any]] = []
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key in KEYS:
                    yield (*path, key), key, item
                elif isinstance(item, Mapping | tuple | list):
                    children.append(((*path, key), item))
        elif isinstance(value, tuple | list):
            children.extend(
                ((*path, i), item) for i, item in enumerate(value) if isinstance(item, Mapping | tuple | list)
            )
        stack.extend(reversed(children))


def _shown(value: Any) -> str:
    return f"{kind(value)}: {escape(thaw(value))}"


def _auto_map(place: _Place, value: Any) -> Iterator[Reference]:
    if not isinstance(value, Mapping):
        # Old feature extractors and tokenizers of the 4.1x days wrote the pair itself; nothing else may stand here.
        if isinstance(value, tuple | list | str) and place.file.rpartition("/")[2] == "tokenizer_config.json":
            yield from _pair(place, "AutoTokenizer", value)
            return
        place.fault(f"must be an object of class names to references, and is {_shown(value)}")
        return
    for auto_class, item in value.items():
        here = place.at(auto_class)
        if not _NAME.fullmatch(auto_class):
            here.fault(f"{escape(auto_class)} is not the name of an Auto class")
        else:
            yield from _pair(here, auto_class, item)


def _pair(place: _Place, auto_class: str, value: Any) -> Iterator[Reference]:
    if not isinstance(value, tuple | list):
        yield from _reference(place, auto_class, value)
        return
    if not 1 <= len(value) <= 2:
        place.fault(f"must be one reference or a pair [slow, fast], and is {_shown(value)}")
        return
    for index, item in enumerate(value):
        if item is not None:
            yield from _reference(place.at(index), auto_class, item)


def _pipelines(place: _Place, value: Any) -> Iterator[Reference]:
    if not isinstance(value, Mapping):
        place.fault(f"must be an object of pipelines, and is {_shown(value)}")
        return
    for task, item in value.items():
        if not isinstance(item, Mapping) or "impl" not in item:
            place.at(task).fault(f'must be an object with "impl", and is {_shown(item)}')
        else:
            yield from _reference(place.at(task, "impl"), "pipeline", item["impl"])


def _check_mapping(place: _Place, value: Any) -> None:
    """Adapters name the class they were trained on. PEFT would import it by name; here it is checked data."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        place.fault(f"must be an object or null, and is {_shown(value)}")
        return
    for key, item in value.items():
        if item is not None and not isinstance(item, str):
            place.at(key).fault(f"must be text, and is {_shown(item)}")


def _attention(place: _Place, value: Any) -> Iterator[KernelReference]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _attention(place.at(key), item)
    elif isinstance(value, str):
        if "/" not in value and "\\" not in value:
            return
        found = _KERNEL.fullmatch(value)
        if len(value) > MAX_LENGTH or not found or not repo_is_plain(found["repo"]):
            place.fault(f"{escape(value)} is neither an attention implementation nor a kernel repository (owner/name)")
        else:
            yield KernelReference(str(place), found["repo"], found["revision"])
    elif value is not None:
        place.fault(f"must be text or null, and is {_shown(value)}")


def _reference(place: _Place, auto_class: str, value: Any) -> Iterator[Reference]:
    if not isinstance(value, str):
        place.fault(f"must be text, and is {_shown(value)}")
        return
    parsed = parse_reference(value)
    if isinstance(parsed, str):
        place.fault(f"{escape(value)!r} is not a reference to a class: {parsed}")
        return
    repo, path, class_name = parsed
    yield Reference(escape(place.file), pointer(*place.path), auto_class, value, repo, path, class_name)


def parse_reference(text: str) -> tuple[str | None, str, str] | str:
    """Return (repository or None, file path, class name) of a reference, or why it is refused.

    Names are ASCII identifiers: a name that Python would normalise (NFKC) or that only looks like another is refused.
    """
    if not text or len(text) > MAX_LENGTH:
        return "it is empty" if not text else f"it is longer than {MAX_LENGTH} characters"
    parts = text.split("--")
    if len(parts) > 2:
        return "more than one -- in it"
    repo = parts[0] if len(parts) == 2 else None
    if repo is not None and not (_REPO.fullmatch(repo) and repo_is_plain(repo)):
        return f"{escape(repo)!r} is not a hub id (owner/name)"
    rest = parts[-1]
    if not rest.isascii():
        return "names must be plain ASCII"
    if "\\" in rest or rest.startswith(("/", "~")) or ":" in rest or ".." in rest:
        return "a path that leads out of the checkpoint, or an address"
    if "(" in rest or "[" in rest:
        return "an expression, where a class name belongs"
    names = rest.replace("/", ".").split(".")
    if len(names) < 2 or "/" in rest.rpartition(".")[2] or "." not in rest:
        return "it is not module.Class"
    for name in names:
        if not _NAME.fullmatch(name):
            return f"{escape(name)!r} is not a name"
        if name.startswith("__") or keyword.iskeyword(name):
            return f"{escape(name)!r} is a name that Python keeps for itself"
    return repo, "/".join(names[:-1]) + ".py", names[-1]


def repo_is_plain(repo: str) -> bool:
    """Whether a text of the form owner/name is one that the hub could have: without `--` or `..`, not a .git."""
    return "--" not in repo and ".." not in repo and not repo.endswith(".git") and len(repo) <= 200
