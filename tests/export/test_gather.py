"""Modules gathered into one file: what runs there is what ran here, whatever names the modules share."""

from __future__ import annotations

import ast
import textwrap

import pytest

from uncrate.export import gather, inline
from uncrate.export.gather import FilePlan, generate
from uncrate.export.inline import read_source, uses

MODULES = {
    "uncrate.low": '''
        """The lowest."""

        import math

        # Why this number.
        LIMIT = 3
        _TABLE = {"a": 1}


        def helper(x):
            return x + LIMIT


        class Base:
            """Says its size."""

            size = LIMIT

            def area(self):
                return math.floor(self.size * 2.5)


        def unused():
            return never_defined
        ''',
    "uncrate.mid": '''
        """The middle: uses names of its own that the lowest has too."""

        from __future__ import annotations

        from typing import TYPE_CHECKING

        from uncrate import low as below
        from uncrate.low import Base as Lower
        from uncrate.low import helper as lower_helper

        if TYPE_CHECKING:
            from nowhere import Something

        LIMIT = 10


        def helper(x: Something, LIMIT_=LIMIT):
            helper = [LIMIT for LIMIT in range(3)]  # two names that are not the globals
            return sum(helper) + lower_helper(x) + below.LIMIT + LIMIT_


        class Base(Lower):
            size = LIMIT

            @property
            def both(self):
                return (self.area(), super().area(), Base is not Lower, below._TABLE["a"])


        def shadow(Base, /, *, LIMIT=5):
            def inner(helper=LIMIT):
                return (Base, LIMIT, helper)

            return inner()


        def matched(value):
            match value:
                case {"LIMIT": LIMIT}:
                    return LIMIT
                case _:
                    return lambda helper: helper + LIMIT if False else helper
        ''',
    "uncrate.top": '''
        """The top."""

        from uncrate.mid import Base, helper, matched, shadow


        def run():
            from uncrate.low import LIMIT as lowest

            try:
                raise ValueError
            except ValueError as helper_:
                assert helper_
            box = Base()
            return [helper(1), box.both, box.size, shadow(1), matched({"LIMIT": 7}), lowest, "ünï" + str(lowest)]


        def optional():
            import json_that_is_not_there

            return json_that_is_not_there.LIMIT


        class Standin:
            """In its place."""

            LIMIT = 99
        ''',
}
WORDS = {name: name.rpartition(".")[2].capitalize() for name in MODULES}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text).lstrip())

    def path(module):
        found = tmp_path / f"{module}.py"
        return found if found.is_file() else None

    monkeypatch.setattr(inline, "module_path", path)
    read_source.cache_clear()
    yield
    read_source.cache_clear()


def gathered(*roots, **more):
    return generate(FilePlan(doc="Gathered.", roots=roots, **more), more.pop("standins", {}), WORDS)


def executed(text):
    space = {"__name__": "gathered"}
    exec(compile(text, "gathered", "exec"), space)
    return space


def expected():
    """What the modules give when they are run as they are."""
    spaces = {}
    for name, text in MODULES.items():
        tree = ast.parse(textwrap.dedent(text))
        kept = []
        for node in ast.walk(tree):
            for field, value in ast.iter_fields(node):
                if isinstance(value, list):
                    kept = [
                        item
                        for item in value
                        if not (isinstance(item, ast.ImportFrom) and (item.module or "").startswith("uncrate"))
                    ]
                    setattr(node, field, kept)
        space = {}
        if name == "uncrate.mid":
            low = spaces["uncrate.low"]
            space = {"Lower": low["Base"], "lower_helper": low["helper"], "below": type("m", (), dict(low))}
            space["below"].helper = staticmethod(low["helper"])
        if name == "uncrate.top":
            space = {key: spaces["uncrate.mid"][key] for key in ("Base", "helper", "matched", "shadow")}
            space["lowest"] = spaces["uncrate.low"]["LIMIT"]
        exec(compile(ast.fix_missing_locations(tree), name, "exec"), space)
        spaces[name] = space
    return spaces["uncrate.top"]["run"]()


def test_what_runs_there_is_what_ran_here():
    file = gathered(("uncrate.top", "run"))
    assert executed(file.text)["run"]() == expected()


def test_only_what_is_needed_comes_along_with_its_comments():
    text = gathered(("uncrate.top", "run")).text
    assert "never_defined" not in text and "Something" in text and "nowhere" not in text
    assert "# Why this number.\nLIMIT = 3" in text and '"""Says its size."""' in text
    assert "import math" in text and "from uncrate" not in text
    assert text.index("# The lowest.") < text.index("# The middle") < text.index("# The top.")


def test_shared_names_get_a_word():
    names = gathered(("uncrate.top", "run")).names
    assert names["uncrate.low", "LIMIT"] == "LIMIT" and names["uncrate.mid", "LIMIT"] == "LIMIT_MID"
    assert names["uncrate.mid", "Base"] == "MidBase"
    # Called `helper` there, the lowest's would be hidden by a local variable where it is used.
    assert names["uncrate.low", "helper"] == "helper_low" and names["uncrate.mid", "helper"] == "helper"


def test_roots_keep_their_names_or_get_the_one_that_is_asked_for():
    root = ("uncrate.mid", "Base")
    assert gathered(root).names[root] == "Base" and gathered(root).names["uncrate.low", "Base"] == "LowBase"
    file = gathered(root, called={root: "Wanted"})
    assert executed(file.text)["Wanted"]().both == (25, 25, True, 1)


def test_names_from_a_file_beside():
    root = ("uncrate.mid", "Base")
    low = gathered(("uncrate.low", "Base"), ("uncrate.low", "_TABLE"))
    text = gathered(root, called={root: "Box"}, beside={"low_file": low.names}).text
    assert "from .low_file import Base, _TABLE\n" in text and "class Box(Base)" in text and "Says its size" not in text


def test_standins_take_the_place():
    standins = {("uncrate.low", "Base"): ("uncrate.top", "Standin")}
    text = generate(FilePlan(doc="x", roots=(("uncrate.mid", "Base"),)), standins, WORDS).text
    assert "class Base(Standin)" in text and "Says its size" not in text


def test_packages_that_may_be_missing():
    root = ("uncrate.top", "optional")
    text = gathered(root, optional={"json_that_is_not_there": ("uncrate.top", "Standin")}).text
    assert executed(text)["optional"]() == 99
    plain = gathered(root, optional={"json_that_is_not_there": None}).text
    with pytest.raises(ImportError):
        executed(plain)["optional"]()
    tried = [node for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Try)]
    assert len(tried) == 1


def test_scopes():
    source = read_source("uncrate.mid")
    found, _ = uses(source, source.defines("shadow"))
    assert [use.name for use in found if use.name in ("Base", "LIMIT", "helper")] == []
    found, _ = uses(source, source.defines("helper"))
    assert sorted(use.name for use in found) == ["LIMIT", "LIMIT", "Something", "lower_helper", "range", "sum"]


def test_a_statement_that_binds_nothing_is_refused(tmp_path):
    (tmp_path / "uncrate.bad.py").write_text("print('at import')\n")
    with pytest.raises(AssertionError, match="binds nothing"):
        read_source("uncrate.bad")


def test_words_for_names():
    given = (("MLP", True), ("_check", False), ("LIMIT", False), ("_Made", True), ("build", False), ("Layer", True))
    assert [gather._with_word(name, "Vision", is_class) for name, is_class in given] == [
        "VisionMLP", "_check_vision", "LIMIT_VISION", "_VisionMade", "build_vision", "VisionLayer"
    ]  # fmt: skip
