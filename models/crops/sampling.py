"""Samples the image of each training crop: human-labelled or pseudo-labelled, and balanced within each of the two.

Only columns of the shards are read, no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError
from cellsemi.configs.training import Balance
from cellsemi.rounds.cells.instance_map import LABELS
from cellsemi.rounds.store.folds import HUMAN_SPLIT
from cellsemi.rounds.store.shards import open_parts, peek_columns

Names = Sequence[str | None]  # of images; None: unknown
A_CELL = "instances.list.element.class_id"  # a column of the cells that is small


@dataclass(frozen=True, slots=True)
class _WeightedRows:
    """Rows of one kind, human-labelled or pseudo-labelled, and the cumulative sums of their chances, up to 1."""

    rows: NDArray[np.int64]
    upto: NDArray[np.float64]

    def pick(self, place: float) -> int:
        """The row at `place` in [0, 1)."""
        return int(self.rows[np.searchsorted(self.upto, place, side="right")])


class ImageSampler:
    """Samples annotated rows of some shards.

    Where there are both kinds, `human_fraction` of the samples are human-labelled, and all of them from the step
    `human_from` on: training on pseudo-labels ends with human labels alone (Yalniz et al. 2019, arXiv 1905.00546).
    Among its kind the chance of an image follows `balance` (`chances`), that of a pseudo-labelled one times its value
    in `pseudo_weights` (rows,). Row numbers count over all shards in order. DataError when no row is annotated.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        *,
        human_fraction: float,
        human_from: float,
        balance: Balance,
        classes: Sequence[str],
        pseudo_weights: NDArray[np.float64] | None = None,
    ) -> None:
        human, annotated = label_kinds(shards)
        if not annotated.any():
            raise DataError(f"{', '.join(str(path) for path in shards) or 'no shards'}: no annotated image to train on")
        levels = _levels(shards, balance, classes)
        self._human = _weighted_rows(np.flatnonzero(annotated & human), levels)
        self._pseudo = _weighted_rows(np.flatnonzero(annotated & ~human), levels, pseudo_weights)
        self._human_fraction, self._human_from = human_fraction, human_from

    def sample(self, rng: np.random.Generator, step: int) -> int:
        """The row of an image for a crop of this step."""
        chance, place = rng.random(2)
        fraction = 1.0 if step >= self._human_from else self._human_fraction
        first, second = (self._human, self._pseudo) if chance < fraction else (self._pseudo, self._human)
        rows = first or second
        assert rows is not None  # there is an annotated row
        return rows.pick(place)


@dataclass(frozen=True, slots=True)
class InTurn:
    """Takes the rows in their order, one for each step, again and again."""

    rows: NDArray[np.int64]

    def sample(self, rng: np.random.Generator, step: int) -> int:
        """The row of an image for the crop of this step."""
        return int(self.rows[step % len(self.rows)])


def chances(n: int, levels: Sequence[Names]) -> NDArray[np.float64]:
    """The chance of each of `n` images, 1 in the mean: class-aware sampling (Shen et al. 2016, arXiv 1512.05830).

    `levels` name the images, such as by class and then by group. The names of the first level are equally
    likely, within each of them those of the next, and images with the same names. Images without a name at
    a level keep the share that they have without balancing.
    """
    group, share, size = np.zeros(n, np.int64), np.array([float(n)]), np.array([n])
    for names in levels:
        codes: dict[str, int] = {}
        code = np.array([-1 if name is None else codes.setdefault(name, len(codes)) for name in names], np.int64)
        # One group more for each name in a group; the images without a name stay in a group of their own.
        parts, new = np.unique(group * (len(codes) + 1) + code + 1, return_inverse=True)
        count = np.bincount(new, minlength=len(parts))
        parent, named = parts // (len(codes) + 1), parts % (len(codes) + 1) > 0
        unknown = np.bincount(parent[~named], count[~named], minlength=len(size)).astype(np.int64)
        kinds = np.bincount(parent[named], minlength=len(size))
        of_known = share * (1 - unknown / size) / np.maximum(kinds, 1)
        of_unknown = share * unknown / size
        group, share, size = new, np.where(named, of_known[parent], of_unknown[parent]), count
    return np.asarray(share[group] / size[group], np.float64)


