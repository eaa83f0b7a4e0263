"""Every node of a syntax tree, with when it runs: as soon as the module is imported, or only when it is called."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Context(NamedTuple):
    """Where a node stands: `when` it runs ("import" or "call"), and whether it is `optional` (in try or if)."""

    when: str = "import"
    optional: bool = False


Placed = tuple[ast.AST, Context]

# The four contexts there are: made once, since every node of every tree carries one.
_ALL = {(when, optional): Context(when, optional) for when in ("import", "call") for optional in (False, True)}
_LEAVES = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def walk(tree: ast.Module) -> list[Placed]:
    """Return every node with its context, in source order, without recursion.

    Module level, class bodies, decorators, default arguments and evaluated annotations run on import; bodies of
    functions and lambdas, and of `if __name__ == "__main__"`, only when called.
    """
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    late = any(alias.name == "annotations" for node in futures for alias in node.names)
    placed: list[Placed] = []
    stack: list[Placed] = [(tree, Context())]
    while stack:
        item = stack.pop()
        placed.append(item)
        node, context = item
        special = _SPECIAL.get(type(node))
        children: list[Placed]
        if special is not None:
            children = list(special(node, context, late))
        else:
            children = []
            for field in node._fields:
                value = getattr(node, field, None)
                if isinstance(value, ast.AST):
                    if not isinstance(value, _LEAVES):
                        children.append((value, context))
                elif isinstance(value, list):
                    children += [
                        (part, context) for part in value if isinstance(part, ast.AST) and not isinstance(part, _LEAVES)
                    ]
        children.reverse()
        stack += children
    return placed


def _called(context: Context) -> Context:
    return _ALL["call", context.optional]


def _optional(context: Context) -> Context:
    return _ALL[context.when, True]


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, context: Context, late: bool) -> Iterator[Placed]:
    for part in node.decorator_list:
        yield part, context
    yield from _arguments(node.args, context, _called(context) if late else context)
    if node.returns:
        yield node.returns, _called(context) if late else context
    yield from ((part, _called(context)) for part in node.body)


def _lambda(node: ast.Lambda, context: Context, late: bool) -> Iterator[Placed]:
    yield from _arguments(node.args, context, context)
    yield node.body, _called(context)


def _annotated(node: ast.AnnAssign, context: Context, late: bool) -> Iterator[Placed]:
    yield node.target, context
    yield node.annotation, _called(context) if late else context
    if node.value:
        yield node.value, context


def _try(node: ast.Try | ast.TryStar, context: Context, late: bool) -> Iterator[Placed]:
    body = _optional(context) if any(_catches_import(handler) for handler in node.handlers) else context
    yield from ((part, body) for part in node.body)
    # A fallback in `except ImportError:` is what runs when the package is absent: it may fail too.
    yield from ((handler, _optional(context)) for handler in node.handlers)
    yield from ((part, body) for part in (*node.orelse, *node.finalbody))


def _if(node: ast.If, context: Context, late: bool) -> Iterator[Placed]:
    yield node.test, context
    asks_main = any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
    # What a condition lets in may be absent where the condition does not hold: is_x_available(), TYPE_CHECKING, a flag.
    choice = context if isinstance(node.test, ast.Constant) else _optional(context)
    yield from ((part, _called(context) if asks_main else choice) for part in node.body)
    yield from ((part, choice) for part in node.orelse)


def _with(node: ast.With, context: Context, late: bool) -> Iterator[Placed]:
    suppress = False
    for item in node.items:
        yield item, context
        call = item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
        suppress |= (call.id if isinstance(call, ast.Name) else getattr(call, "attr", "")) == "suppress"
    yield from ((part, _optional(context) if suppress else context) for part in node.body)


_SPECIAL: dict[type, Callable[[Any, Context, bool], Iterator[Placed]]] = {
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.Lambda: _lambda,
    ast.AnnAssign: _annotated,
    ast.Try: _try,
    ast.TryStar: _try,
    ast.If: _if,
    ast.With: _with,
}


def _arguments(args: ast.arguments, context: Context, annotations: Context) -> Iterator[Placed]:
    for default in (*args.defaults, *args.kw_defaults):
        if default is not None:
            yield default, context
    for arg in (*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg):
        if arg is not None and arg.annotation is not None:
            yield arg.annotation, annotations


def _catches_import(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {
        kind.id if isinstance(kind, ast.Name) else kind.attr if isinstance(kind, ast.Attribute) else ""
        for kind in kinds
    }
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
