"""Computes how good predictions are: the Kaggle Sartorius metric, precision, recall, F1, mean IoU.

Per image and per IoU threshold t in .50, .55 ... .95: TP / (TP + FP + FN), where a true positive is a pair of
a one-to-one matching with IoU strictly above t, whatever the class; the mean over t, then over images
("Sartorius - Cell Instance Segmentation", Kaggle 2021, evaluation page). Masks may overlap here, so the
matching is the largest possible one at each t. An image with no true cell scores 1 when nothing is predicted
and 0 otherwise. Nothing is capped: 800 cells are 800 cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import gains_of, match, overlap
from cellsemi.rounds.cells.overlap import TWENTIETHS, Overlap

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tally:
    """The matches of one image, of all classes or of one: `tp` at each of the ten thresholds."""

    n_truth: int
    n_predicted: int
    tp: tuple[int, ...]
    mean_iou: float  # of the pairs matched at .5; 0 when there is none

    @property
    def tp50(self) -> int:
        """Matches at IoU > .5."""
        return self.tp[0]

    @property
    def fp50(self) -> int:
        """Predictions without a match at IoU > .5."""
        return self.n_predicted - self.tp50

    @property
    def fn50(self) -> int:
        """True cells without a match at IoU > .5."""
        return self.n_truth - self.tp50

    @property
    def ap_at(self) -> tuple[float, ...]:
        """TP / (TP + FP + FN) at each threshold; 1 when there is neither truth nor prediction."""
        both = self.n_truth + self.n_predicted
        return tuple(tp / (both - tp) if both else 1.0 for tp in self.tp)

    @property
    def ap(self) -> float:
        """The image's score: the mean of `ap_at`."""
        return sum(self.ap_at) / len(self.tp)


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image scored: whatever the class, and within each class id that truth or prediction holds."""

    image_id: str
    total: Tally
    by_class: Mapping[int, Tally]


@dataclass(frozen=True, slots=True)
class Summary:
    """Many images. Precision, recall, F1 and mean IoU count all cells together, at IoU > .5."""

    images: int
    map: float
    precision: float
    recall: float
    f1: float
    mean_iou: float
    class_map: Mapping[str, float | None]  # None: no image holds the class, neither in truth nor in prediction


@dataclass(frozen=True, slots=True)
class Threshold:
    """A score from which predictions are kept, and the mAP that this gives on the images it was chosen on."""

    value: float
    map: float


def score_image(image_id: str, truth: Instances, predicted: Instances, threshold: float = 0.0) -> ImageScore:
    """Score the predictions with a score of at least `threshold`."""
    enough = predicted.score >= threshold
    kept = predicted if enough.all() else predicted.select(enough)
    found = overlap(truth, kept)
    total = _tally(found)
    classes = np.union1d(truth.class_id, kept.class_id).tolist()
    if len(classes) == 1:
        return ImageScore(image_id, total, {classes[0]: total})
    by_class = {c: _tally(found.part(truth.class_id == c, kept.class_id == c)) for c in classes}
    return ImageScore(image_id, total, by_class)


def scores_from(truth: Instances, predicted: Instances, limits: Sequence[float]) -> list[float]:
    """The score of an image when predictions with a score of at least each of the limits are kept.

    That of `score_image`, but overlaps and matchings are computed once.
    """
    scores, matched = _matched(predicted, truth)
    kept = [len(scores) - int(np.count_nonzero(scores < limit)) for limit in limits]
    return [Tally(len(truth), count, tuple(matched[count].tolist()), mean_iou=0.0).ap for count in kept]


def summarise(scores: Sequence[ImageScore], classes: Sequence[str]) -> Summary:
    """The means over images, and the counts over cells. A class counts on the images that hold it.

    ValueError without images: there is no honest number for none.
    """
    if not scores:
        raise ValueError("expected at least one scored image, got none")
    totals = [score.total for score in scores]
    tp, fp, fn = (sum(getattr(tally, name) for tally in totals) for name in ("tp50", "fp50", "fn50"))
    means = {name: class_values(scores, class_id) for class_id, name in enumerate(classes)}
    return Summary(
        images=len(scores),
        map=float(image_values(scores).mean()),
        precision=_share(tp, tp + fp, empty=not fn),
        recall=_share(tp, tp + fn, empty=not fp),
        f1=_share(2 * tp, 2 * tp + fp + fn, empty=True),
        mean_iou=_share(sum(tally.mean_iou * tally.tp50 for tally in totals), tp, empty=False),
        class_map={name: float(values.mean()) if len(values) else None for name, values in means.items()},
    )


def image_values(scores: Sequence[ImageScore]) -> Floats:
    """The score of each image, float64 (N,)."""
    return np.array([score.total.ap for score in scores], dtype=np.float64)


def class_values(scores: Sequence[ImageScore], class_id: int) -> Floats:
    """The score within one class on each image that holds it, float64."""
    return np.array([score.by_class[class_id].ap for score in scores if class_id in score.by_class], np.float64)


def on_common(a: Sequence[ImageScore], b: Sequence[ImageScore]) -> tuple[list[ImageScore], list[ImageScore]]:
    """The scores of the images that both have: masks of another tool may lack some of the other's.

    ValueError when each has images that the other lacks: then they are of different data.
    """
    ids_a, ids_b = {score.image_id for score in a}, {score.image_id for score in b}
    if not (ids_a <= ids_b or ids_b <= ids_a):
        raise ValueError(f"expected the same images, got {len(a)} and {len(b)} of which neither are among the others")
    return [score for score in a if score.image_id in ids_b], [score for score in b if score.image_id in ids_a]


def paired_values(a: Sequence[ImageScore], b: Sequence[ImageScore]) -> tuple[Floats, Floats]:
    """The scores of two models on the same images, image by image; ValueError when the images differ."""
    _check_paired(a, b)
    return image_values(a), image_values(b)


def class_differences(a: Sequence[ImageScore], b: Sequence[ImageScore], class_id: int) -> Floats:
    """a - b within one class, on each image whose truth holds it, float64.

    Cells of the class that a model invents elsewhere cost it in the mAP of all classes together; here they
    would let one wrong guess on one image outweigh every image that really holds the class.
    """
    _check_paired(a, b)
    return np.array(
        [
            first.by_class[class_id].ap - second.by_class[class_id].ap
            for first, second in zip(a, b, strict=True)
            if class_id in first.by_class and first.by_class[class_id].n_truth
        ],
        dtype=np.float64,
    )


# --- the score threshold ------------------------------------------------------------------------------


def best_threshold(pairs: Iterable[tuple[Instances, Instances]], max_candidates: int = 200) -> Threshold:
    """The score threshold with the largest mAP on (predicted, truth) images: validation images, never test.

    The sweep is exact: overlaps are computed once, and adding predictions by falling score extends the
    largest matching step by step. Candidates are the distinct scores, or `max_candidates` of them evenly
    spread by rank. Of equal ones the lowest is taken. Keeping nothing at all is not a candidate.
    """
    curves = [_curve(predicted, truth) for predicted, truth in pairs]
    if not curves:
        raise ValueError("expected at least one image to choose a threshold on, got none")
    distinct = np.unique(np.concatenate([scores for scores, _ in curves]))
    if not len(distinct):
        return Threshold(0.0, float(np.mean([ap[0] for _, ap in curves])))
    ranks = np.linspace(0, len(distinct) - 1, min(max_candidates, len(distinct))).round().astype(int)
    candidates = distinct[ranks]
    means = np.mean([ap[len(s) - np.searchsorted(s, candidates)] for s, ap in curves], axis=0)
    best = int(np.argmax(means))
    return Threshold(float(candidates[best]), float(means[best]))


def _curve(predicted: Instances, truth: Instances) -> tuple[NDArray[np.float32], Floats]:
    """Rising scores (P,), and the image's score when its 0, 1 ... P best predictions are kept (P + 1,)."""
    scores, matched = _matched(predicted, truth)
    return scores, _scores_of(matched, len(truth))


