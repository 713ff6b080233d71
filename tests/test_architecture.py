"""Holds the imports to the plan: which package, which room and which framework a module may import.

The plan is ALLOWED, a table of every room and of the rooms that it imports; FLOORS, their order; and EXCEPTIONS,
the arrows that break the order today. The table is exact: an arrow that is not in it fails, and so does an entry
that no import needs any more.
"""

import ast
import functools
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers.import_graph import (
    PACKAGES,
    ROOT,
    Graph,
    arrows,
    circle,
    import_graph,
    imported,
    module_name,
    module_paths,
    table_faults,
)
from helpers.rooms import ALLOWED, EXCEPTIONS, FLOORS

FRAMEWORKS = {"torch", "torchvision", "ray", "cellpose", "detectron2", "albumentations", "safetensors"}
MODULES = module_paths()
MAX_FOLDER_MODULES = 16

FAMILIES = {f"models/{name}" for name in FLOORS["models"][4].split()}  # the rest of cellsemi asks the registry


# --- packages ---------------------------------------------------------------------------------------


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def faults(package: str, tree: ast.AST) -> list[str]:
    """What a module of `package` imports although it must not."""
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    forbidden = FRAMEWORKS if package in ("configs", "rounds") else {"ray"} if package == "models" else set()
    found = []
    for line, name in imported(tree):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"line {line}: relative import {name}")
        elif parts[0] == "cellsemi" and (len(parts) < 2 or parts[1] not in allowed):
            found.append(f"line {line}: {package} imports {name}")
        elif parts[0] in PACKAGES:
            found.append(f"line {line}: {name} is not absolute (cellsemi.{name})")
        elif parts[0] in forbidden:
            found.append(f"line {line}: {package} imports {parts[0]}")
    return found


def test_imports_run_one_way() -> None:
    found = {module_name(path): faults(package_of(path), ast.parse(path.read_text("utf-8"))) for path in MODULES}
    assert {module: lines for module, lines in found.items() if lines} == {}


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


def test_all_modules_are_checked() -> None:
    assert {package_of(path) for path in MODULES} == set(PACKAGES)
    assert ROOT / "configs" / "schema.py" in MODULES


# --- rooms ------------------------------------------------------------------------------------------


@functools.cache
def graph_of_the_code() -> Graph:
    return import_graph({module_name(path): path.read_text("utf-8") for path in MODULES})


def floor_of(room: str) -> int | None:
    """The floor of a room in its package, 0 at the bottom; None when FLOORS does not name it."""
    package, *names = room.split("/")
    floors = (number for number, floor in enumerate(FLOORS.get(package, ())) if names and names[0] in floor.split())
    return next(floors, None)


def goes_up(room: str, other: str) -> bool:
    """Whether an arrow breaks the order: to the same floor or a higher one, or past the registry to a family."""
    if other in FAMILIES and room.split("/", maxsplit=1)[0] != "models":
        return True
    if room.split("/", maxsplit=1)[0] != other.split("/", maxsplit=1)[0] or room.split("/")[1] == other.split("/")[1]:
        return False
    below, above = floor_of(other), floor_of(room)
    return below is None or above is None or below >= above


def order_faults(found: Graph, exceptions: Iterable[tuple[str, str]]) -> list[str]:
    """The arrows that break the order and are no exceptions, and the exceptions that no arrow needs."""
    upward = {(room, other) for room, others in found.items() for other in others if goes_up(room, other)}
    return [
        *(f"{room} imports {other}: against the order of FLOORS" for room, other in sorted(upward - set(exceptions))),
        *(f"{room} -> {other}: remove it from EXCEPTIONS" for room, other in sorted(set(exceptions) - upward)),
    ]


def test_rooms_import_what_the_table_allows_and_all_of_it() -> None:
    found = table_faults(arrows(graph_of_the_code()), ALLOWED)
    assert not found, "\n".join(found)


def test_arrows_run_down() -> None:
    found = arrows(graph_of_the_code())
    wrong = order_faults(found, EXCEPTIONS)
    assert not wrong, "\n".join(wrong)
    assert circle({room: others - {o for r, o in EXCEPTIONS if r == room} for room, others in found.items()}) == []


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    named = [f"{package}/{name}" for package, floors in FLOORS.items() for floor in floors for name in floor.split()]
    existing = {"/".join(room.split("/")[:2]) for room in ALLOWED} - {"configs"}
    assert sorted(named) == sorted(existing)


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(graph_of_the_code()) == []


def test_a_package_itself_holds_no_code() -> None:
    """So that no arrow can hide in an `__init__`."""
    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert [module_name(path) for path in packages if len(ast.parse(path.read_text("utf-8")).body) != 1] == []


@pytest.mark.parametrize(
    ("arrow", "wrong"),
    [
        (("rounds/store", "rounds/cells"), False),
        (("rounds/cells", "rounds/store"), True),
        (("rounds/datasets", "rounds/pseudo_labels"), True),  # the same floor
        (("rounds/formats/coco", "rounds/formats/base"), False),
        (("rounds/store", "rounds/formats/coco"), True),
        (("rounds/store", "rounds/unknown"), True),
        (("models/registry", "models/flow_unet"), False),
        (("models/flow_unet", "models/cellpose_sam"), True),
        (("orchestrator/stages", "models/flow_unet"), True),
        (("orchestrator/stages", "models/registry"), False),
        (("models/flow", "configs"), False),
    ],
)
def test_an_arrow_against_the_order_would_be_found(arrow: tuple[str, str], wrong: bool) -> None:
    room, other = arrow
    assert bool(order_faults({room: {other}}, [])) == wrong
    assert bool(order_faults({room: {other}}, [arrow])) != wrong  # an exception that is none would be found too


# --- folders ----------------------------------------------------------------------------------------


def crowded(paths: Iterable[Path]) -> dict[str, int]:
    """The folders with more modules than a reader can keep apart."""
    folders = [path.parent.as_posix() for path in paths if path.name != "__init__.py"]
    return {folder: folders.count(folder) for folder in folders if folders.count(folder) > MAX_FOLDER_MODULES}


def test_no_folder_is_crowded() -> None:
    assert crowded(MODULES) == {}


def test_a_crowded_folder_would_be_found() -> None:
    paths = [Path(f"a/b{i}.py") for i in range(MAX_FOLDER_MODULES)] + [Path("a/__init__.py")]
    assert crowded(paths) == {} and crowded([*paths, Path("a/c.py")]) == {"a": MAX_FOLDER_MODULES + 1}
