"""Describes what a model computed on its way to the cells of one image: maps, boxes, how active its parts were.

A predictor may have a method `explain`; one that has none still has its cells. Everything that is to be looked at is
made small enough for a screen (SHOWN_PX), so that an explanation of a large image is no larger than one of a small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances

SHOWN_PX = 1024  # longer side of a map, at most

Part = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image, half-open
Heat = NDArray[np.float32]
Colours = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """One picture of an image, or of the `part` of it that the network saw (None: the whole image).

    `values` are float32 (h, w), of which `low` to `high` are shown, or colours uint8 (h, w, 3) with a `legend` of the
    same kind. Maps of one `group` belong together. `class_id`: it is about this class.
    """

    group: str
    name: str
    values: Heat | Colours
    note: str
    low: float = 0.0
    high: float = 1.0
    part: Part | None = None
    legend: Colours | None = None
    class_id: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes float32 (n, 4) as x0, y0, x1, y1 in pixels of the image, best first, with scores float32 (n,) in [0, 1]."""

    name: str
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    note: str
    part: Part | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What one model computed for one image.

    `cells` are those of `predict`. `dropped` are cells that were found and left out before, each with its reason.
    `activations` is the mean absolute activation of each component of the network (`shares`). `notes` are sentences.
    """

    cells: Instances
    maps: tuple[Map, ...] = ()
    boxes: tuple[Boxes, ...] = ()
    activations: Mapping[str, float] = field(default_factory=dict)
    dropped: Instances | None = None
    notes: tuple[str, ...] = ()

    def shares(self) -> dict[str, float]:
        """The share of activation of each component: its mean absolute activation over the sum of those of all.

        The mean goes over all numbers that the component puts out for the window that the network saw: all channels,
        places, levels and boxes. The shares of one image add up to 1; without any activation there are none.

        >>> Explanation(Instances.empty(1, 1), activations={"stem": 3.0, "head": 1.0}).shares()
        {'stem': 0.75, 'head': 0.25}
        """
        total = sum(self.activations.values())
        return {name: value / total for name, value in self.activations.items()} if total else {}


class Explains(Protocol):
    """A predictor that says what its network computed."""

    def explain(self, image: Any, scale: float = 1.0) -> Explanation:
        """The explanation of one (H, W) or (H, W, 3) image, enlarged `scale` times before; cells as in `predict`."""
        ...


class Predicts(Protocol):
    """What `explanation_of` needs of a predictor; see models.base.Predictor."""

    def predict(self, images: Sequence[Any], scale: float = 1.0) -> list[Instances]:
        """Cells of each image."""
        ...


def explanation_of(predictor: Predicts, image: Any, scale: float = 1.0) -> Explanation:
    """What a predictor says of an image; of one whose family shows nothing of its network, its cells alone."""
    if hasattr(predictor, "explain"):
        return cast(Explains, predictor).explain(image, scale)
    (cells,) = predictor.predict([image], scale)
    return Explanation(cells, notes=("Its family shows nothing of its network: only its cells are shown.",))


def in_other_classes(
    found: Explanation, renamed: Callable[[Instances], Instances], ids: Sequence[int], left_out: int
) -> Explanation:
    """The explanation with cells `renamed` to the classes of a run, and the class ids of its maps led by `ids`."""
    maps = tuple(
        each if each.class_id is None else replace(each, class_id=int(ids[each.class_id]))
        for each in found.maps
        if each.class_id is None or int(ids[each.class_id]) != left_out
    )
    dropped = None if found.dropped is None else renamed(found.dropped)
    return replace(found, cells=renamed(found.cells), maps=maps, dropped=dropped)


def small(values: NDArray[Any], most_px: int = SHOWN_PX) -> Heat:
    """float32 (..., H, W) averaged by area to at most `most_px` a side; smaller ones are as they were."""
    import cv2

    height, width = values.shape[-2:]
    factor = most_px / max(height, width)
    if factor >= 1:
        return values.astype(np.float32, copy=False)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    flat = values.reshape(-1, height, width).astype(np.float32, copy=False)
    done: Heat = np.stack([cv2.resize(np.ascontiguousarray(each), size, interpolation=cv2.INTER_AREA) for each in flat])
    averaged: Heat = done.reshape(*values.shape[:-2], *done.shape[-2:])
    return averaged
