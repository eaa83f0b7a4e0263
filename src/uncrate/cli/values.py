"""Argument text to values: typer would do it through pydantic, whose import takes longer than `inspect` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

_PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    list[str]: (str, "text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (bool, "a flag"),
}


@dataclass(frozen=True)
class PlainValue:
    """Stands in for typer's own coercion of one parameter: `parse` takes the text of a single value."""

    parse: Callable[[str], Any]
    wanted: str

    def coerce(self, value: Any, *, param: Any = None, ctx: Any = None) -> Any:
        """Return the value, a list where the option may be repeated. Raises typer.BadParameter."""
        if value is None:
            return None
        try:
            return [self.parse(item) for item in value] if isinstance(value, list | tuple) else self.parse(value)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is not {self.wanted}", ctx=ctx, param=param) from error


def coerce_plainly(parameters: list[Any]) -> list[Any]:
    """Return typer's parameters, those of plain types with their coercion, so that typer does not build one.

    A typer that keeps it elsewhere never looks here and goes on with its own: slower, and the same.
    """
    for parameter in parameters:
        descriptor = getattr(parameter, "type_descriptor", None)
        known = _PARSERS.get(getattr(descriptor, "annotation", None))
        if known is not None and hasattr(parameter, "_runtime_param"):
            parameter._runtime_param = PlainValue(*known)
    return parameters
