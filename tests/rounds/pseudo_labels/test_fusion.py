"""Fusion: known clusters and votes, and the properties that make it independent of order and of names."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.rounds import FusionConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.fusion import fuse, fuse_with_members

CONFIG = FusionConfig()
SIZE = 40


def boxes(*corners, side=10, **columns):
    return masks.from_crops(SIZE, SIZE, [(np.ones((side, side), bool), x, y) for x, y in corners], **columns)


def rows(cells):
    """What the cells are, order and all."""
    return [
        (
            cells.rle[i],
            *cells.bbox[i].tolist(),
            int(cells.class_id[i]),
            float(cells.score[i]),
            int(cells.votes[i]),
        )
        for i in range(len(cells))
    ]


@st.composite
def teacher(draw):
    """Up to five boxes near a few spots, with distinct scores, so that content has no ties."""
    n = draw(st.integers(0, 5))
    crops = []
    for _ in range(n):
        h, w = draw(st.integers(4, 9)), draw(st.integers(4, 9))
        x = draw(st.sampled_from([2, 20])) + draw(st.integers(0, 4))
        y = draw(st.sampled_from([3, 22])) + draw(st.integers(0, 4))
        crops.append((np.ones((h, w), bool), x, y))
    scores = draw(st.lists(st.integers(0, 1000), min_size=n, max_size=n, unique=True))
    classes = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return masks.from_crops(SIZE, SIZE, crops, score=np.array(scores) / 1000, class_id=classes)


teachers = st.lists(teacher(), min_size=1, max_size=3)


@given(teachers, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=80, deadline=None)
def test_order_of_teachers_their_names_and_their_cells_do_not_matter(cells, random, lock):
    # Scores that are equal across teachers would be ties; make them all different.
    cells = [c.with_(score=c.score * (1 - 0.01 * k)) for k, c in enumerate(cells)]
    expected = fuse({f"t{k}": c for k, c in enumerate(cells)}, CONFIG, lock)
    names = [f"n{k}" for k in range(len(cells))]
    random.shuffle(names)
    shuffled = [c.select(random.sample(range(len(c)), len(c))) for c in cells]
    assert rows(fuse(dict(zip(names, shuffled, strict=True)), CONFIG, lock)) == rows(expected)


@given(teachers, st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_holds_for_every_fusion(cells, lock):
    found = fuse({f"t{k}": c for k, c in enumerate(cells)}, CONFIG, lock)
    assert int(found.votes.sum()) == sum(len(c) for c in cells)  # every cell is in exactly one cluster
    assert len(found) == 0 or (found.votes.min() >= 1 and found.votes.max() <= len(cells))
    assert ((found.score >= 0) & (found.score <= 1)).all()
    assert (found.quality == found.score).all()
    assert (found.area > 0).all()
    assert (np.diff(found.score) <= 0).all()
    assert set(found.state) <= {"predicted"}
    assert not lock or len(set(found.class_id.tolist())) <= 1
    for crop, area in zip(masks.crops(found), found.area, strict=True):
        assert crop[0].sum() == area


@given(teacher())
@settings(max_examples=40, deadline=None)
def test_one_teacher_keeps_its_masks_and_fusing_again_changes_nothing(cells):
    once = fuse({"a": cells}, CONFIG, False)
    assert sorted(zip(once.rle, once.score.tolist(), once.class_id.tolist(), strict=True)) == sorted(
        zip(cells.rle, cells.score.tolist(), cells.class_id.tolist(), strict=True)
    )
    assert rows(fuse({"b": once}, CONFIG, False)) == rows(once)


def test_classes_without_any_score_are_voted_too():
    one = boxes((0, 0), score=0.0, class_id=[1])
    assert fuse({"a": one}, CONFIG, True).class_id.tolist() == [1]


@given(teacher())
@settings(max_examples=40, deadline=None)
def test_identical_teachers_keep_masks_and_scores(cells):
    one = fuse({"a": cells}, CONFIG, False)
    three = fuse({"a": cells, "b": cells, "c": cells}, CONFIG, False)
    assert three.rle == one.rle
    assert three.score == pytest.approx(one.score)
    assert (three.votes == 3).all()


def test_disjoint_teachers_give_their_union_with_shared_out_scores():
    a, b = boxes((0, 0), (20, 0), score=[0.8, 0.6]), boxes((0, 20), (20, 20), score=[1.0, 0.5])
    found = fuse({"a": a, "b": b}, CONFIG, False)
    assert set(found.rle) == {*a.rle, *b.rle}
    assert found.score.tolist() == pytest.approx([0.5, 0.4, 0.3, 0.25])
    assert found.votes.tolist() == [1, 1, 1, 1]


def test_three_teachers_vote_pixel_by_pixel():
    found = fuse(
        {"a": boxes((10, 10), score=0.9), "b": boxes((11, 10), score=0.9), "c": boxes((12, 10), score=0.9)},
        CONFIG,
        False,
    )
    assert found.bbox.tolist() == [[11, 10, 21, 20]]  # two of three hold these columns
    assert found.votes.tolist() == [3]
    agreement = (9 / 11 + 9 / 11 + 8 / 12) / 3
    assert found.score[0] == pytest.approx(0.9 * agreement)


def test_a_missing_teacher_counts_zero():
    found = fuse(
        {"a": boxes((10, 10), score=0.9), "b": boxes((10, 10), score=0.6), "c": Instances.empty(SIZE, SIZE)},
        CONFIG,
        False,
    )
    assert found.score.tolist() == pytest.approx([0.5])
    assert found.votes.tolist() == [2]


def test_of_two_the_better_scored_decides_and_equal_ones_share():
    left, right = boxes((10, 10), score=0.9), boxes((12, 10), score=0.5)
    assert fuse({"a": left, "b": right}, CONFIG, False).rle == left.rle
    equal = fuse({"a": left, "b": right.with_(score=0.9)}, CONFIG, False)
    assert equal.bbox.tolist() == [[10, 10, 22, 20]]


def test_scores_of_zero_still_vote():
    found = fuse({k: boxes((10 + i, 10), score=0.0) for i, k in enumerate("abc")}, CONFIG, False)
    assert found.bbox.tolist() == [[11, 10, 21, 20]]
    assert found.score.tolist() == [0.0]


def test_clusters_are_complete_and_never_hold_a_teacher_twice():
    # a-b and b-c agree (7/13 > .5) but a-c do not (4/16): the better pair joins, the third stays alone.
    chain = {"a": boxes((4, 10), score=0.9), "b": boxes((7, 10), score=0.8), "c": boxes((10, 10), score=0.7)}
    assert fuse(chain, CONFIG, False).votes.tolist() == [2, 1]
    twice = {"a": boxes((10, 10), (11, 10), score=[0.9, 0.8]), "b": boxes((10, 10), score=0.7)}
    found = fuse(twice, CONFIG, False)
    assert sorted(found.votes.tolist()) == [1, 2]


def test_the_best_pair_joins_first_whatever_the_scores():
    # a-b 7/13, b-c 9/11, a-c 6/14: the best scored teacher does not get to choose.
    trio = {"a": boxes((4, 10), score=0.9), "b": boxes((7, 10), score=0.6), "c": boxes((8, 10), score=0.5)}
    found = fuse(trio, CONFIG, False)
    assert sorted(found.votes.tolist()) == [1, 2]
    assert found.rle[int(np.argmin(found.votes))] == trio["a"].rle[0]


def test_the_iou_limit_is_inclusive():
    a, b = boxes((0, 0), side=10), masks.from_crops(SIZE, SIZE, [(np.ones((5, 10), bool), 0, 0)])
    assert len(fuse({"a": a, "b": b}, FusionConfig(iou=0.5), False)) == 1
    assert len(fuse({"a": a, "b": b}, FusionConfig(iou=0.51), False)) == 2
    apart = {"a": boxes((0, 0)), "b": boxes((20, 20))}
    assert len(fuse(apart, FusionConfig(iou=0.0), False)) == 2  # masks that do not touch are never one cell


def test_a_fragment_that_no_teacher_drew_so_is_left_out():
    def mask(*parts):
        bitmap = np.zeros((SIZE, SIZE), bool)
        for y, x, h, w in parts:
            bitmap[y : y + h, x : x + w] = True
        return masks.from_crops(SIZE, SIZE, [(bitmap, 0, 0)], score=0.9)

    a = mask((0, 0, 10, 10), (0, 20, 2, 4))
    b = mask((0, 0, 10, 10), (0, 20, 2, 2), (12, 0, 1, 3))
    c = mask((0, 0, 10, 9))
    found = fuse({"a": a, "b": b, "c": c}, CONFIG, False)
    assert found.bbox.tolist() == [[0, 0, 10, 10]]
    # A broken mask on which all agree is what they say: it stays whole.
    assert fuse({"a": a, "b": a}, CONFIG, False).rle == a.rle


def test_no_majority_falls_back_to_the_best_member():
    # Five masks, one pixel for each pair of them: every two share a pixel, no three do.
    pixels = [np.zeros((SIZE, SIZE), bool) for _ in range(5)]
    for column, (a, b) in enumerate(combinations(range(5), 2)):
        pixels[a][5, column] = pixels[b][5, column] = True
    members = {f"t{i}": masks.from_crops(SIZE, SIZE, [(p, 0, 0)], score=0.5 + 0.01 * i) for i, p in enumerate(pixels)}
    found = fuse(members, FusionConfig(iou=0.1), False)
    assert found.votes.tolist() == [5]
    assert found.rle == members["t4"].rle


def test_classes_are_voted_by_score_and_locked_when_an_image_has_one():
    per_teacher = {
        "a": boxes((0, 0), (20, 20), score=[0.9, 0.5], class_id=[2, 1]),
        "b": boxes((0, 0), (20, 20), score=[0.4, 0.3], class_id=[1, 1]),
        "c": boxes((0, 0), score=[0.4], class_id=[1]),
    }
    assert fuse(per_teacher, CONFIG, False).class_id.tolist() == [2, 1]
    assert fuse(per_teacher, CONFIG, True).class_id.tolist() == [1, 1]  # 1.6 against .9


def test_the_round_is_kept_and_empty_is_empty():
    empty = Instances.empty(SIZE, SIZE)
    assert len(fuse({"a": empty, "b": empty}, CONFIG, True)) == 0
    assert fuse({"a": boxes((0, 0)).with_(round=3)}, CONFIG, False).round.tolist() == [3]


def test_no_teacher_and_other_sizes_are_refused():
    with pytest.raises(ValueError, match="at least one teacher"):
        fuse({}, CONFIG, False)
    with pytest.raises(ValueError, match="expected 40x40, got 41x40"):
        fuse({"a": Instances.empty(40, 40), "b": Instances.empty(41, 40)}, CONFIG, False)


def test_800_cells_of_three_teachers():
    yy, xx = np.mgrid[:9, :9]
    disc = (yy - 4) ** 2 + (xx - 4) ** 2 <= 16
    spots = [(x, y) for x in range(2, 500, 12) for y in range(2, 240, 12)][:800]
    per_teacher = {
        name: masks.from_crops(260, 520, [(disc, x + i % 2, y) for i, (x, y) in enumerate(spots)], score=0.5 + 0.1 * k)
        for k, name in enumerate("abc")
    }
    found = fuse(per_teacher, CONFIG, False)
    assert len(found) == 800
    assert (found.votes == 3).all()
    assert found.score == pytest.approx(np.full(800, 0.6))


@given(teachers, st.sampled_from(["vote", "weighted", "nms", "union"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_fused_cell_names_the_cells_that_it_was_made_of(cells, method, resolve):
    config = FusionConfig(method=method, overlaps="resolve" if resolve else "keep")
    given = {f"t{i}": each for i, each in enumerate(cells)}
    found, made_of = fuse_with_members(given, config, False)
    assert rows(found) == rows(fuse(given, config, False)) and len(made_of) == len(found)
    named = [member for members in made_of for member in members]
    assert len(set(named)) == len(named) and all(0 <= i < len(given[name]) for name, i in named)
    if not resolve:
        assert len(named) == sum(map(len, cells))  # none is lost
    for i, members in enumerate(made_of):
        assert len({name for name, _ in members}) == found.votes[i]
        scores = [float(given[name].score[k]) for name, k in members]
        assert scores == sorted(scores, reverse=True)
        if len(members) == 1 and not resolve:  # a lone cell keeps its mask
            name, k = members[0]
            assert given[name].rle[k] == found.rle[i]


def test_a_cell_that_is_covered_whole_stands_in_none():
    inner = boxes((12, 12), side=4, score=0.5)
    outer = boxes((10, 10), score=0.9)
    found, made_of = fuse_with_members({"a": outer, "b": inner}, FusionConfig(overlaps="resolve"), False)
    assert len(found) == 1 and made_of == [(("a", 0),)]
