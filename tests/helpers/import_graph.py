"""Reads from the source which module imports which, and in which room each module lies.

A module is named by its path below the root without `.py` ("rounds/cells/masks"), a package by its folder. A
room is a folder of modules; a module that lies beside rooms is a room of its own ("models/base"); `configs` is
one room.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "rounds", "models", "orchestrator")  # each may import those before it and itself
TOP = "cellsemi."
DYNAMIC = ("importlib.import_module", "import_module", "__import__")

Graph = dict[str, set[str]]  # a module, or a room, and those that it imports


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a module, lazy and type-only ones too.

    A registry that names its modules in strings is not counted: it imports one when it is asked for.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC and node.args:
            yield node.lineno, ast.unparse(node.args[0]).strip("'\"")


def module_paths(root: Path = ROOT) -> list[Path]:
    """The files of the four packages."""
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    """rounds/cells/masks.py -> rounds/cells/masks; rounds/cells/__init__.py -> rounds/cells."""
    relative = path.relative_to(root)
    return (relative.parent if path.name == "__init__.py" else relative.with_suffix("")).as_posix()


def import_graph(sources: Mapping[str, str]) -> Graph:
    """The modules of ours that each module imports; `sources`: the source of each."""
    graph = {}
    for module, source in sources.items():
        names = [name.removeprefix(TOP) for _, name in imported(ast.parse(source)) if name.startswith(TOP)]
        graph[module] = {_longest_module(name.replace(".", "/"), sources) for name in names} - {module, ""}
    return graph


def _longest_module(name: str, modules: Iterable[str]) -> str:
    """The module that an imported name is or lies in (it may end in a function's name); "" when there is none."""
    while name and name not in modules:
        name = name.rpartition("/")[0]
    return name


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """A circle of imports, its first module repeated at the end; empty when there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1][::-1]
        return found
    return []


def rooms(modules: Iterable[str]) -> dict[str, str]:
    """The room of each module; packages (`__init__`) are left out."""
    names = set(modules)
    folders = {_folder(name) for name in names}
    with_rooms = {_folder(_folder(name)) for name in names - folders}  # folders that hold rooms beside modules
    found = {name: name if _folder(name) in with_rooms else _folder(name) for name in names - folders}
    return {name: "configs" if name.startswith("configs/") else room for name, room in found.items()}


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def arrows(graph: Graph) -> Graph:
    """The rooms that each room imports, itself left out."""
    room_of = rooms(graph)
    found: Graph = {room: set() for room in room_of.values()}
    for module, room in room_of.items():
        found[room] |= {room_of[other] for other in graph[module] if other in room_of} - {room}
    return found


def table_faults(found: Graph, allowed: Mapping[str, str]) -> list[str]:
    """Where the arrows between rooms and a table of them (room: the rooms that it imports) differ."""
    have = {(room, other) for room, others in found.items() for other in others}
    listed = {(room, other) for room, others in allowed.items() for other in others.split()}
    return [
        *(f"{room} is not in ALLOWED" for room in sorted(found.keys() - allowed.keys())),
        *(f"{room} is in ALLOWED, but no such room exists" for room in sorted(allowed.keys() - found.keys())),
        *(f"{room} imports {other}: not in ALLOWED" for room, other in sorted(have - listed)),
        *(f"{room} no longer imports {other}: remove it from ALLOWED" for room, other in sorted(listed - have)),
    ]