def _weighted_rows(
    rows: NDArray[np.int64], levels: Sequence[Names], weights: NDArray[np.float64] | None = None
) -> _WeightedRows | None:
    if not len(rows):
        return None
    each = chances(len(rows), [[names[row] for row in rows] for names in levels])
    upto = np.cumsum(each if weights is None else each * weights[rows])
    return _WeightedRows(rows, upto / upto[-1])


def label_kinds(shards: Sequence[Path]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each row is human-labelled, and whether it is annotated.

    Row groups whose statistics tell (one split, no missing value among the cells) are not read.
    """
    human, annotated = [np.zeros(0, bool)], [np.zeros(0, bool)]
    for path in shards:
        with open_parts(path) as file:
            splits = _told_by_statistics(file.metadata)
            left = file.read_row_groups([g for g, split in enumerate(splits) if split is None], ["split", A_CELL])
            read = iter(zip(left["split"].to_pylist(), left["instances"].is_valid().to_pylist(), strict=True))
            for group, split in enumerate(splits):
                rows = file.metadata.row_group(group).num_rows
                kinds = [(split, True)] * rows if split is not None else list(islice(read, rows))
                human.append(np.array([name == HUMAN_SPLIT for name, _ in kinds], bool))
                annotated.append(np.array([is_valid for _, is_valid in kinds], bool))
    return np.concatenate(human), np.concatenate(annotated)


def _told_by_statistics(metadata: pq.FileMetaData) -> list[str | None]:
    """The split of each row group of one split in which all rows are annotated and hold cells; None where not known."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    split, cell = paths.index("split"), paths.index(A_CELL)
    told: list[str | None] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        splits, cells = group.column(split).statistics, group.column(cell).statistics
        one = splits is not None and splits.has_min_max and splits.min == splits.max and splits.null_count == 0
        whole = cells is not None and cells.has_null_count and cells.null_count == 0
        told.append(splits.min if one and whole else None)
    return told


def _levels(shards: Sequence[Path], balance: Balance, classes: Sequence[str]) -> list[Names]:
    """The names of the rows, level by level."""
    levels: list[Names] = []
    if balance in ("class", "class-group"):
        levels.append([name for path in shards for name in _image_classes(path, classes)])
    if balance in ("group", "class-group"):
        levels.append([name for path in shards for name in columns(path, "group")["group"].to_pylist()])
    return levels


def _image_classes(path: Path, classes: Sequence[str]) -> Names:
    """The class of each image: the stated one, else that of most learnt cells (of equals the first), else None."""
    stated = columns(path, "cell_type")["cell_type"].to_pylist()
    image, (class_id,) = learnt_cells(path, "class_id")
    counts = np.zeros((len(stated), len(classes)), np.int64)
    np.add.at(counts, (image, class_id), 1)
    most, some = counts.argmax(axis=1).tolist(), (counts.sum(axis=1) > 0).tolist()
    return [name or (classes[most[i]] if some[i] else None) for i, name in enumerate(stated)]


def learnt_cells(path: Path, *names: str) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Of every cell of a shard that is learnt: the row of its image, rising, and the columns `names`."""
    table = columns(path, *(f"instances.list.element.{name}" for name in (*names, "state")))
    cells = table["instances"].combine_chunks()
    flat = pc.list_flatten(cells)
    learnt = pc.is_in(flat.field("state"), pa.array(LABELS)).to_numpy(zero_copy_only=False)
    image = pc.list_parent_indices(cells).to_numpy()[learnt]
    return image, [flat.field(name).to_numpy()[learnt] for name in names]


def columns(path: Path, *names: str) -> pa.Table:
    """Some columns of a shard, dotted where they lie in another; no image is read."""
    return peek_columns(path, names)
