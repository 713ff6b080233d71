"""Finds label issues: human labels that models which never trained on them contradict with confidence.

Confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70) finds wrong labels from predictions made out of
sample: a prediction counts as sure from the mean confidence of those that agree with the labels of its class.
There one sample has one class; here predictions and human cells are matched by IoU first, so that a label can be
wrong by its class, by its outline, by standing where nothing is, or by not standing where something is. Nothing
is changed or left out: the list is for a person, who may hand it to the next run (datasets/ignore_label_issues.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.calibration.calibration import FOLDS, calibrate
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import hits, match, overlap, scorable
from cellsemi.rounds.cells.overlap import Overlap

Kind = Literal["not-found", "outline", "class", "not-drawn"]
KINDS: tuple[Kind, ...] = ("not-found", "outline", "class", "not-drawn")

APART = 6  # twentieths of IoU: up to .30 two masks are not of the same cell
ALIKE = 12  # above .60 they agree on its outline
SURE = 0.5  # no prediction that is likelier wrong than right is sure
QUALITY_TIE = 1e-6  # a quality this little below a mean of equal ones is equal to it: calibration makes level steps

Judged = tuple[str, Instances, Instances]  # image id, predictions, human cells (with those to be ignored)


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """One label to check again.

    `cell` is the index of the human cell in its image, None where nobody drew one; `seen` that of the prediction in
    Findings.seen, None where there is none. `bbox` is x0, y0, x1, y1, half-open: of the human cell, else of the
    prediction. `iou`, with the prediction (of `not-found` and `not-drawn`: the largest there is). `confidence`
    in [0, 1]: the calibrated quality of the prediction; of a cell that was not found, how many of the human
    cells of its class are. `rle` is the mask of the prediction where nobody drew one, else None.
    """

    image_id: str
    kind: Kind
    cell: int | None
    seen: int | None
    bbox: tuple[int, int, int, int]
    drawn_class: str | None
    seen_class: str | None
    iou: float
    confidence: float
    reason: str
    rle: bytes | None

    def to_row(self) -> dict[str, object]:
        """Flat plain values, named as in the LABEL_ISSUES table."""
        values = asdict(self)
        values.pop("seen")
        values["rle"] = None if self.rle is None else self.rle.decode("ascii")
        return values | dict(zip(("x0", "y0", "x1", "y1"), values.pop("bbox"), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """Per class id: the quality from which a prediction is sure, and the share of human cells that are found.

    float64 (C,). `sure` is infinite where no prediction is right: no label can be doubted then.
    """

    sure: NDArray[np.float64]
    found: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """The label issues, the surest first; by image id the calibrated predictions and the Trust that judged them."""

    issues: tuple[LabelIssue, ...]
    seen: dict[str, Instances]
    trust: dict[str, Trust]


def find_label_issues(images: Sequence[Judged], classes: Sequence[str], min_samples: int) -> Findings:
    """Judge the human cells of images by predictions of models that trained on none of them.

    Image ids are distinct. Cells to be ignored are neither judged nor asked for (matching.scorable). Calibration
    and Trust of an image come from the labels of other images, in FOLDS folds; `min_samples` is that of
    `calibrate`. A single image has no others: no prediction is sure there.
    """
    pairs = [scorable(predicted, truth) for _, predicted, truth in images]
    found = Findings((), {}, {})
    issues: list[LabelIssue] = []
    for k in range(min(FOLDS, len(pairs))):
        others = [pair for i, pair in enumerate(pairs) if i % FOLDS != k]
        calibration = calibrate(others, classes, min_samples)
        trust = measure_trust([(calibration.apply(cells), human) for cells, human in others], len(classes))
        for (image_id, _, truth), (predicted, human) in zip(images[k::FOLDS], pairs[k::FOLDS], strict=True):
            cells = calibration.apply(predicted)
            place = np.flatnonzero([state == "human" for state in truth.state])
            found.seen[image_id], found.trust[image_id] = cells, trust
            issues += issues_of(_Image(image_id, cells, human, place, overlap(human, cells)), trust, classes)
    issues.sort(key=lambda s: (-s.confidence, s.image_id, s.bbox, KINDS.index(s.kind)))
    return replace(found, issues=tuple(issues))


def measure_trust(judged: Sequence[tuple[Instances, Instances]], n_classes: int) -> Trust:
    """From (calibrated predictions, human cells): how sure predictions are that agree, how many cells are found.

    A class without a right prediction takes the mean over all classes. A prediction is right as in `hits`, a
    cell found when any prediction overlaps it at IoU > .3; its share follows Laplace's rule.
    """
    right = [cells.select(hits(cells, human)) for cells, human in judged]
    quality = _joined([cells.quality for cells in right]).astype(np.float64)
    of_class = _joined([cells.class_id for cells in right])
    drawn = _joined([human.class_id for _, human in judged])
    met = _joined([_above(overlap(human, cells), APART).has_row() for cells, human in judged])
    everyone = quality.mean() if len(quality) else np.inf
    sure, found = np.full(n_classes, everyone), np.zeros(n_classes)
    for c in range(n_classes):
        own = drawn == c
        found[c] = (np.count_nonzero(met[own]) + 1) / (np.count_nonzero(own) + 2)
        if (of_class == c).any():
            sure[c] = quality[of_class == c].mean()
    return Trust(np.maximum(sure - QUALITY_TIE, SURE), found)


# --- one image ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """Calibrated predictions and human cells of an image, the latter's index among all its cells, and overlaps."""

    image_id: str
    seen: Instances
    human: Instances
    place: NDArray[np.intp]
    found: Overlap

    def issue(
        self, kind: Kind, row: int | None, column: int | None, iou: float, confidence: float, classes: Sequence[str]
    ) -> LabelIssue:
        """The label issue of human cell `row` and prediction `column`."""
        cells, at = (self.human, row) if row is not None else (self.seen, column)
        assert at is not None, "a label issue is of a cell or of a prediction"
        x0, y0, x1, y1 = cells.bbox[at].tolist()
        drawn = None if row is None else classes[self.human.class_id[row]]
        seen = None if column is None else classes[self.seen.class_id[column]]
        return LabelIssue(
            image_id=self.image_id,
            kind=kind,
            cell=None if row is None else int(self.place[row]),
            seen=column,
            bbox=(x0, y0, x1, y1),
            drawn_class=drawn,
            seen_class=seen,
            iou=float(iou),
            confidence=float(confidence),
            reason=_reason(kind, drawn, seen, iou, confidence),
            rle=None if row is not None else cells.rle[at],
        )


