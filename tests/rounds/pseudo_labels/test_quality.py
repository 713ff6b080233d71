"""Quality: features against naive loops, out-of-fold by what it must not see, and what the docstrings promise."""

from __future__ import annotations

import copy
import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.errors import RunError
from cellsemi.configs.rounds import FilterConfig
from cellsemi.rounds.calibration.calibration import calibrate
from cellsemi.rounds.cells.instances import COLUMNS, Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.pseudo_labels.iou_regressor import MOST_CATEGORIES, Regressor, out_of_fold
from cellsemi.rounds.pseudo_labels.mask_features import FEATURES, features
from cellsemi.rounds.pseudo_labels.quality import MIN_IMAGES, MIN_SAMPLES, Quality, best_iou, fit_quality

SIZE = 64
SPOTS = [(x, y) for x in range(0, SIZE, 8) for y in range(0, SIZE, 8)]
REGRESSED = FilterConfig(quality="regressed")
CALIBRATED = FilterConfig()
Pair = tuple[Instances, Instances]


def image(seed: int, share: float = 0.5, class_id: int = 0) -> Pair:
    """64 cells of 6 x 6 and their predictions: the cell, or in a `share` of them a sliver of it. Scores tell nothing.

    A sliver in eight is none: its score and mask do not tell it from a true one.
    """
    random = np.random.default_rng(seed)
    thin = random.random(len(SPOTS)) < share
    lies = random.random(len(SPOTS)) < 1 / 8
    whole, part = np.ones((6, 6), bool), np.ones((1, 6), bool)
    score = random.random(len(SPOTS)) / 2
    predicted = [(part if t else whole, x + 1, y + 1) for t, (x, y) in zip(thin, SPOTS, strict=True)]
    true = [(part if t and lie else whole, x + 1, y + 1) for t, lie, (x, y) in zip(thin, lies, SPOTS, strict=True)]
    return (
        from_crops(SIZE, SIZE, predicted, score=score, class_id=class_id),
        from_crops(SIZE, SIZE, true, state="human", class_id=class_id),
    )


def images(count: int, first: int = 0, **how: Any) -> list[Pair]:
    return [image(first + seed, **how) for seed in range(count)]


