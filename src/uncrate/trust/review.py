"""What a person reads before approving: files, entry points, findings, redirects, and what changed since last time.

One `Review` prints as plain text, as the Markdown page of `inspect --markdown`, and as `--json`. Every text from the
checkpoint in it is escaped.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uncrate.errors import escape
from uncrate.trust.lock import Approval, Lock
from uncrate.trust.lockfile import Approved
from uncrate.trust.store import Store

if TYPE_CHECKING:
    from uncrate.checkpoint.code import Code, CodeFile
    from uncrate.trust.findings import Finding

MAX_DIFF = 2_000
MAX_MATCHES = 1_000_000
HONEST = (
    "Approving means: this code may run as you, with your files, keys and network. Findings say where to look; "
    "code without findings can still do harm."
)


@dataclass(frozen=True)
class Change:
    """One file that differs from what was approved before: the unified diff (escaped lines) and findings that are new.

    `old_sha256` is None for a file that is new, `diff` is empty when the approved bytes are not kept here (`note`).
    """

    path: str
    old_sha256: str | None
    diff: tuple[str, ...]
    new_findings: tuple[Finding, ...]
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `--json` prints them."""
        return {
            "path": self.path,
            "old_sha256": self.old_sha256,
            "diff": list(self.diff),
            "new_findings": [finding.to_dict() for finding in self.new_findings],
            "note": self.note,
        }


