"""The hub cache on disk, in the layout that huggingface_hub and transformers share; no network.

models--OWNER--NAME/refs/BRANCH             the commit that a branch or tag last meant
models--OWNER--NAME/snapshots/COMMIT/...    links into ../../blobs
models--OWNER--NAME/trees/COMMIT.json       the files of a commit, where the client has recorded them
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from uncrate.checkpoint.facts import FileEntry
from uncrate.checkpoint.jsonfile import INDEX_LIMIT, parse_object
from uncrate.checkpoint.localfiles import LocalFiles
from uncrate.checkpoint.source import COMMIT, HubSource, LocalSource
from uncrate.errors import CheckpointError


@dataclass(frozen=True)
class Listing:
    """The files of one commit as far as they are known; `whole` when none can be missing from the list."""

    commit: str
    files: tuple[FileEntry, ...]
    whole: bool


@dataclass(frozen=True)
class RepoCache:
    """One repository's folder in the cache folder `root`; it need not exist."""

    root: Path
    repo: str

    @property
    def folder(self) -> Path:
        """The repository's own folder."""
        return self.root / f"models--{self.repo.replace('/', '--')}"

    def commit(self, source: HubSource) -> str | None:
        """Return the commit that the source's revision meant when it was last asked for; None when it never was."""
        if source.revision is not None and source.pinned:
            return source.revision if (self.folder / "snapshots" / source.revision).is_dir() else None
        try:
            text = (
                (self.folder / "refs" / (source.revision or "main"))
                .read_bytes()[:64]
                .decode("ascii", "replace")
                .strip()
            )
        except OSError:
            return None
        return text if COMMIT.fullmatch(text) else None

    def remember(self, revision: str, commit: str) -> None:
        """Record what a branch or tag means, as huggingface_hub does, so that it can be opened offline by its name."""
        place = self.folder / "refs" / revision
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f"{place.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        fresh.write_text(commit, encoding="ascii")
        os.replace(fresh, place)

    def snapshot(self, commit: str) -> LocalFiles | None:
        """Return the files of a commit that are here; None when there are none."""
        folder = self.folder / "snapshots" / commit
        return LocalFiles(LocalSource(folder, str(folder))) if folder.is_dir() else None

    def listing(self, commit: str) -> Listing:
        """Return what is known of a commit's files without the network."""
        snapshot = self.snapshot(commit)
        here = snapshot.entries() if snapshot is not None else ()
        tree = self._tree(commit)
        if tree is None:
            return Listing(commit, here, whole=False)
        return Listing(
            commit, tuple(sorted({**tree, **{file.path: file for file in here}}.values(), key=_path)), whole=True
        )

    def _tree(self, commit: str) -> dict[str, FileEntry] | None:
        path = self.folder / "trees" / f"{commit}.json"
        try:
            content = parse_object(path.read_bytes(), str(path), limit=INDEX_LIMIT)
            files = content["files"]
            sizes = {name: info.get("lfs_size") or info["size"] for name, info in files.items()}
        except (OSError, CheckpointError, KeyError, AttributeError, TypeError):
            # The client's own note, in a format it may change: without it the list is only known to be incomplete.
            return None
        return {name: FileEntry(name, size) for name, size in sizes.items() if type(size) is int and size >= 0}


def _path(file: FileEntry) -> str:
    return file.path
