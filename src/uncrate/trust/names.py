"""Which dotted name an expression stands for: through import aliases, plain assignments, getattr and __import__."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable
from dataclasses import dataclass

_BUILTINS = frozenset(dir(builtins)) | {"__builtins__"}
_IMPORTERS = frozenset(("builtins.__import__", "importlib.import_module", "importlib.__import__"))
_MAX_FOLD = 40


@dataclass(frozen=True)
class Names:
    """The names that one file binds to imported things: `aliases` (local name to dotted name), `stars` (import *).

    Scopes are not told apart: a name bound anywhere in the file counts everywhere. Dotted names of the checkpoint's own
    files start with a dot.
    """

    aliases: dict[str, str]
    stars: tuple[str, ...]

    @classmethod
    def of(cls, nodes: Iterable[ast.AST]) -> Names:
        aliases: dict[str, str] = {}
        stars: list[str] = []
        assigned: list[tuple[str, ast.expr]] = []
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    aliases[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                for alias in node.names:
                    if alias.name == "*":
                        stars.append(module)
                    else:
                        aliases[alias.asname or alias.name] = f"{module}.{alias.name}"
            elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                assigned.append((node.targets[0].id, node.value))
        names = cls(aliases, tuple(dict.fromkeys(stars)))
        for name, value in assigned:
            meant = names.dotted(value)
            # `run = os.system` gives another name to it; what a call returns is another thing.
            if meant and not meant.endswith("()") and name not in aliases and not meant.startswith("."):
                aliases[name] = meant
        return names

    def dotted(self, node: ast.expr) -> str | None:
        """Return the dotted name that `node` stands for, with `()` after what is called, or None.

        `pathlib.Path("x").open` is "pathlib.Path().open"; builtins are "builtins.eval".
        """
        suffix: list[str] = []
        while True:
            if isinstance(node, ast.Attribute):
                suffix.append(f".{node.attr}")
                node = node.value
            elif isinstance(node, ast.Call):
                function = self._plain(node.func)
                if function in _IMPORTERS and node.args and (text := self.constant_text(node.args[0])) is not None:
                    base: str | None = (
                        text if suffix or function == "importlib.import_module" else text.partition(".")[0]
                    )
                    break
                if function == "builtins.getattr" and len(node.args) > 1:
                    text = self.constant_text(node.args[1])
                    suffix.append(f".{text}" if text is not None else ".?")
                    node = node.args[0]
                else:
                    suffix.append("()")
                    node = node.func
            elif isinstance(node, ast.Subscript):
                text = self.constant_text(node.slice)
                holder = self._plain(node.value)
                if text is None or holder not in ("sys.modules", "builtins.__builtins__", "builtins.__dict__"):
                    return None
                base = text if holder == "sys.modules" else f"builtins.{text}"
                break
            else:
                base = self._plain(node)
                break
        return None if base is None else base + "".join(reversed(suffix))

    def _plain(self, node: ast.expr) -> str | None:
        """`dotted` for names and attributes alone."""
        suffix: list[str] = []
        while isinstance(node, ast.Attribute):
            suffix.append(f".{node.attr}")
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        base = self.aliases.get(node.id) or (f"builtins.{node.id}" if node.id in _BUILTINS else None)
        return None if base is None else base + "".join(reversed(suffix))

    def is_foreign(self, node: ast.expr) -> bool:
        """Whether the expression is (an attribute of) something imported from outside the checkpoint."""
        name = self.dotted(node)
        return (
            bool(name) and not str(name).startswith((".", "builtins.super", "builtins.type")) and "()" not in str(name)
        )

    def constant_text(self, node: ast.expr) -> str | None:
        """Return the text of a literal, of literals joined by +, or of an f-string without values; None otherwise."""
        parts: list[str] = []
        waiting: list[ast.expr] = [node]
        for _ in range(_MAX_FOLD):
            if not waiting:
                return "".join(parts)
            part = waiting.pop()
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                parts.append(part.value)
            elif isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add):
                waiting += [part.right, part.left]
            elif isinstance(part, ast.JoinedStr):
                waiting += reversed(part.values)
            else:
                return None
        return None
