"""Counts what an ingest read and left out, and reports it in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cellsemi.configs.data import DataConfig
from cellsemi.rounds.datasets.ignore_label_issues import LabelIssueCounts
from cellsemi.rounds.formats.base import Loaded
from cellsemi.rounds.store.run import QUARANTINE_FILE, SPLITS
from cellsemi.rounds.store.shards import Shard

OnImage = Callable[[str, int, int], None]
CROWDED = 0.2  # share of the annotations of an image from which crowds are mentioned


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One image that could not be used, and why."""

    image_id: str
    split: str
    path: str
    problem: str


@dataclass(slots=True)
class IngestReport:
    """What came in. Every split has its key; `shards` holds the shards that were written."""

    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    cells: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    empty: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))  # annotated, no cells
    class_cells: dict[str, dict[str, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    duplicates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    quarantined: list[Quarantined] = field(default_factory=list)
    ignored: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(SPLITS, 0)
    )  # cells, neither learnt nor scored
    partly: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))  # images: data.partial
    background_px: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))  # of these images
    repeated: int = 0  # cells of images that stand in the listing twice, left out once
    copies: int = 0  # unlabelled images with the pixels of an annotated one, left out
    left_out: dict[str, int] = field(default_factory=dict)  # annotations that are no cells, by the reason
    crowds: int = 0  # ignored cells that are COCO's crowds
    crowded: int = 0  # images of which a large share of the annotations are crowds
    cleaned: dict[str, int] = field(default_factory=dict)  # cells changed or dropped by data.clean, by what
    label_issues: LabelIssueCounts | None = None  # what became of the rows of data.label_issues
    notes: list[str] = field(default_factory=list)  # what the format's reader found out, and data.label_issues changed
    labelled_not_drawn: int = 0  # by data.labelled_limit; data.limit_rest says what became of them
    hidden_twins: int = 0  # of these, left out of the unlabelled images: they have the pixels of one that was drawn
    shards: dict[str, list[Shard]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        shards = {split: [shard.model_dump() for shard in written] for split, written in self.shards.items()}
        return {**asdict(self), "shards": shards}

    def changed(self) -> dict[str, object]:
        """What was counted, as plain values: the report of one shard, which `add` takes."""
        return {name: value for name, value in asdict(self).items() if value != getattr(_EMPTY, name)}

    def add(self, part: Mapping[str, Any]) -> None:
        """Add what was counted in a shard (`changed`), but for its label issues."""
        for name, value in part.items():
            mine = getattr(self, name)
            if name == "quarantined":
                mine += [Quarantined(**row) for row in value]
            elif name == "class_cells":
                for split, counts in value.items():
                    mine[split] = dict(Counter(mine[split]) + Counter(counts))
            elif isinstance(mine, dict):
                for key, number in value.items():
                    mine[key] = mine.get(key, 0) + number
            elif name != "label_issues":
                setattr(self, name, mine + value)


_EMPTY = IngestReport()


def is_crowded(loaded: Loaded) -> bool:
    """Whether so many annotations of an image are crowds that they are hardly regions nobody could annotate."""
    cells = loaded.record.instances
    return loaded.crowds > 0 and cells is not None and loaded.crowds >= CROWDED * len(cells)


def crowds_sentence(crowds: int, crowded: int) -> str:
    """What to consider about crowds that are a large share of the annotations of some images."""
    return (
        f"{crowds} annotations have iscrowd: 1 and are ignored regions; in {crowded} images they are a fifth of the "
        "annotations or more, as where single cells were drawn with a brush (CVAT, SAM): "
        "data.crowds: cells takes them as cells"
    )


def partly_sentence(images: int) -> str:
    """What partly labelled images teach."""
    return f"{images} images are labelled in part (data.partial): the rest of them is neither learnt nor scored"


def copies_sentence(copies: int) -> str:
    """What became of unlabelled images that are annotated as well."""
    return f"{copies} unlabelled images have the pixels of an annotated image: left out of the unlabelled ones"


def sentences(report: IngestReport, data: DataConfig) -> list[str]:
    """What a person must know about the data: sizes, and everything that was left out."""
    images, cells = report.images, report.cells
    lines = [
        f"{images['labelled']} labelled images ({cells['labelled']} cells), {images['unlabelled']} unlabelled, "
        f"{images['val']} val ({cells['val']} cells), {images['test']} test ({cells['test']} cells)"
    ]
    lines += report.notes
    lines += [f"{count} cells: {what} (data.clean)" for what, count in report.cleaned.items()]
    if report.repeated:
        lines.append(f"{report.repeated} cells of images that are listed twice were taken once")
    lines += [f"{count} {reason}: left out" for reason, count in report.left_out.items()]
    if report.crowded:
        lines.append(crowds_sentence(report.crowds, report.crowded))
    if sum(report.ignored.values()):
        lines.append(f"{sum(report.ignored.values())} cells are marked to be ignored: neither learnt nor scored")
    if sum(report.partly.values()):
        lines.append(partly_sentence(sum(report.partly.values())))
    if report.quarantined:
        lines.append(f"{len(report.quarantined)} images cannot be used and are left out (data/{QUARANTINE_FILE}):")
        lines += [f"  {row.path}: {row.problem}" for row in report.quarantined[:5]]
    if report.copies:
        lines.append(copies_sentence(report.copies))
    if report.labelled_not_drawn:
        fate = "left out" if data.limit_rest == "leave out" else "unlabelled, their labels hidden"
        lines.append(f"{report.labelled_not_drawn} labelled images are not drawn (data.labelled_limit): {fate}")
    if report.hidden_twins:
        lines.append(f"{report.hidden_twins} of these have the pixels of an image that is drawn, and are left out")
    for split in SPLITS:
        if report.duplicates[split]:
            lines.append(f"{report.duplicates[split]} {split} images repeat another one's pixels")
        if report.empty[split]:
            lines.append(f"{report.empty[split]} {split} images are annotated as empty")
    return lines
