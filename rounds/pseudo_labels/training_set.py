"""Merges human labels and accepted pseudo-labels into one training set, each cell with its provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.filter import count_reasons
from cellsemi.rounds.store.folds import HUMAN_SPLIT, PSEUDO_SPLIT
from cellsemi.rounds.store.manifest import TrainingCounts
from cellsemi.rounds.store.schemas import ImageRecord

NOT_PREDICTED = "not predicted"
NO_CELL_FOUND = "no cell found"
NO_CELL_ACCEPTED = "no cell accepted"
OF_JUDGED = "of a group or of pixels that evaluate the fold"
HELD_BACK = "labels too poor for this round"
LABELLED_SINCE = "labelled by a person since"
CELLS_MISSED = "too many cells of its class are missed"


@dataclass(slots=True)
class MergeCounts:
    """Filled while the merged records are consumed: what went in, what was left out and why."""

    human_images: int = 0
    human_cells: int = 0
    pseudo_images: int = 0
    cells: Counter[str] = field(default_factory=Counter)  # by state and reason, of the pseudo images that train
    left_out: Counter[str] = field(default_factory=Counter)  # pseudo images by reason

    def as_record(self) -> TrainingCounts:
        """The counts as a manifest keeps them."""
        return TrainingCounts(
            human_images=self.human_images,
            human_cells=self.human_cells,
            pseudo_images=self.pseudo_images,
            cells=dict(sorted(self.cells.items())),
            left_out=dict(sorted(self.left_out.items())),
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What stands on the human side of a training set: the ids of its images, and the id of each hash of pixels."""

    ids: frozenset[str]
    hashes: Mapping[str, str]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str]]) -> Known:
        """Of (image id, sha256); a hash that is not known is no evidence."""
        listed = list(rows)
        return cls(frozenset(image_id for image_id, _ in listed), {sha256: i for i, sha256 in listed if sha256})


def human_labels(records: Iterable[ImageRecord], counts: MergeCounts) -> Iterator[ImageRecord]:
    """The human records of a shard as they teach, one in memory at a time; one that a person found empty is kept.

    DataError for a record that was never annotated. ValueError when a record is not what it should be here (another
    split, cells that no person drew): validation and test images never train.
    """
    return (_human(record, counts) for record in records)


def pseudo_labels(
    records: Iterable[ImageRecord],
    known: Known,
    counts: MergeCounts,
    left_out: Mapping[str, str] | None = None,
    not_taught: Collection[int] = (),
) -> Iterator[ImageRecord]:
    """The filtered pseudo-labelled records of a shard that can teach; one in memory at a time.

    State, round, votes and weight of every cell stay as they are.
    A pseudo image without one accepted cell is left out and counted: all that it could teach is that
    everything there is background, and the likeliest reason for an image without accepted cells is a teacher
    that does not know them. One whose accepted cells are mostly of a class in `not_taught` is left out as well: too
    much of such cells would be taught as background; and so are the ids in `left_out`, for the reason stated there.
    `rejected` and `ignored` cells stay in the records for the trainer.

    DataError when an image id or the pixels (sha256) of a pseudo image also stand on the human side: one of
    the two labels would be wrong, or counted twice. ValueError when a record is not what it should be here
    (another split, cells that were not filtered).
    """
    for record in records:
        reason = (left_out or {}).get(record.image_id, "")
        if not reason:
            _refuse_overlap(record, known)
            reason = _check_pseudo(record, not_taught)
        if reason:
            counts.left_out[reason] += 1
            continue
        assert record.instances is not None
        counts.pseudo_images += 1
        counts.cells += count_reasons(record.instances)
        yield record


def with_images(labels: Iterable[ImageRecord], images: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """The records of `labels` with the encoded bytes of the same rows of `images`.

    Predictions are stored without images; ValueError unless both tables hold the same images in order.
    """
    for label, image in zip(labels, images, strict=True):
        if label.image_id != image.image_id:
            raise ValueError(f"expected the label of {image.image_id!r}, got that of {label.image_id!r}")
        yield replace(label, image=image.image)


def _human(record: ImageRecord, counts: MergeCounts) -> ImageRecord:
    _check(record, HUMAN_SPLIT)
    if record.instances is None:
        raise DataError(
            f"{record.image_id} ({record.source}): stands in the split {HUMAN_SPLIT!r} but was never "
            f"annotated; annotate it or move it to {PSEUDO_SPLIT!r}"
        )
    _check_states(record, record.instances, {"human", "ignored"})
    counts.human_images += 1
    counts.human_cells += len(record.instances.in_state("human"))
    return record


def _check_pseudo(record: ImageRecord, not_taught: Collection[int]) -> str:
    """The reason to leave the record out, or an empty string."""
    _check(record, PSEUDO_SPLIT)
    if record.instances is None:
        return NOT_PREDICTED
    _check_states(record, record.instances, {"accepted", "ignored", "rejected"})
    if not len(record.instances):
        return NO_CELL_FOUND
    most = record.instances.in_state("accepted").main_class()
    if most is None:
        return NO_CELL_ACCEPTED
    return CELLS_MISSED if most in not_taught else ""


def _check(record: ImageRecord, split: str) -> None:
    if record.split != split:
        raise ValueError(f"{record.image_id}: expected an image of the split {split!r}, got {record.split!r}")


def _check_states(record: ImageRecord, cells: Instances, allowed: set[str]) -> None:
    other = set(cells.state) - allowed
    if other:
        raise ValueError(f"{record.image_id}: expected cells that are {sorted(allowed)}, got {sorted(other)}")


def _refuse_overlap(record: ImageRecord, known: Known) -> None:
    if record.image_id in known.ids:
        raise DataError(
            f"{record.image_id} ({record.source}): this image id stands among the labelled and the "
            "unlabelled images; remove one of the two rows, or rename one if they are different images"
        )
    twin = known.hashes.get(record.sha256)
    if twin is not None:
        raise DataError(
            f"{record.image_id} ({record.source}): the same pixels as the labelled image {twin}; "
            "remove it from the unlabelled images"
        )
