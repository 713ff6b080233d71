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

FRAMEWORKS = {"torch", "torchvision", "ray", "cellpose", "detectron2", "albumentations", "safetensors"}
MODULES = module_paths()
MAX_FOLDER_MODULES = 16

# A room imports only rooms on lower floors of its own package. Within rounds/formats the table is the order.
FLOORS = {
    "rounds": (
        "cells colours duration pulse seeds",
        "calibration drawing store",
        "formats evaluation",
        "datasets pseudo_labels",
        "inspect report review",
        "page",
    ),
    "models": (
        "explanation model_files weight_files weight_sources",
        "base start_weights",
        "crops given inference own_family training",
        "flow detector",
        "cellpose_sam detectron2_maskrcnn flow_unet masks python torchvision_maskrcnn",
        "registry",
        "ranks validation",
    ),
    "orchestrator": (
        "engine",
        "events",
        "stages describe_dataset doctor flow_check run_metrics",
        "runs review cluster tracking",
        "apply",
        "campaign explain",
        "ablation api terminal",
        "cli",
    ),
}
FAMILIES = {f"models/{name}" for name in FLOORS["models"][4].split()}  # the rest of cellsemi asks the registry
# This list may only shrink: remove an arrow when nothing needs it any more, add none.
EXCEPTIONS: set[tuple[str, str]] = set()
# room: the rooms that it imports
ALLOWED = {
    "configs": "",
    "rounds/calibration": "configs rounds/cells",
    "rounds/cells": "",
    "rounds/colours": "",
    "rounds/datasets": (
        "configs rounds/cells rounds/evaluation rounds/formats/base rounds/formats/coco rounds/formats/kaggle "
        "rounds/formats/paired rounds/formats/registry rounds/formats/shards rounds/formats/shared "
        "rounds/seeds rounds/store"
    ),
    "rounds/drawing": "rounds/cells rounds/colours",
    "rounds/duration": "",
    "rounds/evaluation": "configs rounds/calibration rounds/cells rounds/duration rounds/seeds rounds/store",
    "rounds/formats/base": "configs rounds/cells rounds/store",
    "rounds/formats/cellpose": (
        "configs rounds/cells rounds/formats/base rounds/formats/label_map rounds/formats/registry "
        "rounds/formats/shared rounds/store"
    ),
    "rounds/formats/coco": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/dsb2018": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/imagej": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/kaggle": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/label_map": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/labelme": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/measurements": "rounds/cells rounds/formats/base rounds/formats/registry rounds/store",
    "rounds/formats/overlays": (
        "rounds/cells rounds/drawing rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/paired": (
        "configs rounds/formats/base rounds/formats/label_map rounds/formats/registry rounds/formats/shared "
        "rounds/store"
    ),
    "rounds/formats/qupath": (
        "configs rounds/cells rounds/colours rounds/formats/base rounds/formats/registry "
        "rounds/formats/shared rounds/store"
    ),
    "rounds/formats/registry": "configs rounds/formats/base rounds/formats/shared rounds/store",
    "rounds/formats/shards": "configs rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store",
    "rounds/formats/shared": "configs rounds/cells rounds/formats/base rounds/store",
    "rounds/inspect": (
        "configs rounds/cells rounds/datasets rounds/evaluation rounds/formats/base rounds/formats/paired "
        "rounds/formats/registry rounds/formats/shards rounds/formats/shared rounds/store"
    ),
    "rounds/page": (
        "configs rounds/calibration rounds/cells rounds/colours rounds/drawing rounds/duration rounds/evaluation "
        "rounds/pseudo_labels rounds/report rounds/store"
    ),
    "rounds/pseudo_labels": "configs rounds/calibration rounds/cells rounds/evaluation rounds/store",
    "rounds/pulse": "",
    "rounds/report": (
        "configs rounds/calibration rounds/cells rounds/colours rounds/drawing rounds/evaluation "
        "rounds/pseudo_labels rounds/store"
    ),
    "rounds/review": "rounds/cells rounds/store",
    "rounds/seeds": "",
    "rounds/store": "configs rounds/cells rounds/pulse",
    "models/base": "configs rounds/cells rounds/store models/model_files",
    "models/cellpose_sam": (
        "configs rounds/seeds rounds/store models/base models/crops models/flow models/given models/inference "
        "models/model_files models/start_weights models/training"
    ),
    "models/crops": "configs rounds/cells rounds/store models/base models/model_files",
    "models/detector": (
        "configs rounds/cells rounds/pseudo_labels rounds/pulse rounds/seeds models/base models/crops "
        "models/explanation models/given models/inference models/model_files models/training "
        "models/weight_files"
    ),
    "models/detectron2_maskrcnn": (
        "configs rounds/store models/base models/detector models/given models/inference models/model_files "
        "models/start_weights models/training models/weight_files"
    ),
    "models/explanation": "rounds/cells",
    "models/flow": (
        "configs rounds/cells models/base models/crops models/explanation models/inference models/training"
    ),
    "models/flow_unet": (
        "configs rounds/store models/base models/crops models/flow models/given models/inference "
        "models/model_files models/training"
    ),
    "models/given": "configs rounds/cells models/base models/explanation models/model_files models/start_weights",
    "models/inference": "configs rounds/cells rounds/pulse models/base models/explanation",
    "models/masks": "configs models/base models/given",
    "models/model_files": "configs rounds/store",
    "models/own_family": "configs rounds/store models/base models/model_files",
    "models/python": "configs models/base models/given models/model_files models/own_family",
    "models/ranks": "configs models/base models/registry models/training",
    "models/registry": "configs models/base models/given models/inference models/model_files",
    "models/start_weights": "configs models/model_files models/weight_files",
    "models/torchvision_maskrcnn": (
        "configs models/base models/detector models/given models/inference models/model_files "
        "models/start_weights models/training models/weight_files"
    ),
    "models/training": (
        "configs rounds/pulse rounds/store models/base models/model_files models/start_weights models/weight_files"
    ),
    "models/validation": (
        "configs rounds/cells rounds/evaluation rounds/seeds rounds/store models/base models/inference "
        "models/model_files models/registry models/training"
    ),
    "models/weight_files": "configs rounds/store",
    "models/weight_sources": "",
    "orchestrator/ablation": (
        "configs rounds/evaluation rounds/store orchestrator/campaign orchestrator/engine orchestrator/events "
        "orchestrator/runs"
    ),
    "orchestrator/api": (
        "configs rounds/cells rounds/evaluation rounds/formats/label_map rounds/formats/measurements "
        "rounds/formats/overlays rounds/formats/registry rounds/formats/shared rounds/pseudo_labels "
        "rounds/store orchestrator/apply orchestrator/campaign orchestrator/events orchestrator/explain "
        "orchestrator/runs"
    ),
    "orchestrator/apply": (
        "configs rounds/calibration rounds/cells rounds/datasets rounds/evaluation rounds/formats/base "
        "rounds/formats/shared rounds/pseudo_labels rounds/store models/base models/explanation "
        "models/inference models/model_files models/registry models/validation orchestrator/engine "
        "orchestrator/events orchestrator/runs"
    ),
    "orchestrator/campaign": (
        "configs rounds/evaluation rounds/store orchestrator/engine orchestrator/events "
        "orchestrator/run_metrics orchestrator/runs orchestrator/stages orchestrator/tracking"
    ),
    "orchestrator/cli": (
        "configs rounds/cells rounds/datasets rounds/evaluation rounds/inspect rounds/store "
        "models/model_files models/registry models/start_weights models/training models/weight_files "
        "models/weight_sources orchestrator/ablation orchestrator/apply orchestrator/campaign "
        "orchestrator/cluster orchestrator/describe_dataset orchestrator/doctor orchestrator/engine "
        "orchestrator/explain orchestrator/flow_check orchestrator/review orchestrator/runs "
        "orchestrator/terminal orchestrator/tracking"
    ),
    "orchestrator/describe_dataset": (
        "configs rounds/datasets rounds/formats/base rounds/formats/shared rounds/inspect rounds/report rounds/store"
    ),
    "orchestrator/cluster": "configs rounds/store models/start_weights orchestrator/engine orchestrator/stages",
    "orchestrator/doctor": "models/registry models/training orchestrator/engine",
    "orchestrator/engine": "configs rounds/store models/inference models/training",
    "orchestrator/events": "orchestrator/engine",
    "orchestrator/explain": (
        "configs rounds/cells rounds/colours rounds/drawing rounds/evaluation rounds/formats/shared "
        "rounds/pseudo_labels rounds/store models/explanation orchestrator/apply orchestrator/runs"
    ),
    "orchestrator/flow_check": "configs rounds/cells rounds/datasets rounds/store models/flow",
    "orchestrator/review": (
        "configs rounds/cells rounds/datasets rounds/formats/base rounds/formats/registry "
        "rounds/formats/shared rounds/inspect rounds/pseudo_labels rounds/report rounds/review rounds/store"
    ),
    "orchestrator/run_metrics": "orchestrator/engine orchestrator/events",
    "orchestrator/runs": (
        "configs rounds/calibration rounds/cells rounds/datasets rounds/duration rounds/evaluation "
        "rounds/formats/base rounds/formats/shards rounds/inspect rounds/page rounds/pseudo_labels rounds/report "
        "rounds/seeds rounds/store models/base models/model_files models/registry models/validation "
        "models/weight_files orchestrator/engine orchestrator/events"
    ),
    "orchestrator/stages": (
        "configs rounds/calibration rounds/cells rounds/datasets rounds/evaluation rounds/inspect "
        "rounds/pseudo_labels rounds/pulse rounds/review rounds/seeds rounds/store models/base "
        "models/inference models/model_files models/own_family models/ranks models/registry "
        "models/start_weights models/training models/validation orchestrator/engine orchestrator/events"
    ),
    "orchestrator/terminal": (
        "configs rounds/datasets rounds/duration rounds/evaluation rounds/formats/base rounds/formats/shared "
        "rounds/inspect rounds/store orchestrator/apply orchestrator/cluster orchestrator/describe_dataset "
        "orchestrator/doctor orchestrator/engine "
        "orchestrator/events orchestrator/flow_check orchestrator/review orchestrator/runs"
    ),
    "orchestrator/tracking": "configs rounds/evaluation rounds/store models/model_files",
}


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
