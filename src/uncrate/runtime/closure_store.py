"""Find a closure that this process has not met: approved in the lock that holds here, its bytes taken from the store.

A DataLoader worker, another rank, or a later program that unpickles a class comes this way. Nothing is taken on trust
from
the process that made the pickle: the lock is read again, and every file is hashed again.
"""

from __future__ import annotations

from collections.abc import Mapping

from uncrate.checkpoint.imports import is_installed, is_standard, read_facts
from uncrate.checkpoint.syntax import decode_source, parse_source
from uncrate.checkpoint.walk import walk
from uncrate.errors import NotApproved, escape
from uncrate.trust.lock import load_lock
from uncrate.trust.store import Store


def approved_closure(closure_hash: str) -> tuple[dict[str, bytes], frozenset[str]]:
    """Return the files of an approved closure and its sibling imports.

    Raises `NotApproved` when the lock does not approve the closure, revokes it or a file of it, or when the store
    lacks a
    file; `TrustError` when a stored file was altered.
    """
    lock = load_lock()
    shown = closure_hash[:8]
    approval = next((each for each in reversed(lock.approvals) if each.closure == closure_hash), None)
    if approval is None:
        raise NotApproved(
            f"closure {shown} is not approved here",
            where=escape(str(lock.path), 400),
            why="a class of a checkpoint's own code was unpickled or imported by name",
            next=f"open the checkpoint first, or approve it: uncrate trust WHERE --sha {shown}",
        )
    revoked = {revocation.sha256 for revocation in lock.revocations}
    if closure_hash in revoked or any(file.sha256 in revoked for file in approval.files):
        raise NotApproved(f"closure {shown} is revoked", where=escape(str(lock.path), 400), next="uncrate trust --list")
    store = Store()
    files: dict[str, bytes] = {}
    for file in approval.files:
        data = store.get(file.sha256)
        if data is None:
            raise NotApproved(
                f"closure {shown} is approved, but {escape(file.path)} is not in the store",
                where=escape(str(store.root), 400),
                next="open the checkpoint once on this machine, or set UNCRATE_HOME to the folder that holds its code",
            )
        files[file.path] = data
    return files, siblings_of(files)


def siblings_of(files: Mapping[str, bytes]) -> frozenset[str]:
    """Return the names of a closure's own modules that its files import as if they were installed packages.

    An installed package or a standard module always wins.
    """
    top = {path.rpartition("--")[2].partition("/")[0].removesuffix(".py") for path in files}
    found: set[str] = set()
    for path, data in files.items():
        if not path.endswith(".py"):
            continue
        tree, _ = parse_source(decode_source(data, path), path)
        for statement in read_facts(tree, walk(tree)).imports:
            name = statement.module[0] if statement.module else ""
            if statement.level == 0 and name in top and not is_standard(name) and not is_installed(name):
                found.add(name)
    return frozenset(found)
