"""Draws the data sets of neurons.py: what a run is given, the same with the true labels of the pool, and those labels.

Every set is for development. On DSB2018 it is a development draw of regimes.py, whose test holds no image of the split
`test`; Usiigaci has splits of its own, of which `test` is read here; the generated cells are drawn by the seed.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import regimes

from cellsemi.configs.data import DataConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.label_map.reader import LabelMaps

CELL = ("cell",)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set: what it is, the preset and the settings of its runs.

    `regime` is one of regimes.py; without one it is Usiigaci with `labelled` of its labelled images, drawn by the seed.
    """

    says: str
    preset: str
    settings: Mapping[str, object]
    regime: str | None = None
    labelled: int | None = None

    @property
    def folder(self) -> str:
        """The data that it needs, a folder of the shared ones; empty: it is generated."""
        if self.regime is None:
            return "usiigaci"
        return "dsb2018" if regimes.called(self.regime).modalities else ""


_NUCLEI = {"data.where": {}}  # the manifest of a draw says it all
_THREE_CLASSES = {"data.source": "shards", "unlabelled_inference.scale_search": None}
SETS: dict[str, DataSet] = {
    "usiigaci": DataSet("Usiigaci, phase contrast: 10 labelled, 6 val, 20 unlabelled, 8 test", "label-maps", {}),
    "usiigaci-3": DataSet("The same with 3 of the 10 labelled images, drawn by the seed", "label-maps", {}, labelled=3),
    "crowded": DataSet(regimes.MORE["crowded"].says, "demo", _THREE_CLASSES, regime="crowded"),
    **{
        name: DataSet(f"DSB2018, development draw: {regimes.REGIMES[name].says}", "dsb2018", _NUCLEI, regime=name)
        for name in ("few", "mixed", "uncovered")
    },
}


def build(name: str, seed: int, out: Path, shared: Path, *, all_labels: bool = False) -> None:
    """Write the data of a set and seed into `out`; with `all_labels` the pool's true labels are given as well."""
    wanted = SETS[name]
    root = shared / wanted.folder
    if wanted.regime is None:
        rows = list(_drawn(_rows(root), wanted.labelled, seed, all_labels))
        regimes.write_manifest(rows, out, root)
    elif not wanted.folder:
        (regimes.build_all if all_labels else regimes.build)(wanted.regime, seed, out, root)
    else:
        rows = regimes.draw_development(wanted.regime, seed, regimes.read_rows(root))
        if all_labels:
            rows = [{**row, "split": "labelled" if row["split"] == "unlabelled" else row["split"]} for row in rows]
        regimes.write_manifest(rows, out, root)


def hidden_truth(name: str, shared: Path) -> dict[str, Instances]:
    """The true cells of the unlabelled images that have them, by image id; no run was given them."""
    wanted = SETS[name]
    root = shared / wanted.folder
    if wanted.regime is not None:
        return regimes.hidden_truth(wanted.regime, root)
    data = LabelMaps(DataConfig(source="label-maps", root=str(root), classes=CELL))
    known = {row["id"] for row in _rows(root) if row["split"] == "unlabelled" and int(row["n_instances"]) >= 0}
    return {row.image_id: data.read_hidden_truth(data.load(row).record) for row in data.rows if row.image_id in known}


def _rows(root: Path) -> list[regimes.Row]:
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _drawn(rows: list[regimes.Row], labelled: int | None, seed: int, all_labels: bool) -> Iterator[regimes.Row]:
    """The rows of Usiigaci: `labelled` of the labelled ones, the others left out; pool images with masks labelled."""
    given = [row["id"] for row in rows if row["split"] == "labelled"]
    kept = set(given if labelled is None else random.Random(f"usiigaci/{seed}").sample(given, labelled))
    for row in rows:
        if row["split"] == "labelled" and row["id"] not in kept:
            continue
        known = row["split"] == "unlabelled" and int(row["n_instances"]) >= 0
        yield {**row, "split": "labelled"} if all_labels and known else row
