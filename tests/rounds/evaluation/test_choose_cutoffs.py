"""Cutoffs are the best of all on the images that choose them, and a class has its own only where others agree."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.choose_cutoffs import areas_tried, choose_cutoffs, parts_of
from cellsemi.rounds.evaluation.metrics import best_threshold, image_values, score_image

Pair = tuple[Instances, Instances]


def image(seed: int, class_of: list[int], *, small_are_wrong: int | None = None, cells: int = 12) -> Pair:
    """Squares of a grid: true ones of 6x6, found shifted by a pixel; and false ones of 2x2 with high scores."""
    rng = np.random.default_rng(seed)
    truth, found, classes, scores = np.zeros((64, 64), int), np.zeros((64, 64), int), [], []
    for i in range(cells):
        y, x = 16 * (i // 4), 16 * (i % 4)
        kind = class_of[i % len(class_of)]
        truth[y + 1 : y + 7, x + 1 : x + 7] = i + 1
        found[y + 1 : y + 7, x + 1 + int(rng.integers(2)) : x + 8] = len(classes) + 1
        classes.append(kind)
        scores.append(rng.uniform(0.3, 0.9))
        if kind == small_are_wrong:
            found[y + 9 : y + 11, x + 9 : x + 11] = len(classes) + 1
            classes.append(kind)
            scores.append(rng.uniform(0.8, 1.0))
    human = masks.from_label_map(truth, class_id=[class_of[i % len(class_of)] for i in range(cells)], state="human")
    return masks.from_label_map(found, class_id=classes, score=scores), human


def mean(pairs: list[Pair], cutoffs: Cutoffs) -> float:
    """The mAP, by the metric itself."""
    return float(image_values([score_image("i", truth, cutoffs.kept(cells)) for cells, truth in pairs]).mean())


def names(count: int) -> list[str]:
    return [f"image-{i}" for i in range(count)]


def test_a_class_of_which_small_ones_are_wrong_gets_an_area_and_the_others_none() -> None:
    pairs = [image(seed, [seed % 2], small_are_wrong=1) for seed in range(16)]
    found = choose_cutoffs(pairs, names(16), 2)
    assert found.own == (1,)
    assert found.cutoffs.min_area_px[0] == 0 and 4 < found.cutoffs.min_area_px[1] <= 36
    for_all = choose_cutoffs(pairs, names(16), 2, "all")
    assert for_all.own == () and set(for_all.cutoffs.min_area_px) == {0}
    assert mean(pairs, found.cutoffs) > mean(pairs, for_all.cutoffs) + 0.1
    others = [
        score_image("i", truth, by.kept(cells)) for (cells, truth), by in zip(pairs, found.of_others, strict=True)
    ]
    assert image_values(others).mean() > mean(pairs, for_all.cutoffs) + 0.1


def test_one_for_all_is_the_best_threshold() -> None:
    pairs = [image(seed, [0, 1], small_are_wrong=0) for seed in range(5)]
    found = choose_cutoffs(pairs, names(5), 2, "all")
    best = best_threshold(pairs)
    assert found.cutoffs == Cutoffs.same(best.value, 2)
    assert mean(pairs, found.cutoffs) == pytest.approx(best.map)


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_no_candidate_is_better_than_what_is_chosen(seed: int, mixed: bool) -> None:
    """The sweep is exact; of images of several classes, each is swept while the others stand at the score for all."""
    pairs = [image(seed + i, [0, 1] if mixed else [i % 2], small_are_wrong=1, cells=9) for i in range(16)]
    found = choose_cutoffs(pairs, names(16), 2)
    common = choose_cutoffs(pairs, names(16), 2, "all").cutoffs
    assert 1 in found.own
    for class_id in found.own:
        best = 0.0
        scores = np.unique(np.concatenate([cells.score for cells, _ in pairs])).tolist()
        areas = np.concatenate([truth.area[truth.class_id == class_id] for _, truth in pairs])
        tried = areas_tried(areas).tolist()
        mine = list(common.min_score), list(common.min_area_px)
        for score, area in product(scores, tried):
            mine[0][class_id], mine[1][class_id] = score, area
            best = max(best, mean(pairs, Cutoffs(tuple(mine[0]), tuple(mine[1]))))
        mine[0][class_id], mine[1][class_id] = found.cutoffs.of_class(class_id)
        assert mean(pairs, Cutoffs(tuple(mine[0]), tuple(mine[1]))) == pytest.approx(best)


def test_what_an_image_is_scored_with_does_not_depend_on_its_labels() -> None:
    empty = Instances.empty(64, 64)
    cells, truth = image(0, [0], small_are_wrong=0)  # alone it decides: the others are empty
    with_truth, without = (
        choose_cutoffs([(empty, empty)] * 8 + [(cells, known)], names(9), 1, "all")
        for known in (truth, cells.select(cells.area == 4).with_(state="human"))
    )
    assert with_truth.of_others[8] == without.of_others[8]
    assert with_truth.of_others[0] != without.of_others[0] and with_truth.cutoffs != without.cutoffs


def test_a_few_images_are_scored_with_what_all_of_them_chose() -> None:
    pairs = [image(seed, [0], small_are_wrong=0) for seed in range(7)]
    found = choose_cutoffs(pairs, names(7), 1)
    assert found.own == () and set(found.of_others) == {found.cutoffs}


def test_a_class_that_is_thin_keeps_the_score_for_all() -> None:
    pairs = [image(seed, [0]) for seed in range(9)] + [image(seed, [1], small_are_wrong=1) for seed in range(3)]
    found = choose_cutoffs(pairs, names(12), 2)
    assert 1 not in found.own and found.cutoffs.min_area_px[1] == 0
    assert found.cutoffs.min_score[1] == choose_cutoffs(pairs, names(12), 2, "all").cutoffs.min_score[1]


def test_chance_is_not_taken_for_a_gain() -> None:
    """Scores that say nothing: each class's own choice fits its images, and other images do not bear it out."""
    rng = np.random.default_rng(0)
    taken = 0
    for trial in range(30):
        pairs = []
        for i in range(16):
            cells, truth = image(100 * trial + i, [i % 2])
            drop = rng.random(len(cells)) < 0.3
            moved = cells.select(~drop)
            pairs.append((moved.with_(score=rng.random(len(moved)).astype(np.float32)), truth))
        taken += len(choose_cutoffs(pairs, names(16), 2).own)
    assert taken <= 12  # of 60


def test_groups_stay_whole_and_parts_are_even() -> None:
    groups = [f"plate-{i // 3}" for i in range(60)]
    part = parts_of(groups)
    assert all(len(set(part[[j for j in range(60) if groups[j] == name]])) == 1 for name in set(groups))
    assert np.bincount(part).tolist() == [6] * 10
    assert parts_of(["a"]).tolist() == [0] and parts_of(["a", "b"]).tolist() == [0, 1]


def test_one_image_and_empty_ones() -> None:
    cells, truth = image(0, [0])
    assert choose_cutoffs([(cells, truth)], ["a"], 1).of_others == (choose_cutoffs([(cells, truth)], ["a"], 1).cutoffs,)
    empty = Instances.empty(64, 64)
    assert choose_cutoffs([(empty, truth), (empty, empty)], ["a", "b"], 2).cutoffs == Cutoffs.same(0.0, 2)
    with pytest.raises(ValueError, match="at least one image"):
        choose_cutoffs([], [], 1)
