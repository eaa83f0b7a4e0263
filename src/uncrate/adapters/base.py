"""From an adapter to the model that it stands on: who may name it, and how a dead name is found again.

`Options.base` (the caller) comes first, then a base that the user's uncrate.lock pins, then what adapter_config.json
names. What that names is followed on the hub, and from a folder of this machine also as a folder of this machine; never
does an adapter from the hub choose a folder here. Code of a base runs only when the lock approves it, as of any
checkpoint: naming or pinning a base approves none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from uncrate.checkpoint.adapter import FILE
from uncrate.checkpoint.manifest import Manifest, read_manifest
from uncrate.checkpoint.source import HubSource, LocalSource, Source, parse_source
from uncrate.errors import AdapterError, CheckpointError, HubError, SourceError, UsageError, escape

if TYPE_CHECKING:
    from uncrate.trust.lockfile import LockedBase

MAX_CHAIN = 8
# Who named the base of an adapter that was put on an opened model.
CALLER = "the caller"
# Who named a base that uncrate.lock pins.
LOCK = "the lock"
# One publisher under three names: the hub redirects the first to the second, ModelScope knows the third.
ALIASES = ("zai-org", "THUDM", "ZhipuAI")


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """One adapter on a model: its manifest, the base it was put on, who named that base, and what to know about it."""

    manifest: Manifest
    base: Source | None
    named_by: str
    notes: tuple[str, ...] = ()


def follow_base(
    manifest: Manifest, *, base: str | None = None, adapters: Sequence[str] = ()
) -> tuple[Manifest, tuple[Stacked, ...]]:
    """Return the model that `manifest` leads to and the adapters on it, the innermost first.

    A manifest of a model is returned as it is. `base` replaces the base that the outermost adapter names; `adapters`
    are put on top. Raises AdapterError for a base that is not named, not there, or leads in a circle.
    """
    if manifest.adapter is None and base is not None:
        raise UsageError(
            f"{escape(str(manifest.source))} is no adapter, so it has no base",
            next="leave --base away, or name the adapter first and the model by --base",
        )
    chain, seen = [manifest], [_identity(manifest)]
    stack: list[Stacked] = []
    while chain[-1].adapter is not None:
        top = chain[-1]
        below, named_by, notes = _read_base(top, base if len(chain) == 1 else None)
        seen.append(_identity(below))
        if seen.count(seen[-1]) > 1 or len(seen) > MAX_CHAIN:
            shown = " -> ".join(escape(str(link.source), 200) for link in [*chain, below])
            fault = "the adapters lead in a circle" if seen.count(seen[-1]) > 1 else "the chain of adapters is too long"
            raise AdapterError(f"{fault}: {shown}", where=_where(top), next="name the model: --base MODEL")
        stack.insert(0, Stacked(manifest=top, base=below.source, named_by=named_by, notes=tuple(notes)))
        chain.append(below)
    model = chain[-1]
    return model, (*stack, *(put_on(model, adapter) for adapter in adapters))


def same_model(one: Source, other: Source) -> bool:
    """Whether two sources name one model: equal folders, or hub ids that differ in a publisher's names alone."""
    if isinstance(one, HubSource) and isinstance(other, HubSource):
        return _plain(one.repo) == _plain(other.repo)
    if isinstance(one, LocalSource) and isinstance(other, LocalSource):
        return one.folder.resolve() == other.folder.resolve()
    return False


def _plain(repo: str) -> str:
    owner, _, name = repo.lower().partition("/")
    return f"{ALIASES[0]}/{name}" if owner in {alias.lower() for alias in ALIASES} else f"{owner}/{name}"


def _identity(manifest: Manifest) -> str:
    source = manifest.source
    where = str(source.folder.resolve()) if isinstance(source, LocalSource) else _plain(source.repo)
    return f"{where}\n{manifest.commit}\n{manifest.subfolder}"


def _where(manifest: Manifest) -> str:
    return f"{escape(str(manifest.source), 300).rstrip('/')}/{FILE}"


def put_on(model: Manifest, text: str) -> Stacked:
    """Read an adapter that the caller puts on a model; what it was trained on is compared by name."""
    manifest = read_manifest(parse_source(text))
    if manifest.adapter is None:
        raise AdapterError(
            "this is no adapter: it has no adapter_config.json",
            where=escape(text, 300),
            next="name a folder that PEFT saved",
        )
    named = manifest.adapter.base
    notes = []
    if named is not None:
        try:
            trained_on: Source | None = parse_source(named)
        except UsageError:
            trained_on = None
        if trained_on is None or not same_model(trained_on, model.source):
            notes.append(f"{escape(text)} says it was trained on {escape(named)}; it is put on {model.source}")
    return Stacked(manifest=manifest, base=model.source, named_by=CALLER, notes=tuple(notes))


