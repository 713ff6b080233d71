"""The methods of fusion against a slow reference that knows only sets of pixels and fractions."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from helpers.fusion_reference import (
    HEIGHT,
    METHODS,
    WEIGH_QUALITY,
    WIDTH,
    Pixels,
    fused_by_hand,
    fusion_config,
    pixels_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cellsemi.configs.rounds import FusionConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import COLUMNS, Instances
from cellsemi.rounds.pseudo_labels.fusion import fuse

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# --- generated cells ----------------------------------------------------------------------------------


@st.composite
def bitmaps(draw: st.DrawFn) -> np.ndarray:
    """One or two rectangles: whole, broken or bent."""
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(draw(st.integers(1, 2))):
        y, x = draw(st.sampled_from([0, 1, 5])), draw(st.sampled_from([0, 2, 3, 8]))
        bitmap[y : y + draw(st.integers(1, 5)), x : x + draw(st.integers(1, 5))] = True
    return bitmap


def cells_of(drawn: list[np.ndarray], **columns: Any) -> Instances:
    return masks.from_crops(HEIGHT, WIDTH, [(bitmap, 0, 0) for bitmap in drawn], **columns)


@st.composite
def distinct_teachers(draw: st.DrawFn) -> dict[str, Instances]:
    """Up to four teachers with up to four cells; all scores differ, qualities have nothing to do with them."""
    scores = draw(st.lists(st.integers(0, 200), min_size=16, max_size=16, unique=True))
    found = {}
    for k in range(draw(st.integers(1, 4))):
        drawn = draw(st.lists(bitmaps(), max_size=4))
        own = np.array([scores.pop() for _ in drawn]) / 200
        quality = [draw(st.integers(0, 4)) / 4 for _ in drawn]
        classes = [draw(st.integers(0, 2)) for _ in drawn]
        found[f"t{k}"] = cells_of(drawn, score=own, quality=quality, class_id=classes)
    return found


def square(x: int, y: int, h: int, w: int) -> np.ndarray:
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[y : y + h, x : x + w] = True
    return bitmap


FEW = [square(0, 0, 4, 4), square(1, 0, 4, 4), square(0, 1, 4, 4), square(2, 0, 4, 4), square(8, 5, 3, 3)]


@st.composite
def tied_teachers(draw: st.DrawFn) -> list[Instances]:
    """Teachers with few masks, scores, classes and rounds to choose from: full of ties, and alike as a whole."""
    kinds = []
    for _ in range(2):
        drawn = draw(st.lists(st.sampled_from(FEW), max_size=4))
        column = {
            name: [draw(st.sampled_from(values)) for _ in drawn]
            for name, values in {
                "score": [0.0, 0.5, 0.75],
                "quality": [0.0, 0.5],
                "class_id": [0, 1],
                "round": [1, 2],
                "agreement": [0.5, 1.0],
            }.items()
        }
        kinds.append(cells_of(drawn, **column))
    return [kinds[k] for k in draw(st.lists(st.integers(0, 1), min_size=1, max_size=4))]


configs = st.builds(
    fusion_config,
    method=st.sampled_from(METHODS),
    overlaps=st.sampled_from(["keep", "resolve"]),
    iou=st.sampled_from([0.0, 0.15, 0.3, 0.5, 0.8]),
)


def rows(cells: Instances) -> list[Any]:
    """Every column of every cell, order and all."""
    return [[np.asarray(getattr(cells, name))[i].tolist() for name in COLUMNS] for i in range(len(cells))]


# --- properties ---------------------------------------------------------------------------------------


@given(distinct_teachers(), configs, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_every_method_is_what_the_reference_says(
    per_teacher: dict[str, Instances], config: FusionConfig, lock: bool, calibrated: bool, random: Any
) -> None:
    recalls = {name: tuple(random.choice([0.0, 0.1, 0.5, 1.0]) for _ in range(9)) for name in per_teacher}
    known = recalls if calibrated else None
    found = fuse(per_teacher, config.model_copy(update={"overlaps": "keep"}), lock, known)
    expected = fused_by_hand(per_teacher, config, lock, known)
    key = [(p, int(c), int(v)) for p, c, v in zip(pixels_of(found), found.class_id, found.votes, strict=True)]
    wanted = {id(f): (f.pixels, f.class_id, f.votes) for f in expected}
    assert sorted(map(repr, map(_plain, key))) == sorted(map(repr, map(_plain, wanted.values())))
    columns = (found.score.tolist(), found.quality.tolist(), found.agreement.tolist())
    believed = sorted(zip(key, *columns, strict=True), key=_by_content)
    by_hand = [(wanted[id(f)], float(f.score), float(f.quality), float(f.agreement)) for f in expected]
    for (_, *numbers), (_, *true_numbers) in zip(believed, sorted(by_hand, key=_by_content), strict=True):
        assert numbers == pytest.approx(true_numbers, abs=1e-6)
    assert (np.diff(found.score) <= 0).all()


def _plain(row: tuple[Pixels, int, int]) -> tuple[Any, ...]:
    return (sorted(row[0]), *row[1:])


def _by_content(row: tuple[tuple[Pixels, int, int], float, float, float]) -> tuple[Any, ...]:
    return (*_plain(row[0]), *(round(number, 5) for number in row[1:]))


@given(tied_teachers(), configs, st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_names_and_order_do_not_matter_even_among_ties(
    cells: list[Instances], config: FusionConfig, lock: bool, random: Any
) -> None:
    known = [(random.choice([0.0, 0.5, 1.0]),) * 9 for _ in cells]
    expected = fuse(
        {f"t{k}": c for k, c in enumerate(cells)}, config, lock, {f"t{k}": each for k, each in enumerate(known)}
    )
    names = [f"n{k}" for k in range(len(cells))]
    random.shuffle(names)
    recalls = dict(zip(names, known, strict=True))
    named = [(name, c.select(random.sample(range(len(c)), len(c)))) for name, c in zip(names, cells, strict=True)]
    random.shuffle(named)
    if config.boundaries:
        config = config.model_copy(update={"boundaries": tuple(names[1:2]) or ("t1",)})
    assert rows(fuse(dict(named), config, lock, recalls)) == rows(expected)


@given(distinct_teachers(), configs, st.booleans())
@settings(max_examples=150, deadline=None)
def test_resolved_overlaps_give_each_pixel_to_the_best_that_held_it(
    per_teacher: dict[str, Instances], config: FusionConfig, lock: bool
) -> None:
    kept = fuse(per_teacher, config.model_copy(update={"overlaps": "keep"}), lock)
    resolved = fuse(per_teacher, config.model_copy(update={"overlaps": "resolve"}), lock)
    taken: set[tuple[int, int]] = set()
    expected = []
    for index, pixels in enumerate(pixels_of(kept)):  # best score first
        if pixels - taken:
            row = kept.select([index])
            expected.append((pixels - taken, float(row.score[0]), int(row.votes[0]), int(row.class_id[0])))
        taken |= pixels
    columns = (resolved.score.tolist(), resolved.votes.tolist(), resolved.class_id.tolist())
    assert list(zip(pixels_of(resolved), *columns, strict=True)) == expected
    assert resolved.area.tolist() == [len(pixels) for pixels, *_ in expected]


@pytest.mark.parametrize("method", METHODS)
@given(per_teacher=distinct_teachers())
@settings(max_examples=40, deadline=None)
def test_one_teacher_keeps_its_masks_and_teachers_who_saw_nothing_add_none(
    method: str, per_teacher: dict[str, Instances]
) -> None:
    cells, config = per_teacher["t0"], fusion_config(method)
    alone = fuse({"a": cells}, config, False)
    assert sorted(alone.rle) == sorted(cells.rle)
    own = cells.quality if method in WEIGH_QUALITY else cells.score
    assert sorted(alone.score.tolist()) == pytest.approx(sorted(own.tolist()))
    with_blind = fuse({"a": cells, "b": Instances.empty(HEIGHT, WIDTH)}, config, False)
    assert sorted(with_blind.rle) == sorted(cells.rle)
    share = 1 if method == "nms" else 2
    assert sorted(with_blind.score.tolist()) == pytest.approx(sorted((own / share).tolist()))


# --- known cases --------------------------------------------------------------------------------------


def wide(x: int, score: float, **columns: Any) -> Instances:
    """A square of 6x6 at column x."""
    return cells_of([square(x, 2, 6, 6)], score=score, **columns)


def columns_of(cells: Instances) -> list[tuple[int, int]]:
    return [(int(box[0]), int(box[2])) for box in cells.bbox]


@pytest.mark.parametrize("method", METHODS)
def test_identical_masks_are_one_cell_with_all_votes(method: str) -> None:
    found = fuse({name: wide(3, 0.5) for name in "abc"}, fusion_config(method), False)
    assert found.rle == wide(3, 0.5).rle
    assert found.votes.tolist() == [3]
    assert found.score.tolist() == found.quality.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("method", METHODS)
def test_nobody_who_sees_a_cell_gives_none(method: str) -> None:
    empty = Instances.empty(HEIGHT, WIDTH)
    config = fusion_config(method, overlaps="resolve")
    assert len(fuse({"a": empty, "b": empty}, config, True)) == 0


@pytest.mark.parametrize(
    ("method", "columns", "votes", "scores"),
    [
        # a-b and b-c have IoU 4/8, a-c 2/10. Of equal pairs the better scored (a-b) is joined.
        ("vote", [(0, 6), (4, 10)], [2, 1], [0.5 * 1.7 / 3, 0.7 / 3]),
        ("weighted", [(0, 6), (4, 10)], [2, 1], [1.7 / 3, 0.7 / 3]),
        ("nms", [(0, 6), (4, 10)], [2, 1], [0.9, 0.7]),
        ("union", [(0, 8), (4, 10)], [2, 1], [0.5 * 1.7 / 3, 0.7 / 3]),
    ],
)
def test_a_chain_is_not_one_cell(
    method: str, columns: list[tuple[int, int]], votes: list[int], scores: list[float]
) -> None:
    chain = {"a": wide(0, 0.9), "b": wide(2, 0.8), "c": wide(4, 0.7)}
    found = fuse(chain, fusion_config(method), False)
    assert columns_of(found) == columns
    assert found.votes.tolist() == votes
    assert found.score.tolist() == pytest.approx(scores)


def test_the_middle_of_a_chain_takes_both_ends_when_it_is_the_best() -> None:
    chain = {"a": wide(0, 0.7), "b": wide(2, 0.9), "c": wide(4, 0.8)}
    found = fuse(chain, FusionConfig(method="nms"), False)
    assert columns_of(found) == [(2, 8)]
    assert found.votes.tolist() == [3]


def test_members_that_are_not_linked_count_in_the_agreement_too() -> None:
    # IoU of the middle with each end 4/8, of the ends 2/10.
    chain = {"a": wide(0, 0.7), "b": wide(2, 0.9), "c": wide(4, 0.8)}
    found = fuse(chain, FusionConfig(method="nms"), False)
    assert found.agreement.tolist() == pytest.approx([(0.5 + 0.5 + 0.2) / 3])


@pytest.mark.parametrize("method", METHODS)
def test_a_lone_cell_keeps_the_agreement_of_its_views_and_loses_no_score_by_it(method: str) -> None:
    found = fuse({"a": wide(0, 0.8, agreement=0.6)}, fusion_config(method), False)
    assert found.agreement.tolist() == pytest.approx([0.6])
    assert found.score.tolist() == pytest.approx([0.8])


def test_vote_weighs_by_score_and_weighted_by_quality() -> None:
    pair = {"a": wide(0, 0.9, quality=0.2), "b": wide(1, 0.5, quality=0.6)}
    assert columns_of(fuse(pair, FusionConfig(), False)) == [(0, 6)]
    found = fuse(pair, FusionConfig(method="weighted"), False)
    assert columns_of(found) == [(1, 7)]
    assert found.score.tolist() == found.quality.tolist() == pytest.approx([0.4])
    assert columns_of(fuse(pair, FusionConfig(method="nms"), False)) == [(0, 6)]


def test_weighted_classes_are_voted_by_quality() -> None:
    pair = {"a": wide(0, 0.9, quality=0.2, class_id=0), "b": wide(0, 0.5, quality=0.6, class_id=1)}
    apart = {**pair, "c": cells_of([square(9, 0, 3, 3)], score=0.4, quality=0.5, class_id=0)}
    assert fuse(pair, FusionConfig(), False).class_id.tolist() == [0]
    assert fuse(pair, FusionConfig(method="weighted"), False).class_id.tolist() == [1]
    assert fuse(apart, FusionConfig(method="weighted"), True).class_id.tolist() == [0, 0]  # .7 against .6


def test_nms_takes_both_halves_of_a_cell_and_counts_one_vote() -> None:
    whole = cells_of([square(0, 0, 6, 8)], score=0.9, quality=0.7)
    halves = cells_of([square(0, 0, 6, 4), square(4, 0, 6, 4)], score=[0.8, 0.6], class_id=[1, 1])
    found = fuse({"a": whole, "b": halves}, FusionConfig(method="nms"), False)
    assert found.rle == whole.rle
    assert found.votes.tolist() == [2]
    assert found.score.tolist() == pytest.approx([0.9])
    assert found.quality.tolist() == pytest.approx([0.7])
    # Two votes of .8 and .6 for class 1 would win; one teacher has one.
    assert found.class_id.tolist() == [0]


def test_of_the_cells_that_nms_takes_from_a_teacher_the_closest_has_its_vote() -> None:
    whole = square(0, 0, 6, 8)
    per_teacher = {
        "a": cells_of([whole], score=0.6, class_id=0),
        "b": cells_of([square(0, 0, 6, 5), square(5, 0, 6, 3)], score=[0.2, 0.5], class_id=1),
        "c": cells_of([whole], score=0.3, class_id=1),
    }
    found = fuse(per_teacher, FusionConfig(method="nms", iou=0.3), False)
    assert found.votes.tolist() == [3]
    assert found.class_id.tolist() == [0]  # .6 against .2 + .3; the other cell of b would make it .8


def test_without_a_majority_weighted_falls_back_to_the_best_quality() -> None:
    # Five masks, one pixel for each pair of them: every two share a pixel, no three do.
    pixels = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(5)]
    for column, (a, b) in enumerate(combinations(range(5), 2)):
        pixels[a][5, column] = pixels[b][5, column] = True
    members = {f"t{i}": cells_of([p], score=0.5 + 0.01 * i, quality=0.6 - 0.01 * i) for i, p in enumerate(pixels)}
    assert fuse(members, FusionConfig(iou=0.1), False).rle == members["t4"].rle
    found = fuse(members, FusionConfig(method="weighted", iou=0.1), False)
    assert found.votes.tolist() == [5]
    assert found.rle == members["t0"].rle


@pytest.mark.parametrize("method", METHODS)
def test_cells_of_one_teacher_are_never_joined(method: str) -> None:
    both = cells_of([square(0, 0, 6, 6), square(1, 0, 6, 6)], score=[0.9, 0.8])
    assert fuse({"a": both}, fusion_config(method, iou=0.15), False).rle == both.rle


def test_the_limit_of_source_a_joins_what_the_default_does_not() -> None:
    pair = {"a": wide(0, 0.9), "b": wide(4, 0.6)}  # IoU 2/10
    assert fuse(pair, FusionConfig(method="weighted"), False).votes.tolist() == [1, 1]
    joined = fuse(pair, FusionConfig(method="weighted", iou=0.15), False)
    assert joined.votes.tolist() == [2]
    assert columns_of(joined) == [(0, 6)]


def test_a_cell_that_better_ones_cover_is_not_there_once_overlaps_are_resolved() -> None:
    per_teacher = {"a": cells_of([square(0, 0, 8, 8)], score=0.9), "b": cells_of([square(2, 2, 3, 3)], score=0.8)}
    assert len(fuse(per_teacher, FusionConfig(), False)) == 2
    assert fuse(per_teacher, FusionConfig(overlaps="resolve"), False).rle == per_teacher["a"].rle


def test_the_default_is_the_vote_and_other_words_are_refused() -> None:
    assert (FusionConfig().method, FusionConfig().overlaps) == ("vote", "keep")
    with pytest.raises(ValidationError, match="'vote', 'weighted', 'nms', 'union' or 'refine'"):
        FusionConfig(method="mean")
    with pytest.raises(ValidationError, match="'keep' or 'resolve'"):
        FusionConfig(overlaps="cut")


# --- refine -------------------------------------------------------------------------------------------


def test_refine_takes_the_boundary_of_the_named_model_where_another_agrees() -> None:
    config = FusionConfig(method="refine", boundaries=("flow",), iou=0.15)
    flow = cells_of([square(0, 2, 6, 6), square(8, 2, 4, 4)], score=[0.5, 0.6])
    boxes = cells_of([square(1, 2, 6, 6)], score=[0.9])
    for name in ("flow", "flow.fold-3"):  # the model of a fold draws as its model does
        found = fuse({name: flow, "boxes": boxes}, config, False)
        assert columns_of(found) == [(0, 6), (8, 12)] and found.votes.tolist() == [2, 1]
    weighted = fuse({"flow": flow, "boxes": boxes}, FusionConfig(method="weighted", iou=0.15), False)
    assert found.score.tolist() == weighted.score.tolist() and columns_of(weighted) != columns_of(found)


@pytest.mark.parametrize("settings", [{"method": "refine"}, {"method": "vote", "boundaries": ("a",)}])
def test_refine_and_boundaries_are_stated_together(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="refine"):
        FusionConfig(**settings)
