"""The text of uncrate.lock: strict reading and canonical formatting.

version = 1

[[approval]]
closure = "91c0a7e2..."          # trust/closure.py, over the files and entry points below
source = "owner/name@commit"     # what was opened when it was approved; information, not a condition
who = "ada"
when = "2026-01-31T12:00:00Z"
note = ""
file = [{ path = "modeling_x.py", sha256 = "..." }, { path, sha256, repo, commit }]
entry_point = [{ json_file, pointer, auto_class, path, class_name }]
redirect = [{ kind, target, named_by, commit }]

[[revocation]]
sha256 = "..."                   # of a closure or of a file
who, when, note

[[base]]
target = "/share/glm-4v-9b"      # what an adapter says it stands on, as it says it
repo = "owner/name"              # the model that it is opened on instead, at exactly this commit
commit = "0123..."
who, when, note
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from uncrate.checkpoint.source import COMMIT, HubSource, parse_source
from uncrate.errors import TrustError, UsageError, escape
from uncrate.trust.closure import closure_hash

VERSION = 1
LIMIT = 16 << 20
MAX_TARGET = 4096  # as long as an adapter may say it
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_HEADER = "# Code of checkpoints that may run as you. Written by `uncrate trust` and `uncrate revoke`.\n"
_NEXT = "restore the file from version control, or delete the entry and approve again"


@dataclass(frozen=True)
class LockedFile:
    """A file of an approved closure; `repo` and `commit` say where it came from, empty for a local folder."""

    path: str
    sha256: str
    repo: str = ""
    commit: str = ""


@dataclass(frozen=True)
class LockedEntry:
    """An entry point of an approved closure."""

    json_file: str
    pointer: str
    auto_class: str
    path: str
    class_name: str


@dataclass(frozen=True)
class LockedRedirect:
    """A place outside the checkpoint that it took code from, and the commit that was approved (empty for kernels)."""

    kind: str
    target: str
    named_by: str
    commit: str = ""


@dataclass(frozen=True)
class Approved:
    """One approval: which closure, made of what, by whom, when (UTC)."""

    closure: str
    source: str
    who: str
    when: str
    note: str
    files: tuple[LockedFile, ...]
    entry_points: tuple[LockedEntry, ...]
    redirects: tuple[LockedRedirect, ...] = ()


@dataclass(frozen=True)
class Revocation:
    """One revocation: `sha256` of a closure or of a file that must not run, whatever was approved."""

    sha256: str
    who: str
    when: str
    note: str

    @property
    def shown(self) -> str:
        """What was revoked and why, for a message."""
        return f"{self.sha256[:8]} ({escape(self.note)})" if self.note else self.sha256[:8]


@dataclass(frozen=True)
class LockedBase:
    """The model under adapters that name `target`: a hub id at one commit. It approves no code."""

    target: str
    repo: str
    commit: str
    who: str
    when: str
    note: str

    @property
    def shown(self) -> str:
        """Where the base is, as the hub id and commit that open it."""
        return f"{self.repo}@{self.commit}"


def parse_lock(data: bytes, where: str) -> tuple[tuple[Approved, ...], tuple[Revocation, ...], tuple[LockedBase, ...]]:
    """Return the approvals, revocations and bases in the bytes of a lock. An empty file is an empty lock.

    Raises TrustError: too large, not TOML (with the line), an unknown or missing key, a wrong type, another version, a
    closure hash that is not that of its own files and entry points, a base that is no hub id at a commit.
    """
    if len(data) > LIMIT:
        raise TrustError(f"the lock is larger than {LIMIT:,} bytes", where=where, next=_NEXT)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TrustError(f"the lock is not TOML: {escape(str(error), 200)}", where=where, next=_NEXT) from None
    if not document:
        return (), (), ()
    _keys(document, {"version"}, {"approval", "revocation", "base"}, where, "the lock")
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise TrustError(
            f"the lock has version {escape(document['version'])}; this uncrate reads {VERSION}",
            where=where,
            next="update uncrate, or restore the file from version control",
        )
    approvals = [
        _approval(table, where, f"approval {n}")
        for n, table in enumerate(_tables(document, "approval", where, "the lock"), 1)
    ]
    revocations = [
        _revocation(table, where, f"revocation {n}")
        for n, table in enumerate(_tables(document, "revocation", where, "the lock"), 1)
    ]
    bases: dict[str, LockedBase] = {}
    for n, table in enumerate(_tables(document, "base", where, "the lock"), 1):
        base = _base(table, where, f"base {n}")
        if base.target in bases:
            raise TrustError(f"base {n} has the target of another: {escape(base.target)}", where=where, next=_NEXT)
        bases[base.target] = base
    return tuple(approvals), tuple(revocations), tuple(bases.values())


def _approval(table: dict[str, Any], where: str, name: str) -> Approved:
    _keys(table, {"closure", "source", "who", "when", "note", "file", "entry_point"}, {"redirect"}, where, name)
    text = {key: _text(table, key, where, name) for key in ("closure", "source", "who", "when", "note")}
    files = []
    for item in _tables(table, "file", where, name):
        _keys(item, {"path", "sha256"}, {"repo", "commit"}, where, f"a file of {name}")
        files.append(LockedFile(**{key: _text(item, key, where, f"a file of {name}") for key in item}))
    entries = []
    for item in _tables(table, "entry_point", where, name):
        _keys(
            item,
            {"json_file", "pointer", "auto_class", "path", "class_name"},
            set(),
            where,
            f"an entry point of {name}",
        )
        entries.append(LockedEntry(**{key: _text(item, key, where, f"an entry point of {name}") for key in item}))
    redirects = []
    for item in _tables(table, "redirect", where, name):
        _keys(item, {"kind", "target", "named_by"}, {"commit"}, where, f"a redirect of {name}")
        redirects.append(LockedRedirect(**{key: _text(item, key, where, f"a redirect of {name}") for key in item}))
    found = Approved(**text, files=tuple(files), entry_points=tuple(entries), redirects=tuple(redirects))
    try:
        right = closure_of(found)
    except ValueError as error:
        raise TrustError(f"{name} is malformed: {error}", where=where, next=_NEXT) from None
    if right != found.closure:
        # A file slipped into the list of a genuine approval would count as reviewed.
        raise TrustError(
            f"{name} was edited: its files and entry points have the hash {right[:8]}, not {escape(found.closure[:8])}",
            where=where,
            next=_NEXT,
        )
    return found


def closure_of(approved: Approved) -> str:
    """Return the closure hash of what an approval lists."""
    return closure_hash(
        [(file.path, file.sha256) for file in approved.files],
        [(e.json_file, e.pointer, e.auto_class, e.path, e.class_name) for e in approved.entry_points],
    )


def _revocation(table: dict[str, Any], where: str, name: str) -> Revocation:
    _keys(table, {"sha256", "who", "when", "note"}, set(), where, name)
    return Revocation(**{key: _text(table, key, where, name) for key in table})


def _base(table: dict[str, Any], where: str, name: str) -> LockedBase:
    _keys(table, {"target", "repo", "commit", "who", "when", "note"}, set(), where, name)
    found = LockedBase(**{key: _text(table, key, where, name) for key in table})
    if not found.target or len(found.target) > MAX_TARGET or not found.target.isprintable():
        rule = f"1 to {MAX_TARGET:,} printable characters"
        raise TrustError(f"target of {name} must be {rule}, and is {escape(found.target)}", where=where, next=_NEXT)
    if not COMMIT.fullmatch(found.commit):
        rule = "40 lower-case hexadecimal digits"
        raise TrustError(f"commit of {name} must be {rule}, and is {escape(found.commit)}", where=where, next=_NEXT)
    if not _is_hub_id(found.repo):
        raise TrustError(f"repo of {name} must be OWNER/NAME, and is {escape(found.repo)}", where=where, next=_NEXT)
    return found


def _is_hub_id(text: str) -> bool:
    try:
        source = parse_source(text)
    except UsageError:
        return False
    # A web address parses too, and a branch would move: neither is a bare hub id.
    return isinstance(source, HubSource) and source.revision is None and str(source) == text


def _keys(table: dict[str, Any], needed: set[str], allowed: set[str], where: str, name: str) -> None:
    for key in sorted(needed - set(table)):
        raise TrustError(f"{name} has no {key}", where=where, next=_NEXT)
    for key in sorted(set(table) - needed - allowed):
        raise TrustError(f"{name} has the unknown key {escape(key)}", where=where, next=_NEXT)


def _tables(table: dict[str, Any], key: str, where: str, name: str) -> list[dict[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TrustError(f"{key} of {name} must be a list of tables", where=where, next=_NEXT)
    return value


def _text(table: dict[str, Any], key: str, where: str, name: str) -> str:
    value = table[key]
    if not isinstance(value, str):
        raise TrustError(f"{key} of {name} must be text, and is {escape(value)}", where=where, next=_NEXT)
    rule = _SHA256 if key in ("closure", "sha256") else _WHEN if key == "when" else None
    if rule is not None and not rule.fullmatch(value):
        what = "a UTC time like 2026-01-31T12:00:00Z" if rule is _WHEN else "64 lower-case hexadecimal digits"
        raise TrustError(f"{key} of {name} must be {what}, and is {escape(value)}", where=where, next=_NEXT)
    return value


def format_lock(
    approvals: tuple[Approved, ...], revocations: tuple[Revocation, ...], bases: tuple[LockedBase, ...] = ()
) -> str:
    """Return the canonical text of a lock: equal locks give equal bytes, one more entry changes only its own lines."""
    lines = [_HEADER, f"version = {VERSION}\n"]
    for approved in approvals:
        lines.append("\n[[approval]]\n")
        lines += [f"{key} = {quote(getattr(approved, key))}\n" for key in ("closure", "source", "who", "when", "note")]
        lines += _inline("file", approved.files)
        lines += _inline("entry_point", approved.entry_points)
        if approved.redirects:
            lines += _inline("redirect", approved.redirects)
    for revocation in revocations:
        lines.append("\n[[revocation]]\n")
        lines += [f"{key} = {quote(getattr(revocation, key))}\n" for key in ("sha256", "who", "when", "note")]
    for base in bases:
        lines.append("\n[[base]]\n")
        keys = ("target", "repo", "commit", "who", "when", "note")
        lines += [f"{key} = {quote(getattr(base, key))}\n" for key in keys]
    return "".join(lines)


def _inline(key: str, items: tuple[LockedFile | LockedEntry | LockedRedirect, ...] | tuple[Any, ...]) -> list[str]:
    rows = []
    for item in items:
        fields = ((name, value) for name, value in vars(item).items() if value or name not in ("repo", "commit"))
        rows.append("  { " + ", ".join(f"{name} = {quote(value)}" for name, value in fields) + " },\n")
    return [f"{key} = [\n", *rows, "]\n"] if rows else [f"{key} = []\n"]


def quote(text: str) -> str:
    """Return `text` as a TOML basic string; controls, format characters and line separators are escaped."""
    out = []
    for char in text.encode("utf-8", "replace").decode("utf-8"):
        if char in '"\\':
            out.append("\\" + char)
        elif char.isprintable():
            out.append(char)
        else:
            out.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
    return '"' + "".join(out) + '"'