@dataclass(frozen=True)
class Section:
    """One part of the review: a title, the names of its columns, and rows of escaped cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Review:
    """The review of one closure; `changes` and `gone` compare it with the newest approval of the same source."""

    source: str
    commit: str | None
    code: Code
    approval: Approval
    changes: tuple[Change, ...] = ()
    gone: tuple[str, ...] = ()
    before: Approved | None = None

    def sections(self) -> tuple[Section, ...]:
        """Return the parts that have something in them, in the order in which they should be read."""
        code = self.code
        on_import = [finding for finding in code.findings if finding.when == "import"]
        when_called = [finding for finding in code.findings if finding.when != "import"]
        parts = (
            Section(
                "Files",
                ("file", "lines", "sha256", "reviewed", "reached from", "needs"),
                tuple(map(self._file, code.files)),
            ),
            Section(
                "Entry points",
                ("place", "class", "file", "problem"),
                tuple(
                    (escape(e.where, 200), escape(e.class_name), escape(e.path), e.problem or "")
                    for e in code.entry_points
                ),
            ),
            Section("Findings: on import", _FINDING, tuple(map(_finding, on_import))),
            Section("Findings: when called", _FINDING, tuple(map(_finding, when_called))),
            Section(
                "Points outside",
                ("kind", "target", "commit", "named by", "moving"),
                tuple(
                    (
                        r.kind,
                        escape(r.target),
                        r.commit or r.problem or "",
                        escape(r.named_by, 200),
                        "moving" if r.moving else "pinned",
                    )
                    for r in code.redirects
                ),
            ),
            Section("Would not run", ("file",), tuple((escape(path),) for path in code.not_run)),
            Section("custom_generate asks for", ("package",), tuple((line,) for line in code.requirements)),
            Section("Problems", ("what",), tuple((escape(problem, 400),) for problem in code.problems)),
            Section("No longer there", ("file",), tuple((escape(path),) for path in self.gone)),
        )
        return tuple(part for part in parts if part.rows)

    def _file(self, file: CodeFile) -> tuple[str, ...]:
        reviewed = "yes" if file.path in self.approval.known_files else "new"
        needs = [
            package.name + _state(package.installed, package.optional, package.sibling) for package in file.imports
        ]
        pulled = ", ".join(escape(place, 80) for place in file.pulled_in_by[:3])
        pulled += f" and {len(file.pulled_in_by) - 3} more" if len(file.pulled_in_by) > 3 else ""
        origin = f" @ {file.origin.commit[:12]}" if file.origin else ""
        cells = (
            escape(file.path) + origin,
            str(file.lines),
            file.sha256[:16],
            reviewed,
            pulled,
            ", ".join(map(escape, needs)),
        )
        return cells

    def to_text(self) -> str:
        """Return the review as plain text."""
        lines = [f"code of {escape(self.source)}" + (f" at {self.commit}" if self.commit else "")]
        lines += [f"closure {self.code.closure or 'none'}", self.approval.why, *self.approval.notes]
        for part in self.sections():
            lines += ["", part.title]
            lines += ["  " + "  ".join(cell for cell in row if cell) for row in part.rows]
        for change in self.changes:
            lines += ["", f"Changed: {change.path}" if change.old_sha256 else f"New: {change.path}"]
            lines += [f"  ({change.note})"] if change.note else []
            lines += [f"  new finding: {'  '.join(_finding(finding))}" for finding in change.new_findings]
            lines += [f"  {line}" for line in change.diff]
        return "\n".join([*lines, "", HONEST]) + "\n"

    def to_markdown(self) -> str:
        """Return the review as a Markdown page (GitHub's dialect)."""
        lines = [f"# Code of {_cell(escape(self.source))}", ""]
        lines += [f"Commit: `{self.commit}`  "] if self.commit else []
        lines += [f"Closure (sha256): `{self.code.closure or 'none'}`  ", f"State: {_cell(self.approval.why)}"]
        for part in self.sections():
            lines += ["", f"## {part.title}", "", f"| {' | '.join(part.columns)} |", "|" + "---|" * len(part.columns)]
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in part.rows]
        for change in self.changes:
            lines += ["", f"## {'Changed' if change.old_sha256 else 'New'}: {_cell(change.path)}", ""]
            lines += [change.note, ""] if change.note else []
            lines += [f"- new finding: {_cell('  '.join(_finding(finding)))}" for finding in change.new_findings]
            if change.diff:
                fence = _fence("\n".join(change.diff))
                lines += ["", f"{fence}diff", *change.diff, fence]
        return "\n".join([*lines, "", f"*{HONEST}*"]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the review as `--json` prints it."""
        return {
            "source": self.source,
            "commit": self.commit,
            "code": self.code.to_dict(),
            "approval": self.approval.to_dict(),
            "changes": [change.to_dict() for change in self.changes],
            "gone": list(self.gone),
        }


_FINDING = ("place", "kind", "what", "line")


def _finding(finding: Finding) -> tuple[str, ...]:
    return (f"{finding.where}:{finding.column}", finding.kind, finding.what, finding.snippet)


def _state(installed: bool, optional: bool, sibling: bool) -> str:
    if sibling:
        return " (a file of the checkpoint, imported as a package)"
    if installed:
        return ""
    return " (optional, not installed)" if optional else " (not installed)"


def make_review(
    code: Code, *, source: str, commit: str | None = None, lock: Lock, store: Store | None = None
) -> Review:
    """Return the review of `code` against `lock`; approved bytes for the diff come from `store`. Nothing is written.

    Raises TrustError when a stored file was altered.
    """
    approval = lock.status(code)
    before = _previous(code, source, lock) if not approval.approved else None
    if before is None:
        return Review(source, commit, code, approval)
    old = {file.path: file.sha256 for file in before.files}
    new = {file.path for file in code.files}
    kept = store or Store()
    changes = tuple(
        _change(code, file, old.get(file.path), kept) for file in code.files if file.path in approval.new_files
    )
    return Review(source, commit, code, approval, changes, tuple(sorted(set(old) - new)), before)


def _previous(code: Code, source: str, lock: Lock) -> Approved | None:
    """The newest approval of the same source, at any commit, else the one that shares most paths, if any is shared."""
    for approved in reversed(lock.approvals):
        if source and approved.source.partition("@")[0] == source.partition("@")[0]:
            return approved
    paths = {file.path for file in code.files}
    shared = [(len(paths & {file.path for file in approved.files}), n) for n, approved in enumerate(lock.approvals)]
    best = max(shared, default=(0, 0))
    return lock.approvals[best[1]] if best[0] else None


def _change(code: Code, file: CodeFile, old_sha256: str | None, store: Store) -> Change:
    if old_sha256 is None:
        return Change(file.path, None, (), file.findings)
    old = store.get(old_sha256)
    if old is None:
        return Change(file.path, old_sha256, (), file.findings, "the approved bytes are not kept on this machine")
    from uncrate.checkpoint.syntax import decode_source

    before, after = decode_source(old, file.path), decode_source(code.read(file.path), file.path)
    diff = list(_diff(before, after, file.path))
    note = f"{len(diff) - MAX_DIFF:,} more lines of difference are not shown" if len(diff) > MAX_DIFF else None
    seen = {(finding.kind, finding.what, finding.snippet) for finding in _findings(before, file.path)}
    fresh = tuple(f for f in file.findings if (f.kind, f.what, f.snippet) not in seen)
    return Change(file.path, old_sha256, tuple(diff[:MAX_DIFF]), fresh, note)


def _diff(before: str, after: str, path: str) -> list[str]:
    old, new = before.split("\n"), after.split("\n")
    if _matches(old, new) > MAX_MATCHES:
        # Lines repeated on purpose make the search for the best match take minutes: show all that lies between the
        # first and the last line that differ.
        start = _common(old, new)
        end = min(_common(old[::-1], new[::-1]), len(old) - start, len(new) - start)
        lines = [f"--- approved {path}", f"+++ now {path}", f"@@ line {start + 1} @@"]
        lines += [f"-{line}" for line in old[start : len(old) - end]] + [
            f"+{line}" for line in new[start : len(new) - end]
        ]
    else:
        lines = list(difflib.unified_diff(old, new, f"approved {path}", f"now {path}", n=2, lineterm=""))
    return [escape(line, 400) for line in lines]


def _common(old: list[str], new: list[str]) -> int:
    """How many lines both begin with."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(old), len(new)))


def _matches(old: list[str], new: list[str]) -> int:
    """How many pairs of equal lines a diff looks at; difflib passes over those that fill a hundredth of a file."""
    ones, others = Counter(old), Counter(new)
    return sum(count * others[line] for line, count in ones.items() if others[line] <= len(new) // 100 + 1)


def _findings(text: str, path: str) -> tuple[Finding, ...]:
    from uncrate.checkpoint.syntax import Unparsable, parse_source
    from uncrate.checkpoint.walk import walk
    from uncrate.trust.findings import find_in_source

    try:
        tree, _ = parse_source(text, path)
    except Unparsable:
        return ()  # what could not be read before had no findings: all of today's are new
    return find_in_source(walk(tree), text, path)


_PLAIN = re.compile(r"[A-Za-z0-9 ,()\-]*")  # nothing that becomes a link, a mention, a heading or emphasis


def _cell(text: str) -> str:
    """Return `text` for Markdown: as it is when it is plain words, else as a code span that nothing in it can end."""
    if _PLAIN.fullmatch(text):
        return text
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def _fence(text: str) -> str:
    return "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
