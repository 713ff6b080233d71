"""The graph of imports that the test of the architecture reads: lazy imports, rooms, circles, table faults."""

import pytest
from helpers.import_graph import Graph, arrows, circle, import_graph, rooms, table_faults

SMALL = {
    "configs/schema": "",
    "rounds": "",
    "rounds/cells": "",
    "rounds/cells/masks": "from cellsemi.configs.schema import Config",
    "rounds/store": "",
    "rounds/store/shards": "from cellsemi.rounds.cells import masks\nfrom cellsemi.rounds.cells.masks import area",
    "rounds/seeds": "",
}


def small_arrows(**changes: str) -> Graph:
    """The arrows of SMALL with other sources; a module is named with _ for /."""
    return arrows(import_graph(SMALL | {name.replace("_", "/"): source for name, source in changes.items()}))


def test_rooms_are_folders_and_the_modules_beside_them() -> None:
    assert rooms(["rounds", "rounds/seeds", "rounds/f", "rounds/f/base", "rounds/f/coco", "rounds/f/coco/index"]) == {
        "rounds/seeds": "rounds/seeds",
        "rounds/f/base": "rounds/f/base",
        "rounds/f/coco/index": "rounds/f/coco",
    }
    assert small_arrows() == {
        "configs": set(),
        "rounds/cells": {"configs"},
        "rounds/seeds": set(),
        "rounds/store": {"rounds/cells"},
    }


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from cellsemi.rounds.seeds import draw", "rounds/cells imports rounds/seeds: not in ALLOWED"),
        ("def f():\n    import cellsemi.rounds.seeds", "rounds/cells imports rounds/seeds: not in ALLOWED"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cellsemi.rounds import seeds",
            "rounds/cells imports rounds/seeds: not in ALLOWED",
        ),
        (
            "import importlib\nimportlib.import_module('cellsemi.rounds.seeds')",
            "rounds/cells imports rounds/seeds: not in ALLOWED",
        ),
        ("", "rounds/cells no longer imports configs: remove it from ALLOWED"),
    ],
)
def test_an_arrow_beside_the_table_would_be_found(source: str, fault: str) -> None:
    table = {"configs": "", "rounds/cells": "configs", "rounds/seeds": "", "rounds/store": "rounds/cells"}
    assert table_faults(small_arrows(), table) == []
    changed = "from cellsemi.configs.schema import Config\n" + source if source else ""
    assert table_faults(small_arrows(rounds_cells_masks=changed), table) == [fault]


def test_a_room_beside_the_table_would_be_found() -> None:
    table = {"configs": "", "rounds/cells": "configs", "rounds/gone": "", "rounds/store": "rounds/cells"}
    assert table_faults(small_arrows(), table) == [
        "rounds/seeds is not in ALLOWED",
        "rounds/gone is in ALLOWED, but no such room exists",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "from cellsemi.rounds.store.shards import read",
        "def f():\n    from cellsemi.rounds.store import shards",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cellsemi.rounds.store.shards",
        "import importlib\nimportlib.import_module('cellsemi.rounds.store.shards')",
    ],
)
def test_a_circle_would_be_found(source: str) -> None:
    assert circle(import_graph(SMALL)) == []
    found = circle(import_graph(SMALL | {"rounds/cells/masks": source}))
    assert set(found) == {"rounds/cells/masks", "rounds/store/shards"} and found[0] == found[-1]