def _read_base(adapter: Manifest, chosen: str | None) -> tuple[Manifest, str, list[str]]:
    """Return the manifest of an adapter's base, who named it, and what to tell about that."""
    assert adapter.adapter is not None
    named = adapter.adapter.base
    if chosen is not None:
        base = _first_there(parse_source(chosen))
        note = [f"{FILE} names {escape(named)}; --base is used"] if named and named != chosen else []
        return base, "--base", note
    if named is None:
        raise AdapterError("the adapter does not name its base", where=_where(adapter), next=_hint(None))
    # Only an adapter needs the lock here: a plain checkpoint never pays for reading one.
    from uncrate.trust.approve import lock_for

    lock = lock_for(adapter.source)
    told = list(lock.notes)
    pin = _pinned(named, lock.bases)
    if pin is not None:
        told.append(f"base pinned by {escape(str(lock.path), 400)}: {escape(named)} -> {pin.shown}")
        asked = adapter.adapter.config.get("revision")
        if isinstance(asked, str) and asked and asked != pin.commit:
            told.append(f"{FILE} asks for revision {escape(asked)} of its base; the lock's commit is used")
        return _read_pinned(adapter, pin, str(lock.path)), LOCK, told
    source = _parse(adapter, named)
    if isinstance(source, LocalSource):
        return _read_folder(adapter, source, named), FILE, told
    if isinstance(adapter.source, HubSource):
        source = replace(source, access=adapter.source.access)
    revision = adapter.adapter.config.get("revision")
    if source.revision is None and isinstance(revision, str) and revision:
        source = HubSource(source.repo, revision, source.access)
    try:
        base = _first_there(source)
    except HubError as error:
        raise AdapterError(
            f"the base {escape(named)} cannot be reached: {error.what}",
            where=_where(adapter),
            why=error.why,
            next=_hint(named),
        ) from error
    if not source.pinned:
        told.append(f"the base {escape(named)} moves; this is commit {(base.commit or '')[:12]}")
    return base, FILE, told


def _pinned(named: str, bases: Sequence[LockedBase]) -> LockedBase | None:
    """The lock's entry for a base: of the same text, else the newest of the same model by a publisher's other name."""
    for base in bases:
        if base.target == named:
            return base
    model = _hub_model(named)
    return next((base for base in reversed(bases) if model and _hub_model(base.target) == model), None)


def _hub_model(text: str) -> tuple[str, str | None] | None:
    """A hub id without its publisher's choice of name, and the revision; None for a folder or what is neither."""
    try:
        source = parse_source(text)
    except UsageError:
        return None
    return (_plain(source.repo), source.revision) if isinstance(source, HubSource) else None


def _read_pinned(adapter: Manifest, pin: LockedBase, lock: str) -> Manifest:
    """Open exactly what the lock says: no other name of the publisher is tried."""
    source = HubSource(pin.repo, pin.commit)
    if isinstance(adapter.source, HubSource):
        source = replace(source, access=adapter.source.access)
    try:
        return read_manifest(source)
    except HubError as error:
        raise AdapterError(
            f"the base {pin.shown} cannot be reached: {error.what}; {escape(lock, 400)} pins it",
            where=_where(adapter),
            why=error.why,
            next="pin another: uncrate trust ADAPTER --base OWNER/NAME, or name the base: --base MODEL",
        ) from error


def _parse(adapter: Manifest, named: str) -> Source:
    try:
        return parse_source(named)
    except UsageError as error:
        # Trainers write what was typed: a word alone was a folder then, and no hub id can be one.
        if "/" not in named and "\\" not in named and isinstance(adapter.source, LocalSource) and Path(named).is_dir():
            return LocalSource(Path(named), f"./{named}")
        raise _dead(adapter, named, error.what) from error


def _read_folder(adapter: Manifest, source: LocalSource, named: str) -> Manifest:
    """A folder that an adapter names: followed only from a folder, and where it is still there."""
    if not isinstance(adapter.source, LocalSource):
        raise _dead(
            adapter, named, "a folder of the machine it was trained on; an adapter from the hub chooses none here"
        )
    if not source.folder.is_dir():
        raise _dead(adapter, named, "there is no such folder here")
    try:
        return read_manifest(source)
    except (SourceError, CheckpointError) as error:
        raise AdapterError(
            f"the base {escape(named)} cannot be opened: {error}", where=_where(adapter), next=_hint(named)
        ) from error


def _dead(adapter: Manifest, named: str, why: str) -> AdapterError:
    return AdapterError(
        f"the base that it names is not here: {escape(named)}", where=_where(adapter), why=why, next=_hint(named)
    )


def _hint(named: str | None) -> str:
    """The command to type; a dead path often ends in the model's name on the hub."""
    last = re.split(r"[/\\]", named.rstrip("/\\"))[-1] if named else ""
    guess = f"THUDM/{last}" if re.fullmatch(r"(glm-4v?|chatglm[23]?)-[\w.-]+", last) else "MODEL"
    return f"name the base: --base ./FOLDER or --base {guess}"


def _first_there(source: Source) -> Manifest:
    """Read the manifest of `source`, or of the same model under another of its publisher's names."""
    if isinstance(source, LocalSource):
        return read_manifest(source)
    owner, _, name = source.repo.partition("/")
    repos = [source.repo]
    if owner.lower() in {alias.lower() for alias in ALIASES}:
        repos += [f"{alias}/{name}" for alias in ALIASES if alias.lower() != owner.lower()]
    first: HubError | None = None
    for repo in repos:
        try:
            return read_manifest(HubSource(repo, source.revision, source.access))
        except HubError as error:
            first = first or error
    assert first is not None
    raise first
