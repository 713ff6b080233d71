"""Compares predictions of several makers with human labels, on the images that all of them have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.figures import Interval
from cellsemi.rounds.evaluation.metrics import Floats, ImageScore, Summary, image_values, score_image, summarise
from cellsemi.rounds.seeds import derive_seed

SAMPLES = 2000  # resamples of the images
CONFIDENCE = 0.95
ONLY_CLASS = ("cell",)


@dataclass(frozen=True, slots=True)
class Scored:
    """A maker of predictions and its score on each image; `classes` is empty where it does not tell classes apart."""

    name: str
    scores: tuple[ImageScore, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """The figures of one maker; `difference` is its mAP minus that of the first, image by image."""

    name: str
    summary: Summary
    map: Interval
    ap50: float
    difference: Interval | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "summary": asdict(self.summary)}


def compare(scored: Sequence[Scored]) -> list[Standing]:
    """The figures of each maker, with bootstrap intervals over images; ValueError without a maker or an image."""
    first = image_values(scored[0].scores)
    found = []
    for each in scored:
        values = image_values(each.scores)
        found.append(
            Standing(
                name=each.name,
                summary=summarise(each.scores, each.classes),
                map=_interval(values),
                ap50=float(np.mean([score.total.ap_at[0] for score in each.scores])),
                difference=None if each is scored[0] else _interval(values - first),
            )
        )
    return found


def score_in(image_id: str, predicted: Instances, truth: Instances, threshold: float = 0.0) -> ImageScore:
    """Score one image; what lies on ignored cells of the truth is not scored."""
    kept, known = scorable(predicted, truth)
    return score_image(image_id, known, kept, threshold)


def renumbered(cells: Instances, own: Sequence[str], common: Sequence[str]) -> Instances:
    """The cells with class ids of `common`, by the names in `own`; all of class 0 where those are not in it."""
    if not own or not set(own) <= set(common):
        return cells.with_(class_id=0)
    table = np.array([common.index(name) for name in own], np.int32)
    return cells.with_(class_id=table[cells.class_id])


def common_classes(truth: Sequence[str], predicted: Sequence[str]) -> tuple[str, ...]:
    """The class names of both; ONLY_CLASS when they have none in common, so that no class can be compared."""
    if not set(truth) & set(predicted):
        return ONLY_CLASS
    return tuple(dict.fromkeys((*truth, *predicted)))


def _interval(values: Floats) -> Interval:
    return Interval.of(values, SAMPLES, CONFIDENCE, derive_seed(0, "comparison"))
