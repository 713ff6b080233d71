"""Holds every file to the rules of the house: length, docstrings, arguments, errors that are caught."""

import ast
import functools
from pathlib import Path

import pytest
from helpers.import_graph import ROOT, module_paths

MODULES = module_paths()
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 5


def identity(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


# --- length -----------------------------------------------------------------------------------------


def long_functions(tree: ast.AST) -> dict[str, int]:
    """The lines of each function that is too long."""
    sizes = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions(tree)}
    return {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION_LINES}


def test_functions_are_short() -> None:
    found = {identity(path): long_functions(parsed(path)) for path in [*MODULES, *TESTS]}
    assert {path: sizes for path, sizes in found.items() if sizes} == {}


def test_files_are_short() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in [*MODULES, *TESTS]}
    found = {identity(path) for path in lines if lines[path] > MAX_FILE_LINES}
    assert found == set()


def test_a_long_function_would_be_found() -> None:
    body = "def f():\n" + "    pass\n" * (MAX_FUNCTION_LINES - 1)
    assert long_functions(ast.parse(body)) == {} and long_functions(ast.parse(body + "    pass\n")) == {"f": 61}


# --- docstrings -------------------------------------------------------------------------------------


def test_every_module_has_a_docstring() -> None:
    assert [identity(path) for path in [*MODULES, *TESTS] if not ast.get_docstring(parsed(path))] == []


# --- arguments --------------------------------------------------------------------------------------


def long_argument_lists(tree: ast.AST) -> set[str]:
    """The functions that take more positional arguments than a caller can keep apart; self and cls do not count."""
    return {
        node.name
        for node in functions(tree)
        if len([a for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]) > MAX_POSITIONAL
    }


def test_argument_lists_of_the_orchestrator_are_short() -> None:
    """The command line is left out: click passes options by name."""
    paths = [path for path in MODULES if path.is_relative_to(ROOT / "orchestrator") and path.parent.name != "cli"]
    found = {f"{identity(path)}: {name}" for path in paths for name in long_argument_lists(parsed(path))}
    assert found == set()


@pytest.mark.parametrize(
    ("signature", "names"),
    [
        ("a, b, c, d, e", set()),
        ("a, b, c, d, e, f", {"f"}),
        ("a, /, b, c, d, e, f=1", {"f"}),
        ("self, a, b, c, d, e", set()),
        ("a, b, c, d, e, *, f, g", set()),
    ],
)
def test_a_long_argument_list_would_be_found(signature: str, names: set[str]) -> None:
    assert long_argument_lists(ast.parse(f"def f({signature}): pass")) == names


# --- errors -----------------------------------------------------------------------------------------


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


def test_no_error_is_caught_without_a_name() -> None:
    found = {identity(path): swallowed(parsed(path)) for path in MODULES}
    assert {path: lines for path, lines in found.items() if lines} == {}


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
