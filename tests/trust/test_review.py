"""The review: what a person reads before approving, and nothing in it can pose as something else."""

from __future__ import annotations

import json
import random
import re
import time
from typing import Any

import pytest

from uncrate.trust.approve import approve, lock_for
from uncrate.trust.review import HONEST, Review, make_review
from uncrate.trust.store import Store

EVIL = "import os\nos.system('# \x1b[2J `` | <script> \u202e')  # ok\nfrom .helper import x\nclass XModel: pass\n"


def review(code: Any, source: Any, **options: Any) -> Review:
    return make_review(code, source=str(source), lock=lock_for(source), **options)


def test_a_first_review_names_every_file_and_finding(make: Any) -> None:
    code, source = make(modeling_x__py=EVIL, unused__py="")
    found = review(code, source)
    assert found.changes == ()
    for page in (found.to_text(), found.to_markdown()):
        for word in (
            "modeling_x.py",
            "helper.py",
            "unused.py",
            code.closure,
            "os.system",
            "config.json#/auto_map/AutoModel",
        ):
            assert word in page
        assert page.replace("\n", "").isprintable()
        assert HONEST in page
        assert "Findings: on import" in page
    told = json.loads(json.dumps(found.to_dict()))
    assert told["approval"]["approved"] is False


def test_nothing_breaks_out_of_the_markdown(make: Any) -> None:
    code, source = make(modeling_x__py=EVIL)
    page = review(code, source).to_markdown()
    for line in page.splitlines():
        if line.startswith("|"):
            # Cells are divided by bars that no text from the checkpoint can add.
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) in (3, 4, 6, 7, 8), line
        bare = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
        assert "<script>" not in bare, line


def test_a_change_shows_the_diff_and_only_new_findings(make: Any) -> None:
    old = "import os\nos.putenv('a', 'b')\nfrom .helper import x\nclass XModel: pass\n"
    code, source = make(modeling_x__py=old)
    approve(code, sha=code.closure, source=source)
    assert review(code, source).changes == ()
    changed, _ = make(modeling_x__py=old + "os.system('\t\x85')  # ```\n", extra__py="", helper__py=None)
    found = review(changed, source)
    [change] = found.changes
    assert (change.path, change.old_sha256) == ("modeling_x.py", code.file("modeling_x.py").sha256)
    assert "+os.system('\\t\\u0085')  # ```" in change.diff
    assert [finding.what for finding in change.new_findings] == ["os.system", "a control character U+0085"]
    page = found.to_markdown()
    assert "````diff" in page, "a fence inside the code cannot close the block"
    assert "## Changed" in page
    assert page.replace("\n", "").isprintable()
    assert "helper.py" not in page.partition("## Changed")[2]


def test_new_and_gone_files_are_told(make: Any) -> None:
    code, source = make()
    approve(code, sha=code.closure, source=source)
    changed, _ = make(
        modeling_x__py="from .more import x\nclass XModel: pass\n", more__py="import os\nos.system('x')\n"
    )
    found = review(changed, source)
    assert [(change.path, change.old_sha256 is None) for change in found.changes] == [
        ("modeling_x.py", False),
        ("more.py", True),
    ]
    assert found.gone == ("helper.py",)
    assert found.changes[1].new_findings[0].kind == "process"
    assert "New: more.py" in found.to_text()


def test_a_renamed_folder_is_compared_by_its_paths(make: Any) -> None:
    code, source = make("first")
    approve(code, sha=code.closure, source=source)
    changed, elsewhere = make("second", helper__py="x = 2\n")
    assert [change.path for change in review(changed, elsewhere).changes] == ["helper.py"]


def test_bytes_that_are_not_kept_are_said(make: Any, tmp_path: Any) -> None:
    code, source = make()
    approve(code, sha=code.closure, source=source)
    changed, _ = make(helper__py="import os\nos.system('x')\n")
    [change] = review(changed, source, store=Store(tmp_path / "empty")).changes
    assert change.note == "the approved bytes are not kept on this machine"
    assert change.diff == () and change.new_findings


@pytest.mark.parametrize("kinds", [7, 500, 9_000])
def test_a_hostile_diff_is_bounded(make: Any, kinds: int) -> None:
    draw = random.Random(kinds)
    code, source = make(helper__py="".join(f"a{draw.randrange(kinds)}\n" for _ in range(40_000)))
    approve(code, sha=code.closure, source=source)
    changed, _ = make(helper__py="".join(f"a{draw.randrange(kinds)}\n" for _ in range(40_000)))
    started = time.process_time()
    [change] = review(changed, source).changes
    assert time.process_time() - started < 5
    assert len(change.diff) <= 2_000
    assert change.note


def test_a_coarse_diff_shows_what_lies_between_the_first_and_last_difference(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, source = make(helper__py="a\nb\nc\nd\ne\n")
    approve(code, sha=code.closure, source=source)
    monkeypatch.setattr("uncrate.trust.review.MAX_MATCHES", 0)
    for text, lines in (
        ("a\nB\nc\nD\ne\n", ["@@ line 2 @@", "-b", "-c", "-d", "+B", "+c", "+D"]),
        ("a\nb\nc\nd\ne\nf\n", ["@@ line 6 @@", "+f"]),
        ("b\nc\nd\ne\n", ["@@ line 1 @@", "-a"]),
        ("a\nb\nb\nc\nd\ne\n", ["@@ line 3 @@", "+b"]),
    ):
        changed, _ = make(helper__py=text)
        [change] = review(changed, source).changes
        assert list(change.diff[2:]) == lines, text
