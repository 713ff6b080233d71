"""The house rules, read from the source: imports run one way, frameworks stay in their place, sizes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("configs", "rounds", "models", "orchestrator")  # each may import those before it and itself
FRAMEWORKS = {"torch", "torchvision", "ray", "cellpose", "detectron2", "albumentations", "safetensors"}
MODULES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))
DYNAMIC = ("importlib.import_module", "import_module", "__import__")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def identity(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import anywhere in a module, lazy ones and type-only ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC and node.args:
            yield node.lineno, ast.unparse(node.args[0]).strip("'\"")


def faults(package: str, tree: ast.AST) -> list[str]:
    """What a module of `package` imports although it must not."""
    allowed = ORDER[: ORDER.index(package) + 1]
    forbidden = FRAMEWORKS if package in ("configs", "rounds") else {"ray"} if package == "models" else set()
    found = []
    for line, name in imported(tree):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"line {line}: relative import {name}")
        elif parts[0] == "cellsemi" and (len(parts) < 2 or parts[1] not in allowed):
            found.append(f"line {line}: {package} imports {name}")
        elif parts[0] in ORDER:
            found.append(f"line {line}: {name} is not absolute (cellsemi.{name})")
        elif parts[0] in forbidden:
            found.append(f"line {line}: {package} imports {parts[0]}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=identity)
def test_imports_run_one_way(path: Path) -> None:
    assert faults(package_of(path), ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("configs", "from cellsemi.rounds import masks"),
        ("rounds", "def f():\n    import torch"),
        ("rounds", "from torch import nn"),
        ("models", "import ray.util"),
        ("models", "from cellsemi import orchestrator"),
        ("rounds", "from . import masks"),
        ("models", "from rounds import masks"),
        ("configs", "import importlib\nimportlib.import_module('torch')"),
    ],
)
def test_a_forbidden_import_would_be_found(package: str, source: str) -> None:
    assert len(faults(package, ast.parse(source))) == 1


@pytest.mark.parametrize("path", MODULES, ids=identity)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", MODULES, ids=identity)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def swallowed(tree: ast.AST) -> list[int]:
    """Lines that catch every error, other than to clean up and raise it again."""
    broad = (None, "Exception", "BaseException")
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    return [
        node.lineno
        for node in handlers
        if (ast.unparse(node.type) if node.type else None) in broad
        and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)
    ]


@pytest.mark.parametrize("path", MODULES, ids=identity)
def test_no_error_is_caught_without_a_name(path: Path) -> None:
    assert swallowed(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("handler", "lines"),
    [
        ("except Exception: pass", [2]),
        ("except: f()", [2]),
        ("except BaseException:\n    f()\n    raise", []),
        ("except OSError: pass", []),
    ],
)
def test_a_swallowed_error_would_be_found(handler: str, lines: list[int]) -> None:
    assert swallowed(ast.parse(f"try: f()\n{handler}")) == lines


def test_all_modules_are_looked_at() -> None:
    assert {package_of(path) for path in MODULES} == set(ORDER)
    assert ROOT / "configs" / "schema.py" in MODULES
