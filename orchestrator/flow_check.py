"""Measures what the flow targets can represent: ground truth through a target and back, over a data set.

No network does better than this round trip: check it before the first training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.models.flow.round_trip import RoundTrip, round_trip
from cellsemi.models.flow.targets import FlowTarget
from cellsemi.rounds.cells import masks
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import ShardSet, shard_paths

LOOKED_AT = ("labelled", "val")  # never test: nothing is chosen by looking at it


@dataclass(frozen=True, slots=True)
class FlowResult:
    """One class under one target. `at_50` and so on count the cells that come back with IoU above .50.

    `covered` cells lie wholly under others in the label map and are not among `cells`. `seconds` are for
    the targets alone, over all images.
    """

    class_name: str
    target: FlowTarget
    images: int
    cells: int
    covered: int
    found: int
    at_50: int
    at_75: int
    at_90: int
    iou_sum: float
    seconds: float

    @property
    def mean_iou(self) -> float:
        """Mean over the cells of the best IoU; 1 when there are none."""
        return self.share(self.iou_sum)

    def share(self, count: float) -> float:
        """`count` per cell; 1 when there are none."""
        return count / self.cells if self.cells else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, the mean IoU among them."""
        return {**asdict(self), "mean_iou": self.mean_iou}


def check_folder(folder: Path, limit: int | None = None) -> list[FlowResult]:
    """The round trip over the human-labelled cells of a folder of image shards.

    UsageError when it holds no shards, or no human labels.
    """
    paths = shard_paths(folder)
    if not paths:
        raise UsageError(f"{folder}: no image shards (part-*.parquet); in a run they lie in data/labelled and data/val")
    return check(spread(ShardSet(paths), limit), str(folder))


def check_config(config: Config, limit: int | None = None) -> list[FlowResult]:
    """The round trip over the training and validation images of a config's data set, read anew."""
    with tempfile.TemporaryDirectory(prefix="cellsemi-") as scratch:
        out = Path(scratch)
        ingest(config, out, config_hash(config), lambda *_: None)
        paths = [path for split in LOOKED_AT for path in shard_paths(out / split)]
        return check(spread(ShardSet(paths), limit), f"data.source {config.data.source}")


def spread(records: Sequence[ImageRecord], limit: int | None) -> Iterator[ImageRecord]:
    """At most `limit` records, evenly over the whole sequence, read one at a time."""
    count = len(records) if limit is None else min(limit, len(records))
    for index in np.linspace(0, len(records) - 1, count).round().astype(int):
        yield records[int(index)]


def check(records: Iterable[ImageRecord], origin: str) -> list[FlowResult]:
    """Both targets over the records, by class of image (`all` where images have none)."""
    targets: tuple[FlowTarget, ...] = get_args(FlowTarget)
    warm_up(targets)
    trips: dict[tuple[str, FlowTarget], list[tuple[RoundTrip, int]]] = {}
    for record in records:
        if record.instances is None:
            continue
        cells = record.instances.in_state("human")
        labels = masks.to_label_map(cells)
        for target in targets:
            trip = round_trip(labels, target)
            trips.setdefault((record.cell_type or "all", target), []).append((trip, len(cells) - trip.cells))
    if not any(trip.cells for found in trips.values() for trip, _ in found):
        raise UsageError(f"{origin}: no human-labelled cells to check")
    return [_result(name, target, trips[name, target]) for name, target in sorted(trips)]


def warm_up(targets: Sequence[FlowTarget]) -> None:
    """Compile and import what the targets need: the first image then takes no longer than the others."""
    for target in targets:
        round_trip(np.eye(8, dtype=np.int32), target)


def _result(name: str, target: FlowTarget, trips: Sequence[tuple[RoundTrip, int]]) -> FlowResult:
    return FlowResult(
        class_name=name,
        target=target,
        images=len(trips),
        cells=sum(trip.cells for trip, _ in trips),
        covered=sum(covered for _, covered in trips),
        found=sum(trip.found for trip, _ in trips),
        at_50=sum(trip.recovered_50 for trip, _ in trips),
        at_75=sum(trip.recovered_75 for trip, _ in trips),
        at_90=sum(trip.recovered_90 for trip, _ in trips),
        iou_sum=sum(trip.iou_sum for trip, _ in trips),
        seconds=sum(trip.target_s for trip, _ in trips),
    )
