"""Chooses the pseudo-labelled images of a round: those that are labelled best come first.

Curriculum labelling (Cascante-Bonilla et al. 2021, arXiv 2001.06001) takes a growing share of the unlabelled images,
the surest first, since early errors are what later rounds learn from. Images are ranked within their class, so that a
hard class is not left out whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cellsemi.rounds.cells import rle
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store.schemas import ImageRecord


def share_of_round(shares: Sequence[float], round: int) -> float:
    """The share of the images that round 1, 2, .. uses; the last one holds for all rounds after it."""
    return shares[min(round, len(shares)) - 1]


def label_quality(cells: Instances) -> float:
    """How well an image is labelled, in [0, 1]: of the area that may be cell, what is accepted, by its quality.

    What may be cell are the accepted and the ignored masks; of an image whose models state where they are sure that
    there is nothing, all other pixels. 0 for an image without accepted cells.
    """
    accepted = cells.in_state("accepted")
    good = float((accepted.quality * accepted.area).sum())
    if cells.background is None:
        possible = float(accepted.area.sum() + cells.in_state("ignored").area.sum())
    else:
        possible = float((~rle.decode(cells.background, cells.height, cells.width)).sum())
    return min(good / possible, 1.0) if possible else 0.0


class Ranked(NamedTuple):
    """An image that teaches: its class, the stated one, else that of most accepted cells; and its `label_quality`."""

    image_id: str
    group: str
    quality: float


def rank(record: ImageRecord) -> Ranked | None:
    """The rank of a pseudo-labelled image; None without accepted cells: it teaches nothing in any case."""
    cells = record.instances
    most = None if cells is None else cells.in_state("accepted").main_class()
    if cells is None or most is None:
        return None
    return Ranked(record.image_id, record.cell_type or str(most), label_quality(cells))


def held_back(images: Iterable[Ranked], share: float) -> set[str]:
    """The ids of the images that are left to later rounds: the worst labelled of each class but the best `share`.

    At least one image of each class is used.
    """
    ranked: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for image in images:
        ranked[image.group].append((-image.quality, image.image_id))
    late: set[str] = set()
    for found in ranked.values():
        kept = max(1, round(share * len(found)))
        late.update(image_id for _, image_id in sorted(found)[kept:])
    return late
