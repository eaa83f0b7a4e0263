"""Floors: no import runs upward, there is no circle, and nothing up to the plan imports torch. Read from the source and
from `sys.modules` of real processes, with tests that these tests can fail.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "uncrate"
GOLDEN = ROOT / "tests" / "golden" / "data" / "glm4v-tiny"

# Floors from below; what stands on one floor may import from it and from all below.
FLOORS = (
    ("errors", "show", "settings"),
    ("checkpoint", "trust"),
    ("families", "devices"),
    ("plan", "adapters"),
    ("runtime", "models", "generate"),
    ("open", "opened", "opened_foreign", "answers", "__init__"),
    ("auto", "export", "train", "serve", "trace"),
    ("cli", "__main__"),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
# Packages that the torch-free half must never bring in.
HEAVY = ("torch", "transformers", "peft", "numpy", "accelerate", "datasets")
# What `inspect` of a folder has no use for and would wait for.
SLOW = (*HEAVY, "rich", "pydantic", "huggingface_hub", "PIL", "httpx", "tiktoken")
NETWORK = ("socket", "ssl", "http", "urllib.request", "requests", "httpx", "aiohttp", "huggingface_hub", "websockets",
           "fastapi", "uvicorn", "starlette", "sse_starlette", "prometheus_client", "openai")  # fmt: skip
# Imports from such packages that reach no network, and what they are for.
NO_NETWORK = {
    ("uncrate.checkpoint.huberrors", "huggingface_hub.errors"): "its exception classes, to tell them apart",
    ("uncrate.train.saving", "huggingface_hub"): "save_torch_state_dict, which cuts weights into shards",
}


def modules() -> dict[str, Path]:
    """Every module of the package: dotted name to file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def without_types(tree: ast.Module) -> ast.Module:
    """Drop `if TYPE_CHECKING:` blocks: what stands there is never imported when the program runs."""
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))]
    return ast.Module(kept, [])


def imports_of(source: str, package: str, known: dict[str, Path], *, types: bool = True) -> Iterator[str]:
    """Yield the dotted names that a module imports, at its head or inside functions; of ours the module itself."""
    tree = ast.parse(source)
    for node in ast.walk(tree if types else without_types(tree)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known else base


def all_imports(*, types: bool = True) -> dict[str, set[str]]:
    """Every module with what it imports; without `types` only what is imported when the program runs."""
    found = {}
    for name, path in MODULES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = set(imports_of(path.read_text(encoding="utf-8"), package, MODULES, types=types))
    return found


IMPORTS = all_imports()


def floor(name: str) -> int:
    """The floor of one of our modules."""
    parts = name.split(".")
    return FLOOR_OF.get(parts[1] if len(parts) > 1 else "__init__", len(FLOORS))


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Every import from a lower floor to a higher one."""
    return [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in sorted(others)
        if other.split(".")[0] == "uncrate" and floor(other) > floor(name)
    ]


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Every set of modules that import each other in a ring (strongly connected, by Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in imports[name]:
            if other == name or other not in imports:
                continue
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            ring = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for name in imports:
        if name not in order:
            visit(name)
    return found


def test_every_part_of_the_package_has_a_floor():
    parts = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    parts = {name for name in parts if (PACKAGE / f"{name}.py").exists() or list((PACKAGE / name).glob("*.py"))}
    assert parts <= set(FLOOR_OF), f"say where {parts - set(FLOOR_OF)} stands"


def test_no_import_runs_upward():
    assert upward(all_imports(types=False)) == []


def test_an_upward_import_would_be_seen():
    wrong = {"uncrate.checkpoint.header": {"uncrate.runtime.tensors"}, "uncrate.cli.plan": {"uncrate.open"}}
    assert upward(wrong) == ["uncrate.checkpoint.header imports uncrate.runtime.tensors"]
    source = "def f():\n    from uncrate import open\n    from ..runtime import tensors\n"
    known = {"uncrate.open": PACKAGE, "uncrate.runtime.tensors": PACKAGE}
    assert set(imports_of(source, "uncrate.checkpoint", known)) == {"uncrate.open", "uncrate.runtime.tensors"}


def test_there_is_no_circle():
    # The package's own face imports the floors below it; those that read its version or names are its users.
    inner = {name: others - {"uncrate"} for name, others in all_imports(types=False).items()}
    assert circles(inner) == []


def test_a_circle_would_be_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_nothing_up_to_the_plan_names_a_heavy_package():
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in sorted(others)
        if other.split(".")[0] in HEAVY and name != "uncrate" and floor(name) <= FLOOR_OF["plan"]
    ]
    assert wrong == []


def test_only_fetch_and_serve_touch_the_network():
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in sorted(others)
        if any(other == module or other.startswith(f"{module}.") for module in NETWORK)
        and name != "uncrate.checkpoint.fetch"
        and (name, other) not in NO_NETWORK
        and not name.startswith("uncrate.serve")
    ]
    assert wrong == []


def environment_uses(source: str) -> list[int]:
    """The lines on which a module reads or writes the environment."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        named = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv", "unsetenv")
        taken = isinstance(node, ast.ImportFrom) and node.module == "os" and any("env" in a.name for a in node.names)
        if named or taken:
            lines.append(node.lineno)
    return sorted(lines)


def test_only_settings_reads_the_environment():
    wrong = [
        f"{name}:{line}"
        for name, path in MODULES.items()
        if name != "uncrate.settings"
        for line in environment_uses(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []
    assert environment_uses("import os\nx = os.environ['A']\nfrom os import getenv\n") == [2, 3]


def loaded(code: str, names: tuple[str, ...]) -> set[str]:
    """Which of `names` are imported in a new process after `code` has run."""
    ask = f"\nimport sys\nprint('loaded:', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + ask],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "HF_ENDPOINT": "http://127.0.0.1:9"},
        timeout=120,
        check=True,
    )
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("loaded:"), done.stdout
    return set(last.split()[1:])


def command(*arguments: str, code: int = 0) -> str:
    return f"from uncrate.cli.main import main\nassert main({list(arguments)!r}) == {code}"


@pytest.mark.parametrize(
    "code",
    [
        "import uncrate",
        f"import uncrate; uncrate.inspect({str(GOLDEN)!r}); uncrate.plan({str(GOLDEN)!r})",
        "import uncrate\ntry:\n    uncrate.open('nothing')\nexcept uncrate.UncrateError:\n    pass",
        command("--help"),
        command("--version"),
        command("chat", "--help"),
        command("inspect", str(GOLDEN)),
        command("inspect", str(GOLDEN), "--json", "--tensors"),
        command("plan", str(GOLDEN)),
        command("plan", str(GOLDEN), "--json"),
        command("doctor"),
        command("inspect", "owner/name", code=1),
    ],
)
def test_without_torch(code):
    assert loaded(code, HEAVY) == set()


@pytest.mark.parametrize("arguments", [("inspect", str(GOLDEN)), ("plan", str(GOLDEN), "--json")])
def test_inspect_and_plan_wait_for_nothing_slow(arguments):
    assert loaded(command(*arguments), SLOW) == set()


def test_that_the_test_can_fail():
    assert loaded("import torch", HEAVY) >= {"torch"}
    asked = command("chat", str(GOLDEN), "-p", "hi", "--greedy", "--max-tokens", "1")
    assert {"torch", "numpy"} <= loaded(asked, HEAVY)
