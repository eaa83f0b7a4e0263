"""The walk over a syntax tree: it misses nothing that can run, at any depth."""

from __future__ import annotations

import ast

import pytest

from uncrate.checkpoint.syntax import MAX_CHAIN, parse_source
from uncrate.checkpoint.walk import walk

SOURCES = (
    "@d(x1)\nclass A(b1, metaclass=m1):\n    a: t1 = v1\n"
    "    def f(s, p=d1, /, q: t2 = d2, *a: t3, k: t4 = d3, **w: t5) -> r1:\n        return b2\n",
    "f = lambda a=x1, *b, c=x2, **d: x3\n",
    "try:\n    x1()\nexcept (x2, x3) as e:\n    x4()\nelse:\n    x5()\nfinally:\n    x6()\n",
    "try:\n    x1()\nexcept* x2:\n    x3()\n",
    "if x1:\n    x2()\nelif x3:\n    x4()\nelse:\n    x5()\n",
    "if __name__ == '__main__':\n    x1()\nelse:\n    x2()\n",
    "with x1 as y1, x2() as (y2, y3):\n    x3()\nwith suppress(x4):\n    x5()\n",
    "async def f():\n    async with x1 as y1:\n        async for y2 in x2:\n            await x3\n"
    "    return [y async for y in x4]\n",
    "for a in x1:\n    x2()\nelse:\n    x3()\nwhile x4:\n    x5()\nelse:\n    x6()\n",
    "match x1:\n    case x2.y if x3:\n        x4()\n    case {'k': x5.z, **rest} | [x6.w, *more]:\n        x7()\n",
    "x = [a for a in x1 if x2 for b in x3]\ny = {a: b for a in x4}\nz = {a for a in x5}\ng = (a for a in x6)\n",
    "x = f'{x1!r:>{x2}}' + x3[x4:x5:x6] + (x7 if x8 else x9)\nassert x10, x11\nraise x12 from x13\ndel x14[x15]\n",
    "(y := x1)\nglobal g1\nz = x2\nx3 += x4\nx5: x6\nx7 = x8 = x9 < x10 < x11\nprint(*x12, **x13)\nv = -x14\n",
)


@pytest.mark.parametrize("source", SOURCES)
def test_every_name_is_met_once(source: str) -> None:
    tree, _ = parse_source(source, "m.py")
    seen = [id(node) for node, _ in walk(tree)]
    assert len(seen) == len(set(seen))
    runs = ast.Name | ast.Attribute | ast.Call | ast.Constant | ast.Import | ast.stmt
    missed = [ast.dump(node) for node in ast.walk(tree) if isinstance(node, runs) and id(node) not in set(seen)]
    assert missed == []


def test_names_come_in_the_order_of_the_source() -> None:
    tree, _ = parse_source("a\nb(c, d=e)[f]\ndef g(): h\ni\n", "m.py")
    assert [node.id for node, _ in walk(tree) if isinstance(node, ast.Name)] == list("abcefhi")


def test_the_deepest_tree_that_is_let_in_is_walked() -> None:
    deep = "x = " + "-" * (MAX_CHAIN - 1) + "1\n" + "if a:\n pass\n" + "elif a:\n pass\n" * 700
    assert len(walk(parse_source(deep, "m.py")[0])) > 2_000
