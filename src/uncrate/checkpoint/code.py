"""All code that a checkpoint can reach, read and never run: which files, why, at which commit, with which hash.

The *closure* is every file that an entry point in the checkpoint's JSON leads to, over all imports of its own files.
Its hash is what a person approves. The bytes that were hashed stay in the value: what runs later is those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uncrate.checkpoint.codefacts import NO_CODE, Code, CodeFile, CodeRedirect, EntryPoint, Origin, Package, unreached
from uncrate.checkpoint.files import Files, open_files

if TYPE_CHECKING:
    from uncrate.checkpoint.manifest import Manifest

__all__ = [
    "NO_CODE",
    "Code",
    "CodeFile",
    "CodeRedirect",
    "EntryPoint",
    "Origin",
    "Package",
    "collect_code",
    "read_code",
]


def read_code(manifest: Manifest, *, pins: Mapping[str, str] | None = None, offline: bool | None = None) -> Code:
    """Return all code that the checkpoint of `manifest` can reach; nothing of it runs.

    `pins` gives the commit at which another repository is read where the checkpoint names none (the lock's, for an
    approved checkpoint). `offline` keeps to the hub's cache. Raises CodeError for references, files or encodings that
    cannot be accepted; what is only absent (a file, a class, a repository out of reach) stands in `problems`.
    """
    from uncrate.checkpoint.documents import code_documents

    files = manifest.open(offline=offline)
    documents, notes = code_documents(files, manifest)
    return collect_code(
        _code_root(manifest, files, documents, offline), documents, pins=pins, offline=offline, notes=notes
    )


def collect_code(
    files: Files,
    documents: Mapping[str, Any],
    *,
    pins: Mapping[str, str] | None = None,
    offline: bool | None = None,
    notes: tuple[str, ...] = (),
) -> Code:
    """`read_code` for files that are open already and the parsed JSON files that may name code."""
    from uncrate.checkpoint.references import find_references

    references, kernels = find_references(documents)
    paths = {entry.path: entry.size for entry in files.entries()}
    custom = "custom_generate/generate.py" in paths
    if not references and not kernels and not custom:
        return Code(not_run=unreached(paths, ()), problems=notes)
    # Syntax trees are only needed, and `ast` only imported, when there is code to read.
    from uncrate.checkpoint.reach import Reach

    reach = Reach(files, pins=pins or {}, offline=offline)
    for kernel in kernels:
        reach.add_kernel(kernel)
    for reference in references:
        reach.add_reference(reference)
    if custom:
        reach.add_custom_generate()
    return reach.finish(notes)


def _code_root(manifest: Manifest, files: Files, documents: Mapping[str, Any], offline: bool | None) -> Files:
    """Code of a subfolder's configuration lies at the root of the repository, unless the subfolder has it itself."""
    if manifest.subfolder is None:
        return files
    from uncrate.checkpoint.references import find_references

    own = [reference.path for reference in find_references(documents)[0] if reference.repo is None]
    if not own or own[0] in {entry.path for entry in files.entries()}:
        return files
    return open_files(manifest.source, commit=manifest.commit, offline=offline)
