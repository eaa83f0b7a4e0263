"""What the installed transformers could open, learned from its files without importing it."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

# Architectures that are often taken for one another, and what to say about it.
CONFUSED = {
    "glm4v": "this is GLM-4.1V, another architecture than GLM-4V-9B (model_type chatglm)",
    "glm4v_moe": "this is GLM-4.5V, another architecture than GLM-4V-9B (model_type chatglm)",
    "glm": "this is GLM-4 converted to transformers' own class (glm-4-9b-chat-hf), not the original layout",
}


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed top-level package without importing it, or None."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def transformers_model_types() -> frozenset[str]:
    """Return the model types that the installed transformers maps to its own config classes; empty when not
    installed.
    """
    folder = package_folder("transformers")
    if folder is None:
        return frozenset()
    types: set[str] = set()
    for name in ("auto_mappings.py", "configuration_auto.py"):
        path = folder / "models" / "auto" / name
        if path.is_file():
            types |= _config_mapping_keys(path.read_text(encoding="utf-8"))
    return frozenset(types)


def _config_mapping_keys(source: str) -> set[str]:
    """Collect the literal keys of CONFIG_MAPPING_NAMES, written as a dict or as pairs for an OrderedDict."""
    for node in ast.parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "CONFIG_MAPPING_NAMES" for target in targets):
            found: set[str] = set()
            for inner in ast.walk(node):
                keys = (
                    inner.keys
                    if isinstance(inner, ast.Dict)
                    else inner.elts[:1]
                    if isinstance(inner, ast.Tuple)
                    else []
                )
                found |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
            return found
    return set()