def issues_of(image: _Image, trust: Trust, classes: Sequence[str]) -> Iterator[LabelIssue]:
    """The label issues of one image; a human cell may be one by its outline and by its class."""
    found, quality = image.found, image.seen.quality
    sure = np.flatnonzero(quality >= trust.sure[image.seen.class_id])
    by_sure = found.part(np.arange(len(image.human)), sure)
    _, nearest = found.best()
    for row in np.flatnonzero(~_above(found, APART).has_row()).tolist():
        share = trust.found[image.human.class_id[row]]
        yield image.issue("not-found", row, None, nearest[row], share, classes)
    best, best_iou = by_sure.best()
    for row in np.flatnonzero(_above(by_sure, APART).has_row() & ~_above(found, ALIKE).has_row()).tolist():
        column = int(sure[best[row]])
        yield image.issue("outline", row, column, best_iou[row], quality[column], classes)
    rows, columns = match(by_sure)
    places = zip(rows.tolist(), sure[columns].tolist(), by_sure.iou_of(rows, columns).tolist(), strict=True)
    for row, column, iou in places:
        if image.human.class_id[row] != image.seen.class_id[column]:
            yield image.issue("class", row, column, iou, quality[column], classes)
    _, nearest = found.turned().best()
    for column in sure[~_above(by_sure, APART).has_column()].tolist():
        yield image.issue("not-drawn", None, column, nearest[column], quality[column], classes)


def _above(found: Overlap, twentieths: int) -> Overlap:
    return found.where(found.above(twentieths))


def _reason(kind: Kind, drawn: str | None, seen: str | None, iou: float, confidence: float) -> str:
    return {
        "not-found": f"no model sees this {drawn} (IoU {iou:.2f} at most); {confidence:.0%} of its class are found",
        "outline": f"the models are sure of another outline (IoU {iou:.2f})",
        "class": f"drawn as {drawn}, the models are sure of {seen} (IoU {iou:.2f})",
        "not-drawn": f"the models are sure of a cell ({seen}) that nobody drew (IoU {iou:.2f} at most)",
    }[kind]


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0)
