"""Counts what an ingest read and left out, and says it in sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from cellsemi.rounds.datasets.ignore_label_issues import SuspectCounts
from cellsemi.rounds.store.run import SPLITS

OnImage = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One image that could not be used, and why."""

    image_id: str
    split: str
    path: str
    problem: str


@dataclass(slots=True)
class IngestReport:
    """What came in. Every split has its key; `shards` holds the commit records that write_shard returned."""

    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    cells: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    empty: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))  # annotated, no cells
    class_cells: dict[str, dict[str, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    duplicates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    quarantined: list[Quarantined] = field(default_factory=list)
    ignored: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(SPLITS, 0)
    )  # cells, neither learnt nor scored
    repeated: int = 0  # cells of images that stand in the listing twice, left out once
    cleaned: dict[str, int] = field(default_factory=dict)  # cells changed or dropped by data.clean, by what
    suspects: SuspectCounts | None = None  # what became of the rows of data.suspects
    notes: list[str] = field(default_factory=list)  # what the format's reader found out, and data.suspects changed
    labelled_not_drawn: int = 0  # by data.labelled_limit; data.limit_rest says what became of them
    shards: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)