def _matched(predicted: Instances, truth: Instances) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rising scores (P,), and the matches of the 0, 1 ... P best predictions at each threshold (P + 1, 10)."""
    order = np.argsort(-predicted.score, kind="stable")
    return predicted.score[order][::-1], _matches(overlap(truth, predicted), order)


def kept_curve(found: Overlap, order: NDArray[np.int64]) -> Floats:
    """float64 (K + 1,): the image's score when the first 0, 1 ... K of the predictions named by `order` are kept."""
    return _scores_of(_matches(found, order), found.shape[0])


def _matches(found: Overlap, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (K + 1, 10): the largest matching of the first 0, 1 ... K predictions at each threshold."""
    gained = gains_of(found.part(np.arange(found.shape[0]), order))
    matched = np.zeros((len(order) + 1, len(TWENTIETHS)), np.int64)
    np.cumsum(gained, axis=0, out=matched[1:])
    return matched


def _scores_of(matched: NDArray[np.int64], n_truth: int) -> Floats:
    kept = np.arange(len(matched))
    total = np.zeros(len(kept))
    for tp in matched.T:
        wanted = n_truth + kept - tp
        total += np.where(wanted == 0, 1.0, tp / np.maximum(wanted, 1))
    return total / len(TWENTIETHS)


# --- COCO ---------------------------------------------------------------------------------------------

COCO_IOUS = np.linspace(0.5, 0.95, 10)
COCO_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True)
class Coco:
    """COCO's mean average precision over all images together, at IoU .5 to .95 and at .5."""

    map: float
    map50: float


def coco_map(pairs: Iterable[tuple[Instances, Instances]]) -> Coco | None:
    """COCO's mean average precision of masks, of (predicted, truth) images; None where no cell is true.

    As pycocotools computes it (Lin et al. 2014), but of all predictions: its cap of 100 an image is lifted. It ranks
    the predictions of all images together by their score, and no threshold on the score is taken.
    """
    found: dict[int, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = {}
    true: Counter[int] = Counter()
    for predicted, truth in pairs:
        true.update(truth.class_id.tolist())
        for c in np.unique(predicted.class_id).tolist():
            own = predicted.select(predicted.class_id == c)
            own = own.select(np.argsort(-own.score, kind="stable"))
            hits = _coco_hits(overlap(truth.select(truth.class_id == c), own))
            found.setdefault(c, []).append((own.score, hits))
    precisions = [_coco_precision(found.get(c, []), count) for c, count in true.items()]
    if not precisions:
        return None
    means = np.mean(precisions, axis=0)
    return Coco(float(means.mean()), float(means[0]))


def _coco_hits(pairs: Overlap) -> NDArray[np.bool_]:
    """bool (P, 10): whether each predicted mask, best first, takes a true one that none before it took."""
    hits = np.zeros((pairs.shape[1], len(COCO_IOUS)), bool)
    taken = np.zeros((pairs.shape[0], len(COCO_IOUS)), bool)
    order = np.lexsort((pairs.rows, pairs.iou, pairs.columns))[::-1]  # of equal ones the later true mask, as there
    for k in order[np.argsort(pairs.columns[order], kind="stable")].tolist():
        row, column = pairs.rows[k], pairs.columns[k]
        takes = (pairs.iou[k] >= COCO_IOUS) & ~taken[row] & ~hits[column]
        taken[row] |= takes
        hits[column] |= takes
    return hits


def _coco_precision(images: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]], true: int) -> Floats:
    """float64 (10,): the average precision at each IoU, over COCO_RECALLS, for so many true masks."""
    if not images:
        return np.zeros(len(COCO_IOUS))
    order = np.argsort(-np.concatenate([scores for scores, _ in images]), kind="stable")
    hits = np.cumsum(np.concatenate([hit for _, hit in images])[order], axis=0)
    precision = hits / np.arange(1, len(order) + 1)[:, None]
    envelope = np.vstack([np.maximum.accumulate(precision[::-1])[::-1], np.zeros((1, len(COCO_IOUS)))])
    reached = [np.searchsorted(hits[:, k] / true, COCO_RECALLS) for k in range(len(COCO_IOUS))]
    return np.array([envelope[places, k].mean() for k, places in enumerate(reached)])


# --- parts --------------------------------------------------------------------------------------------


def _tally(found: Overlap) -> Tally:
    n_truth, n_predicted = found.shape
    rows, columns = match(found)
    return Tally(
        n_truth=n_truth,
        n_predicted=n_predicted,
        tp=tuple(gains_of(found).sum(axis=0).tolist()),
        mean_iou=float(found.iou_of(rows, columns).mean()) if len(rows) else 0.0,
    )


def _check_paired(a: Sequence[ImageScore], b: Sequence[ImageScore]) -> None:
    if [score.image_id for score in a] != [score.image_id for score in b]:
        raise ValueError(f"expected the same images in the same order, got {len(a)} and {len(b)} that differ")


def _share(part: float, whole: float, empty: bool) -> float:
    """part / whole; of nothing it is 1 when there was nothing to find either (`empty`), else 0."""
    return part / whole if whole else float(empty)
