"""WHERE, parsed once into a value that prints back to its text; no I/O.

nano                          the bundled checkpoint
./x  ../x  /x  ~/x  .  ..     a folder
owner/name[@revision]         the hub; a folder in the working directory never shadows it
https://huggingface.co/...    the same, pasted from a browser
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from uncrate import settings
from uncrate.errors import UsageError, escape

BUNDLED = ("nano",)
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full git commit hash; used with `fullmatch`."""

# One word of a hub id, by the hub's own rule: ASCII letters, digits, "-", "_", "."; neither end may be "-" or ".".
_WORD = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?")
# What git forbids in a reference name, and what would be read as a path or an option.
_BAD_REVISION = re.compile(r"\.\.|//|@\{|[\s~^:?*\[\\@]|\.lock$|^[-/.]|[/.]$")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
_HOW = "write ./NAME for a folder, or OWNER/NAME for the hub"


@dataclass(frozen=True)
class LocalSource:
    """A folder on this machine, and the text it was named by."""

    folder: Path
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the hub is reached, where the caller says so instead of the environment.

    cache: the cache folder. token: a token, True for the stored one, False for none. offline: read from the cache
    alone. refresh: fetch files again that the cache holds.
    """

    cache: Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    offline: bool | None = None
    refresh: bool = False


@dataclass(frozen=True)
class HubSource:
    """A model repository on the hub, at a branch, tag or commit; None is its default branch."""

    repo: str
    revision: str | None = None
    access: Access = field(default=Access(), compare=False, repr=False)

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def text(self) -> str:
        """The text that parses to this source."""
        return str(self)

    @property
    def pinned(self) -> bool:
        """Whether the revision is a full commit hash, so that it can never mean anything else."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None


Source = LocalSource | HubSource


def parse_source(where: str | os.PathLike[str] | LocalSource | HubSource) -> Source:
    """Return the source that `where` names, by its spelling alone: nothing is looked up on disk or on the hub.

    Raises UsageError when the text is neither a folder nor a hub id.
    """
    if isinstance(where, (LocalSource, HubSource)):
        return where
    if not isinstance(where, str):
        return _from_path(where)
    text = where
    if not text.strip():
        raise UsageError("WHERE is empty", next=_HOW)
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise UsageError(f"WHERE holds a control character: {escape(text)}", next=_HOW)
    if text in BUNDLED:
        return LocalSource(Path(__file__).parent.parent / text, text)
    if _is_path(text):
        return LocalSource(_expand(text), text)
    if "://" in text:
        return _from_url(text)
    return _from_hub_id(text)


def _is_path(text: str) -> bool:
    if text in (".", "..", "~") or text.startswith(("./", "../", "/", "~/")):
        return True
    if text.startswith("~") and "/" in text:
        return True
    return os.name == "nt" and (
        text.startswith((".\\", "..\\", "\\", "~\\")) or re.match(r"[A-Za-z]:[\\/]", text) is not None
    )


def _expand(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"the home folder in {escape(text)} is not known", why=str(error), next="write the folder's full path"
        ) from error


def _from_path(where: os.PathLike[str]) -> LocalSource:
    raw = os.fspath(where)
    if not isinstance(raw, str):
        raise UsageError(f"WHERE must be text or a path, not {type(where).__name__}", next=_HOW)
    if "\0" in raw:
        raise UsageError(f"WHERE holds a NUL character: {escape(raw)}", next=_HOW)
    # A Path is a folder by its type; its text gets the ./ that makes it one by its spelling too.
    return LocalSource(Path(raw), raw if _is_path(raw) or os.path.isabs(raw) else f"./{raw}")


def _from_url(text: str) -> HubSource:
    shown = escape(text)
    how = "write OWNER/NAME or OWNER/NAME@REVISION"
    try:
        url = urlsplit(text)
        host = url.hostname or ""
    except ValueError as error:
        raise UsageError(f"not an address: {shown}", why=str(error), next=how) from error
    if url.scheme == "hf":
        return _from_hub_id(text.removeprefix("hf://").removeprefix("models/").rstrip("/"))
    own = urlsplit(settings.hub_endpoint())
    if url.scheme not in ("https", "http") or (host not in _HUB_HOSTS and url.netloc != own.netloc):
        raise UsageError(f"not an address of the hub: {shown}", next=how)
    parts = [unquote(part) for part in url.path.split("/") if part]
    if len(parts) < 2 or parts[0] in ("datasets", "spaces"):
        raise UsageError(f"the address does not name a model repository: {shown}", next=how)
    repo, rest = "/".join(parts[:2]), parts[2:]
    if not rest:
        return _from_hub_id(repo)
    if rest[0] in ("tree", "commit") and len(rest) > 1:
        revision = rest[1:]
        if len(revision) == 1 or (revision[0] == "refs" and len(revision) == 3):
            return _from_hub_id(f"{repo}@{'/'.join(revision)}")
    raise UsageError(
        f"the address names a part of a repository: {shown}",
        next=f"write {escape(repo)}, with @REVISION where it matters",
    )


def _from_hub_id(text: str) -> HubSource:
    shown = escape(text)
    repo, at, revision = text.partition("@")
    parts = repo.split("/")
    if len(parts) == 1:
        raise UsageError(
            f"{shown} is neither a folder nor a hub id",
            why="a folder needs ./ in front and a hub id its owner, so that one is never mistaken for the other",
            next=f"write ./{shown} for a folder, or OWNER/{shown} for the hub",
        )
    if "\\" in text:
        raise UsageError(f"{shown} is not a hub id", why="it holds a backslash", next=_HOW)
    if len(parts) > 2:
        raise UsageError(f"{shown} is not a hub id", why="a hub id has one slash", next=f"for a folder write ./{shown}")
    for part in parts:
        if not _WORD.fullmatch(part) or "--" in part or ".." in part:
            why = "owner and name are 1 to 96 of a-z A-Z 0-9 - _ . with no -- or .. and no - or . at either end"
            raise UsageError(f"{shown} is not a hub id", why=why, next=f"for a folder write ./{shown}")
    if repo.endswith(".git"):
        raise UsageError(
            f"{shown} is not a hub id", why="it ends in .git", next=f"write {escape(repo.removesuffix('.git'))}"
        )
    if not at:
        return HubSource(repo)
    if not revision or len(revision) > 255 or not revision.isprintable() or _BAD_REVISION.search(revision):
        raise UsageError(
            f"{shown}: what follows @ is not a branch, tag or commit",
            next=f"write {escape(repo)}@main or a commit hash",
        )
    return HubSource(repo, revision)
