"""The sweep against trying every limit on every filtered set, with a matching that tries every pairing."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.rounds import FilterConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.threshold_sweep import collect, sweep

SIDE = 16
OBJECTIVES = ["f-beta", "map"]

# A cell: x, y, width, height, class, quality and score in tenths. They stand close, so that they compete.
Cell = tuple[int, int, int, int, int, int, int]
Image = tuple[list[Cell], list[Cell]]
CELLS = st.tuples(
    *(st.integers(0, 2), st.integers(0, 2), st.integers(3, 5), st.integers(3, 5)),
    *(st.integers(0, 1), st.sampled_from([1, 3, 4, 6, 9]), st.integers(1, 9)),
)
IMAGES = st.lists(st.tuples(st.lists(CELLS, max_size=5), st.lists(CELLS, max_size=3)), max_size=3)


def instances(cells: list[Cell]) -> Instances:
    crops = [(np.ones((h, w), bool), x, y) for x, y, w, h, *_ in cells]
    classes, quality, score = (np.array([cell[i] for cell in cells], np.float32) for i in (4, 5, 6))
    return masks.from_crops(SIDE, SIDE, crops, class_id=classes, quality=quality / 10, score=score / 10)


def pairs(images: list[Image]) -> list[tuple[Instances, Instances]]:
    return [(instances(predicted), instances(truth)) for predicted, truth in images]


# --- the slow reference -------------------------------------------------------------------------------


def iou(a: Cell, b: Cell) -> Fraction:
    first, second = (set(itertools.product(range(x, x + w), range(y, y + h))) for x, y, w, h in (a[:4], b[:4]))
    return Fraction(len(first & second), len(first | second))


def matched(predicted: list[Cell], truth: list[Cell], threshold: Fraction) -> int:
    """The largest one-to-one matching within the class, by trying everything."""
    if not predicted:
        return 0
    first, rest = predicted[0], predicted[1:]
    most = matched(rest, truth, threshold)
    for i, true in enumerate(truth):
        if first[4] == true[4] and iou(first, true) > threshold:
            most = max(most, 1 + matched(rest, truth[:i] + truth[i + 1 :], threshold))
    return most


def objective(images: list[Image], config: FilterConfig) -> float:
    if config.objective == "f-beta":
        tp = sum(matched(p, t, Fraction(1, 2)) for p, t in images)
        kept, truths, b2 = sum(len(p) for p, _ in images), sum(len(t) for _, t in images), config.f_beta**2
        return (1 + b2) * tp / (b2 * truths + kept) if kept + truths else 0.0
    scores = []
    for p, t in images:
        found = [matched(p, t, Fraction(k, 20)) for k in range(10, 20)]
        scores.append(np.mean([tp / (len(p) + len(t) - tp) for tp in found]) if p or t else 1.0)
    return float(np.mean(scores))


def reference(images: list[Image], low: int, high: int, config: FilterConfig) -> tuple[float, float, float]:
    """(accept, reject, objective) by filtering for each candidate anew."""
    confidences = sorted({cell[5] for p, _ in images for cell in p}, reverse=True)
    truths = sum(len(t) for _, t in images)
    floor = round(config.min_precision * 10)

    def count(limit: float) -> int:
        return sum(cell[5] >= limit for p, _ in images for cell in p)

    def best_reject(accept: int) -> float:
        if config.reject_below != "auto":
            return min(config.reject_below * 10, accept)
        below = [c for c in confidences if c <= accept]
        return min(below, key=lambda c: (abs(count(c) - truths), c)) if below else 0.0

    tried = []
    for accept in [c for c in confidences if c >= floor] or [floor]:
        kept = [([c for c in p if c[5] >= accept and low <= c[2] * c[3] <= high], t) for p, t in images]
        reject = best_reject(accept)
        tried.append((accept, reject, objective(kept, config)))
    top = max(entry[2] for entry in tried)
    accept, reject, value = max(entry for entry in tried if entry[2] > top - 1e-9)
    return accept / 10, reject / 10, value


@given(
    IMAGES,
    st.sampled_from([(None, 0, 99), (0, 0, 99), (1, 10, 20), (None, 12, 16), (0, 16, 99)]),
    st.sampled_from(OBJECTIVES),
    st.sampled_from([0.1, 0.4, 1.0, "auto"]),
    st.sampled_from([0.0, 0.3, 0.5]),
)
@settings(max_examples=300, deadline=None)
def test_the_sweep_finds_what_trying_everything_finds(images, what, goal, reject_below, floor):
    class_id, low, high = what
    config = FilterConfig(objective=goal, reject_below=reject_below, min_precision=floor, f_beta=0.7)
    choice = sweep(collect(pairs(images)), class_id, low, high, config)
    wanted = [0, 1] if class_id is None else [class_id]
    own = [tuple([c for c in cells if c[4] in wanted] for cells in image) for image in images]
    if own:
        expected = reference(own, low, high, config)
        assert (choice.accept, choice.reject, choice.value) == pytest.approx(expected)
    else:
        assert (choice.kept, choice.value, choice.sure) == (0, 0.0, False)


@given(IMAGES, st.sampled_from(OBJECTIVES), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_images_and_cells_does_not_matter(images, goal, random):
    config = FilterConfig(objective=goal, reject_below="auto")
    shuffled = [(random.sample(p, len(p)), random.sample(t, len(t))) for p, t in random.sample(images, len(images))]
    first, second = (sweep(collect(pairs(group)), None, 0, None, config) for group in (images, shuffled))
    assert (first.accept, first.reject, first.counted) == (second.accept, second.reject, second.counted)
    assert first.value == pytest.approx(second.value, abs=1e-12)


# --- known cases --------------------------------------------------------------------------------------

TRUE: Cell = (2, 2, 4, 4, 0, 0, 0)
RIVAL: Cell = (2, 2, 5, 5, 0, 9, 9)  # IoU .64, too large
EXACT: Cell = (2, 2, 4, 4, 0, 7, 7)


def test_a_prediction_that_lost_its_better_rival_becomes_the_hit():
    samples = collect(pairs([([RIVAL, EXACT], [TRUE])]))
    config = FilterConfig()
    both, alone = sweep(samples, 0, 0, None, config), sweep(samples, 0, 0, 20, config)
    assert (both.accept, both.kept, both.hit) == (pytest.approx(0.9), 1, 1)
    assert (alone.accept, alone.kept, alone.hit, alone.value) == (pytest.approx(0.7), 1, 1, 1.0)


def test_the_map_objective_sees_how_well_a_mask_fits_and_f_beta_does_not():
    images = [([RIVAL], [TRUE])]
    f_beta, mean = (sweep(collect(pairs(images)), 0, 0, None, FilterConfig(objective=o)) for o in OBJECTIVES)
    assert f_beta.value == 1.0
    assert mean.value == pytest.approx(0.3)  # IoU .64 is above .50, .55 and .60


def test_an_image_without_the_class_scores_one_until_something_is_kept_on_it():
    ghost: Cell = (9, 9, 4, 4, 0, 6, 6)
    samples = collect(pairs([([EXACT], [TRUE]), ([ghost], [])]))
    choice = sweep(samples, 0, 0, None, FilterConfig(objective="map"))
    assert (choice.accept, choice.value) == (pytest.approx(0.7), 1.0)
    below = sweep(samples, 0, 17, None, FilterConfig(objective="map"))
    assert (below.kept, below.value) == (0, 0.5)  # nothing fits: the empty image alone is right


def row(*qualities: int) -> list[Cell]:
    """Cells side by side that share no pixel."""
    return [(3 * (i % 5), 3 * (i // 5), 3, 3, 0, q, q) for i, q in enumerate(qualities)]


def test_auto_rejects_where_as_many_are_kept_as_were_labelled():
    predicted = row(9, 9, 8, 6, 4, 3, 2)
    choice = sweep(collect(pairs([(predicted, row(0, 0, 0, 0, 0))])), 0, 0, None, FilterConfig(reject_below="auto"))
    assert (choice.reject, choice.counted) == (pytest.approx(0.4), 5)
    assert choice.accept == pytest.approx(0.6)


def test_of_equally_near_counts_auto_takes_the_lower_confidence():
    predicted = row(9, 8, 8)  # 1 or 3 for 2 labelled cells
    config = FilterConfig(reject_below="auto")
    choice = sweep(collect(pairs([(predicted, row(0, 0))])), 0, 0, None, config)
    assert (choice.reject, choice.counted) == (pytest.approx(0.8), 3)