def samples(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.concatenate([features(predicted) for predicted, _ in pairs])
    iou = np.concatenate([best_iou(predicted, truth) for predicted, truth in pairs])
    return rows, iou, np.repeat(np.arange(len(pairs)), [len(predicted) for predicted, _ in pairs])


# --- features -----------------------------------------------------------------------------------------


def column(cells: Instances, name: str) -> list[float]:
    return features(cells)[:, FEATURES.index(name)].tolist()


def test_features_of_known_masks() -> None:
    crops = [(np.ones((4, 4), bool), 0, 3), (np.ones((1, 9), bool), 6, 0), (np.eye(4, dtype=bool), 10, 5)]
    cells = from_crops(20, 30, crops, score=[0.5, 0.25, 0.75], votes=[3, 2, 1], class_id=[0, 2, 1])
    cells = cells.with_(agreement=[0.75, 1.0, 0.5])
    assert column(cells, "score") == [0.5, 0.25, 0.75]
    assert column(cells, "votes") == [3, 2, 1]
    assert column(cells, "agreement") == [0.75, 1.0, 0.5]
    assert column(cells, "class_id") == [0, 2, 1]
    assert column(cells, "log_area") == pytest.approx(np.log([16, 9, 4]), abs=1e-5)
    assert column(cells, "log_area_ratio") == pytest.approx(np.log(np.array([16, 9, 4]) / 9), abs=1e-5)
    assert column(cells, "fill") == [1, 1, 0.25]
    assert column(cells, "eccentricity") == [0, 1, 1]
    assert column(cells, "roundness")[:2] == pytest.approx([4 * np.pi * 16 / 12**2, 4 * np.pi * 9 / 7**2], abs=1e-5)
    assert column(cells, "border") == [1, 1, 0]
    assert column(cells, "touching") == column(cells, "covered") == [0, 0, 0]


def test_a_mask_reaches_each_edge_of_the_image() -> None:
    square = np.ones((2, 2), bool)
    cells = from_crops(10, 12, [(square, x, y) for x, y in ((5, 0), (5, 8), (0, 5), (10, 5), (9, 7))])
    assert column(cells, "border") == [1, 1, 1, 1, 0]


@st.composite
def some_cells(draw: st.DrawFn) -> Instances:
    """Up to six boxes or single pixels that may touch and overlap, no two of one score."""
    n = draw(st.integers(1, 6))
    crops = []
    for _ in range(n):
        x, y = draw(st.integers(0, 8)), draw(st.integers(0, 6))
        crops.append((np.ones((draw(st.integers(1, 4)), draw(st.integers(1, 4))), bool), x, y))
    scores = draw(st.lists(st.integers(0, 100), min_size=n, max_size=n, unique=True))
    return from_crops(10, 12, crops, score=np.array(scores) / 100)


@given(some_cells())
@settings(max_examples=60, deadline=None)
def test_touching_and_covered_are_those_of_naive_loops(cells: Instances) -> None:
    pixels = [{(int(y), int(x)) for y, x in np.argwhere(decode(rle, 10, 12))} for rle in cells.rle]
    owner = {}
    for i in np.argsort(cells.score).tolist():  # the best comes last and keeps
        owner |= dict.fromkeys(pixels[i], i)
    beside = {
        frozenset((owner[y, x], owner[y + dy, x + dx]))
        for (y, x), (dy, dx) in product(owner, product((-1, 0, 1), repeat=2))
        if (y + dy, x + dx) in owner and owner[y, x] != owner[y + dy, x + dx]
    }
    assert column(cells, "touching") == [sum(i in pair for pair in beside) for i in range(len(cells))]
    shared = [set().union(*(p & q for j, q in enumerate(pixels) if j != i)) for i, p in enumerate(pixels)]
    assert column(cells, "covered") == pytest.approx(
        [len(s) / len(p) for s, p in zip(shared, pixels, strict=True)], abs=1e-5
    )


@given(some_cells(), some_cells(), st.integers(0, 63), st.integers(0, 63))
@settings(max_examples=60, deadline=None)
def test_the_best_iou_is_that_of_a_naive_loop(predicted: Instances, truth: Instances, a: int, b: int) -> None:
    predicted = predicted.with_(class_id=[a >> i & 1 for i in range(len(predicted))])
    truth = truth.with_(class_id=[b >> i & 1 for i in range(len(truth))])
    expected = []
    for rle, class_id in zip(predicted.rle, predicted.class_id, strict=True):
        mask, best = decode(rle, 10, 12), 0.0
        for other, known in zip(truth.rle, truth.class_id, strict=True):
            true = decode(other, 10, 12)
            if known == class_id:
                best = max(best, (mask & true).sum() / (mask | true).sum())
        expected.append(best)
    assert best_iou(predicted, truth).tolist() == pytest.approx(expected)


def test_images_without_cells_have_neither_features_nor_iou() -> None:
    none = Instances.empty(9, 9)
    assert features(none).shape == (0, len(FEATURES))
    assert best_iou(none, none).shape == (0,)
    one = from_crops(9, 9, [(np.ones((2, 2), bool), 1, 1)])
    assert best_iou(one, none).tolist() == [0.0]


# --- the regression -----------------------------------------------------------------------------------


def test_out_of_fold_does_not_see_the_image_that_it_judges() -> None:
    rows, iou, image_of = samples(images(6))
    before = out_of_fold(rows, iou, image_of)
    for index in range(6):
        other = np.where(image_of == index, 1 - iou, iou)
        after = out_of_fold(rows, other, image_of)
        assert (after[image_of == index] == before[image_of == index]).all()
        assert (after[image_of != index] != before[image_of != index]).any()


def test_predicted_iou_never_falls_with_the_score_and_stays_in_0_to_1() -> None:
    random = np.random.default_rng(0)
    rows = np.repeat(random.random((10, len(FEATURES))).round(1), 30, axis=0)
    rows[:, FEATURES.index("score")] = np.tile(np.linspace(0, 1, 30), 10)
    # The truth falls with the score: all a monotone fit may say is that it is level.
    regressor = Regressor.fit(rows, 1.2 - rows[:, 0] + random.random(300) / 10)
    predicted = regressor(rows).reshape(10, 30)
    assert (np.diff(predicted, axis=1) >= -1e-12).all()
    assert predicted.min() >= 0 and predicted.max() <= 1
    assert len(regressor(rows[:0])) == 0


def test_more_classes_than_categories_are_no_error() -> None:
    rows = np.zeros((600, len(FEATURES)))
    rows[:, FEATURES.index("class_id")] = np.arange(600) % (MOST_CATEGORIES + 45)
    assert Regressor.fit(rows, rows[:, -1] / 1000)(rows).shape == (600,)


def test_where_shape_tells_and_the_score_does_not_the_quality_tells_right_from_wrong() -> None:
    validation = images(8)
    found = {
        name: fit_quality(validation, ["cell"], FilterConfig(quality=name))[0] for name in ("calibrated", "regressed")
    }
    fresh = images(4, first=100)
    right = np.concatenate([best_iou(predicted, truth) > 0.5 for predicted, truth in fresh])
    by = {
        name: np.concatenate([quality.apply(predicted).quality for predicted, _ in fresh])
        for name, quality in found.items()
    }
    assert auc(right, by["calibrated"]) < 0.6
    assert auc(right, by["regressed"]) > 0.9
    # What is called .9 is right nine times in ten, on images that were never seen.
    for low in np.arange(10) / 10:
        inside = (by["regressed"] >= low) & (by["regressed"] < low + 0.1)
        gap = inside.sum() * abs(by["regressed"][inside].mean() - right[inside].mean()) if inside.any() else 0.0
        assert gap / len(right) < 0.03
    sentence = found["regressed"].report()[0]
    assert f"fitted on {8 * 64} validation predictions on 8 images" in sentence
    rows, iou, image_of = samples(validation)
    guessed, score = out_of_fold(rows, iou, image_of), np.concatenate([p.score for p, _ in validation])
    assert f"ROC curve {auc(iou > 0.5, score):.3f} by the score, {auc(iou > 0.5, guessed):.3f} by" in sentence
    errors = [
        calibrate(pairs, ["cell"], 40).curves["cell"].ece_after
        for pairs in (
            validation,
            [(p.with_(score=guessed[image_of == i]), t) for i, (p, t) in enumerate(validation)],
        )
    ]
    assert f"calibration error {errors[0]:.3f} with the score, {errors[1]:.3f} with the predicted IoU" in sentence


def auc(right: np.ndarray, confidence: np.ndarray) -> float:
    """How often a right one is above a wrong one; ties count half. Every pair is compared."""
    above = confidence[right][:, None].astype(float) - confidence[~right][None, :]
    return float(((above > 0) + (above == 0) / 2).mean())


def test_calibrated_is_the_calibration_of_the_score() -> None:
    validation = images(6)
    found = fit_quality(validation, ["cell"], CALIBRATED)[0]
    expected = calibrate(validation, ["cell"], CALIBRATED.min_samples)
    assert (found.calibration, found.regressor) == (expected, None)
    assert found.report() == expected.report()
    assert (found.apply(validation[0][0]).quality == expected.apply(validation[0][0]).quality).all()


@pytest.mark.parametrize(
    ("validation", "config", "sentence"),
    [
        (images(MIN_IMAGES - 1), REGRESSED, "256 validation predictions on 4 images, expected 200 on 5 or more"),
        ([(p.select(range(20)), t) for p, t in images(8)], REGRESSED, "160 validation predictions on 8 images"),
        (images(5), FilterConfig(quality="regressed", min_samples=400), "expected 400 on 5 or more"),
        ([], REGRESSED, "0 validation predictions on 0 images"),
    ],
)
def test_with_too_little_to_learn_from_the_score_is_calibrated(
    validation: list[Pair], config: FilterConfig, sentence: str
) -> None:
    found = fit_quality(validation, ["cell"], config)[0]
    assert found.regressor is None
    assert found.calibration == calibrate(validation, ["cell"], config.min_samples)
    assert "nothing was regressed" in found.report()[0] and sentence in found.report()[0]
    assert Quality.from_json(found.to_json(), ["cell"]) == found


def test_images_without_predictions_are_not_counted() -> None:
    empty = (Instances.empty(SIZE, SIZE), image(0)[1])
    assert fit_quality([*images(4), empty], ["cell"], REGRESSED)[0].regressor is None
    assert fit_quality([empty, *images(5)], ["cell"], REGRESSED)[0].regressor is not None
    assert 5 * len(SPOTS) >= MIN_SAMPLES


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_predictions_that_are_all_right_or_nearly_all_wrong_are_no_error(share: float) -> None:
    found = fit_quality(images(5, share=share), ["cell"], REGRESSED)[0]
    assert ("undefined" in found.report()[0]) == (share == 0.0)
    quality = found.apply(image(99, share=share)[0]).quality
    assert (quality > 0.9).all() if share == 0 else (quality < 0.5).all()


def test_classes_are_told_apart_and_a_class_without_predictions_takes_the_common_curve() -> None:
    # The same mask is right in class 0 and wrong in class 1, whose cells were drawn as class 0.
    validation = [*images(5, share=0.0), *((p.with_(class_id=1), t) for p, t in images(5, share=0.0, first=5))]
    found = fit_quality(validation, ["a", "b", "c"], REGRESSED)[0]
    assert found.calibration.curves["c"].kind == "pooled"
    cells = image(50, share=0.0)[0]
    quality = [float(found.apply(cells.with_(class_id=c)).quality.mean()) for c in range(3)]
    assert quality[0] > 0.9 and quality[1] < 0.1 and 0 < quality[2] < 1


@pytest.mark.parametrize("config", [CALIBRATED, REGRESSED])
def test_apply_sets_quality_and_nothing_else(config: FilterConfig) -> None:
    found = fit_quality(images(5), ["cell"], config)[0]
    cells = image(9)[0]
    after = found.apply(cells)
    assert not (after.quality == cells.quality).all()
    for name in set(COLUMNS) - {"quality"}:
        assert np.array_equal(getattr(after, name), getattr(cells, name)), name
    assert len(found.apply(Instances.empty(4, 4))) == 0


# --- kept in a file -----------------------------------------------------------------------------------


def test_what_is_read_from_a_file_says_the_same_to_the_last_bit() -> None:
    found = fit_quality(images(5), ["b", "a"], REGRESSED)[0]
    text = json.dumps(found.to_json(), sort_keys=True, allow_nan=False)
    again = Quality.from_json(json.loads(text), ["b", "a"])
    assert json.dumps(again.to_json(), sort_keys=True) == text
    assert again.report() == found.report()
    for cells, _ in images(3, first=40):
        assert (again.apply(cells).quality == found.apply(cells).quality).all()


def test_the_same_images_give_the_same_file() -> None:
    first, second = (json.dumps(fit_quality(images(5), ["cell"], REGRESSED)[0].to_json()) for _ in range(2))
    assert first == second


DAMAGE: dict[str, Any] = {
    "no calibration": lambda c: c.pop("calibration"),
    "no class": lambda c: c["calibration"].pop("cell"),
    "no regressor": lambda c: c.pop("regressor"),
    "not a mapping": lambda c: c.update(regressor=[1, 2]),
    "other features": lambda c: c["regressor"].update(names=list(FEATURES[::-1])),
    "one row less": lambda c: c["regressor"]["features"].pop(),
    "a ragged row": lambda c: c["regressor"]["features"][0].pop(),
    "a null": lambda c: c["regressor"]["iou"].__setitem__(0, None),
    "a word": lambda c: c["regressor"]["iou"].__setitem__(0, "high"),
    "no samples": lambda c: c["regressor"].update(features=[], iou=[]),
    "another parameter": lambda c: c["regressor"]["parameters"].update(loss="absolute_error"),
    "a wrong parameter": lambda c: c["regressor"]["parameters"].update(max_iter=-1),
    "no notes": lambda c: c.update(notes=None),
}


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return fit_quality(images(5), ["cell"], REGRESSED)[0].to_json()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_said_to_be_damaged(kept: dict[str, Any], damage: str) -> None:
    content = copy.deepcopy(kept)
    DAMAGE[damage](content)
    with pytest.raises(RunError, match="damaged"):
        Quality.from_json(content, ["cell"])
