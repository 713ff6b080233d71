"""Raises alarms when the pseudo-labels of a round differ from human labels, or from the round before.

A model that teaches itself can drift slowly: fewer cells, larger cells, one class for all, too high confidence.
Nothing is decided here; the alarms are sentences for a person. Sizes are compared by the
distance of Kolmogorov and Smirnov (Smirnov 1948, "Table for estimating the goodness of fit"). Unlabelled images
that differ from the labelled ones, by microscope or magnification, raise alarms too, and rightly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cellsemi.rounds.calibration.calibration import Calibration
from cellsemi.rounds.cells.instances import State

CELLS_FACTOR = 1.5  # cells per image, accepted or accepted and ignored: this many times more or fewer
SIZE_DISTANCE = 0.3  # of two distributions of area, 0 to 1
SIZE_NOISE = 1.95  # distances that samples of one distribution have once in a thousand: this times sqrt(1/n + 1/m)
SHARE_CHANGE = 0.2  # of a class among the cells, or of the accepted among all that were filtered
LOST_SHARE = 0.05  # a class with at least this share that is gone
ECE_LIMIT = 0.15
ECE_RISE = 0.05  # over the round before
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
KEPT: tuple[State, ...] = ("human", "accepted")
COLUMNS = ("class_id", "area", "state")  # of the cells, which a profile reads


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """The areas of some cells in pixels: each that occurs, rising, and how many cells have it, both int64 (K,).

    Of millions of cells it is a few thousand numbers, and says exactly what the list of all of them would.
    """

    values: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, areas: NDArray[np.int64]) -> Areas:
        """Those of a list."""
        values, counts = np.unique(np.asarray(areas, np.int64), return_counts=True)
        return cls(values, counts.astype(np.int64))

    @classmethod
    def sum(cls, parts: Sequence[Areas]) -> Areas:
        """All of some parts."""
        values = np.concatenate([np.zeros(0, np.int64), *(part.values for part in parts)])
        counts = np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)])
        found, place = np.unique(values, return_inverse=True)
        return cls(found, np.bincount(place, counts, minlength=len(found)).astype(np.int64))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """As `numpy.quantile` of the list, interpolated between its values; ValueError without a cell."""
        if not len(self):
            raise ValueError("expected cells, got none")
        upto, place = self.counts.cumsum(), np.asarray(shares, float) * (len(self) - 1)
        low = self.values[np.searchsorted(upto, np.floor(place), side="right")]
        high = self.values[np.searchsorted(upto, np.ceil(place), side="right")]
        found: list[float] = np.asarray(low + (place - np.floor(place)) * (high - low)).tolist()
        return found

    def share_upto(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the cells that are as large as each value, or smaller: the empirical distribution function."""
        upto = np.concatenate([[0], self.counts.cumsum()])
        return np.asarray(upto[np.searchsorted(self.values, values, side="right")] / len(self), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What some images hold: the areas of their human or accepted cells, by class.

    `filtered` counts the accepted, ignored and rejected cells, `ignored` those of them that leave the loss, 0 for human
    labels. `ece` is the expected calibration error of the teachers by class, of those with a curve of their own.
    """

    images: int
    filtered: int
    areas: Mapping[str, Areas]
    ece: Mapping[str, float]
    ignored: int = 0

    @property
    def cells(self) -> int:
        return sum(len(areas) for areas in self.areas.values())

    @property
    def cells_per_image(self) -> float:
        return self.cells / self.images if self.images else 0.0

    @property
    def not_background_per_image(self) -> float:
        """Accepted and ignored cells: all others are background to the students."""
        return (self.cells + self.ignored) / self.images if self.images else 0.0

    @property
    def accepted_share(self) -> float | None:
        """Of the filtered cells; None where nothing was filtered."""
        return self.cells / self.filtered if self.filtered else None

    def share(self, name: str) -> float:
        """Of a class among the cells."""
        return len(self.areas[name]) / self.cells if self.cells else 0.0

    def to_json(self) -> dict[str, Any]:
        """A summary in plain values; area quantiles are those of QUANTILES."""
        classes = {
            name: {
                "cells": len(areas),
                "share": self.share(name),
                "area_quantiles_px": areas.quantiles(QUANTILES) if len(areas) else None,
                "ece": self.ece.get(name),
            }
            for name, areas in self.areas.items()
        }
        return {
            "images": self.images,
            "cells_per_image": self.cells_per_image,
            "not_background_per_image": self.not_background_per_image,
            "accepted_share": self.accepted_share,
            "classes": classes,
        }


def profile(
    shards: Iterable[tuple[int, pa.Table]], classes: Sequence[str], calibration: Calibration | None = None
) -> Profile:
    """Of images with human labels, or with filtered cells and the `calibration` that they were filtered with.

    They come as `prediction_pairs.cell_columns` gives them, with COLUMNS, a shard in memory at a time. Ignored human
    cells do not count.
    """
    parts: dict[str, Areas] = {name: Areas.sum([]) for name in classes}
    count = filtered = ignored = 0
    for images, cells in shards:
        count += images
        if calibration is not None:
            filtered += len(cells)
            ignored += pc.sum(pc.equal(cells["state"], "ignored")).as_py() or 0
        kept = cells.filter(pc.is_in(cells["state"], pa.array(KEPT)))
        class_id, area = kept["class_id"].to_numpy(), kept["area"].to_numpy()
        for number in np.unique(class_id).tolist():
            parts[classes[number]] = Areas.sum([parts[classes[number]], Areas.of(area[class_id == number])])
    curves = {} if calibration is None else calibration.curves
    ece = {name: c.ece_after for name, c in curves.items() if c.kind == "own" and c.ece_after is not None}
    return Profile(count, filtered, parts, ece, ignored)


def alarms(now: Profile, reference: Profile, called: str) -> list[str]:
    """What of the pseudo-labels is unlike a reference, `called` so: the human labels or the round before.

    One sentence each, with both figures and the limit. No alarm where either holds no image.
    """
    if not now.images or not reference.images:
        return []
    if not now.cells:  # nothing else can be compared then
        return [f"no cell was accepted; {called} hold {reference.cells_per_image:.1f} per image"]
    found = _counts(now, reference, called)
    for name in now.areas:
        found += _of_class(name, now, reference, called)
    return found


def calibration_alarms(now: Profile, before: Profile | None) -> list[str]:
    """Where the confidence of the teachers is off: beyond ECE_LIMIT, or ECE_RISE more than in the round before."""
    found = []
    for name, error in now.ece.items():
        earlier = None if before is None else before.ece.get(name)
        if error > ECE_LIMIT:
            found.append(f"{name}: the calibration error is {error:.3f}, more than {ECE_LIMIT:g}")
        elif earlier is not None and error - earlier > ECE_RISE:
            found.append(f"{name}: the calibration error rose from {earlier:.3f} to {error:.3f}, by over {ECE_RISE:g}")
    return found


def size_distance(a: Areas, b: Areas) -> float:
    """The largest difference of the two empirical distribution functions, 0 to 1; ValueError for an empty one."""
    if not len(a) or not len(b):
        raise ValueError(f"expected two samples, got {len(a)} and {len(b)} values")
    values = np.union1d(a.values, b.values)
    return float(np.abs(a.share_upto(values) - b.share_upto(values)).max())


def _counts(now: Profile, reference: Profile, called: str) -> list[str]:
    compared = [("accepted", now.cells_per_image, reference.cells_per_image)]
    if now.ignored or reference.ignored:
        both = now.not_background_per_image, reference.not_background_per_image
        compared.append(("accepted or ignored", *both))
    found = [
        f"{new:.1f} {what} cells per image, {called} hold {old:.1f}: more than a factor of {CELLS_FACTOR:g}"
        for what, new, old in compared
        if not old / CELLS_FACTOR <= new <= old * CELLS_FACTOR
    ]
    if now.accepted_share is not None and reference.accepted_share is not None:
        change = now.accepted_share - reference.accepted_share
        if abs(change) > SHARE_CHANGE:
            found.append(
                f"{now.accepted_share:.0%} of the cells are accepted, in {called} {reference.accepted_share:.0%}: "
                f"more than {SHARE_CHANGE:.0%} apart"
            )
    return found


def _of_class(name: str, now: Profile, reference: Profile, called: str) -> list[str]:
    new, old = now.areas[name], reference.areas[name]
    share, before = now.share(name), reference.share(name)
    if not len(new) and before >= LOST_SHARE:
        return [f"{name}: none was accepted, in {called} it is {before:.0%} of the cells"]
    found = []
    if reference.cells and abs(share - before) > SHARE_CHANGE:
        found.append(
            f"{name}: {share:.0%} of the accepted cells, in {called} {before:.0%}: more than {SHARE_CHANGE:.0%} apart"
        )
    if len(new) and len(old):
        distance = size_distance(new, old)
        if distance > max(SIZE_DISTANCE, SIZE_NOISE * math.sqrt(1 / len(new) + 1 / len(old))):
            found.append(
                f"{name}: half of the accepted cells have less than {new.quantiles([0.5])[0]:.0f} px, in {called} "
                f"{old.quantiles([0.5])[0]:.0f} px, and the distance of the sizes is {distance:.2f}, more than "
                f"{SIZE_DISTANCE:g}"
            )
    return found
