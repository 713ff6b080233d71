"""Ranks unlabelled images by what a person's correction is worth: which share of their labels it is expected to change.

An accepted cell of quality q is wrong with probability 1 - q; one that is ignored or rejected is a cell after all with
probability q; and where neither a cell nor sure background is, half a cell of the usual size is expected in the area
of one. The sum is the expected number of changes, the expected model change of active learning (Settles 2009, section
3.3) counted in labels. A student sees as many crops of each image, so it is their share of the image's labels that
counts: by their number, the images with most cells would always lead. It is raised for images that the human labels do
not cover: by the share of cells whose size they lack, and by a group that they lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import IGNORE, draw_instance_map
from cellsemi.rounds.cells.instances import Instances

SIZES = (2.5, 97.5)  # quantiles in per cent of the human areas of a class: beyond them a size is new
FEW = 3  # labels that are added to those of an image, so that one doubtful speck alone is not all of its labels
IN_UNSURE = 0.5  # cells that are expected in an area of one where nothing is known
NEW_GROUP = 0.5  # what a group without human labels adds


@dataclass(frozen=True, slots=True)
class Known:
    """What the human labels cover: the usual areas of each class in pixels, and the groups of their images."""

    low: NDArray[np.float64]  # (classes,), nan for a class without cells
    high: NDArray[np.float64]
    median: float  # of all cells
    groups: frozenset[str]

    @classmethod
    def of(cls, areas: Mapping[int, Sequence[int]], groups: Sequence[str | None], classes: int) -> Known:
        """From the areas of the human cells by class id, and the groups of the human-labelled images."""
        low, high = np.full(classes, np.nan), np.full(classes, np.nan)
        for class_id, found in areas.items():
            if len(found):
                low[class_id], high[class_id] = np.percentile(found, SIZES)
        everything = [area for found in areas.values() for area in found]
        median = float(np.median(everything)) if everything else 0.0
        return cls(low, high, median, frozenset(group for group in groups if group is not None))


@dataclass(frozen=True, slots=True)
class Worth:
    """The parts of an image's worth: expected changes by kind of label, and the two kinds of novelty in [0, 1]."""

    sure: float  # accepted cells that are expected to stay
    wrong: float  # of the accepted cells
    doubtful: float  # of the ignored and rejected ones
    missed: float  # where nothing is known
    new_sizes: float  # share of the accepted and ignored cells whose size the human labels lack
    new_group: bool

    @property
    def changes(self) -> float:
        """Labels that a correction is expected to change."""
        return self.wrong + self.doubtful + self.missed

    @property
    def share(self) -> float:
        """Their share of the labels that the image should have, in [0, 1)."""
        return self.changes / (self.sure + self.changes + FEW)

    @property
    def total(self) -> float:
        """What the ranking goes by."""
        return self.share * (1 + self.new_sizes + NEW_GROUP * self.new_group)

    def reason(self) -> str:
        """In words, for a person."""
        parts = [f"{self.changes:.0f} labels of {self.sure + self.changes:.0f} are expected to change"]
        kinds = {"accepted": self.wrong, "doubtful": self.doubtful, "missed": self.missed}
        parts[0] += f" ({', '.join(f'{value:.0f} {name}' for name, value in kinds.items() if value >= 0.5) or 'few'})"
        if self.new_sizes >= 0.2:
            parts.append(f"{self.new_sizes:.0%} of the cells have sizes that the human labels lack")
        if self.new_group:
            parts.append("a group without human labels")
        return "; ".join(parts)


def worth(cells: Instances, group: str | None, known: Known, ignore_dilation_px: int) -> Worth:
    """The worth of correcting an image with these filtered pseudo-labels (accepted, ignored, rejected)."""
    accepted = cells.in_state("accepted")
    others = cells.in_state("ignored", "rejected")
    shown = cells.in_state("accepted", "ignored")
    return Worth(
        sure=float(accepted.quality.astype(np.float64).sum()),
        wrong=float((1 - accepted.quality.astype(np.float64)).sum()),
        doubtful=float(others.quality.astype(np.float64).sum()),
        missed=_missed(cells, known, ignore_dilation_px),
        new_sizes=_new_sizes(shown, known),
        new_group=group is not None and bool(known.groups) and group not in known.groups,
    )


def _missed(cells: Instances, known: Known, ignore_dilation_px: int) -> float:
    """Cells that are expected where the image has neither a mask nor sure background."""
    if cells.background is None or not known.median:
        return 0.0
    nothing_known = draw_instance_map(cells, ignore_dilation_px) == IGNORE
    nothing_known &= ~masks.union_map(cells.in_state("ignored", "rejected"), ignore_dilation_px)
    return IN_UNSURE * float(nothing_known.sum()) / known.median


def _new_sizes(cells: Instances, known: Known) -> float:
    if not len(cells):
        return 0.0
    low, high = known.low[cells.class_id], known.high[cells.class_id]
    return float(1 - ((cells.area >= low) & (cells.area <= high)).mean())
