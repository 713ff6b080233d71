"""The methods of fusion against a slow reference, on generated cells."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from helpers.fusion_reference import (
    HEIGHT,
    METHODS,
    WIDTH,
    Pixels,
    fused_by_hand,
    pixels_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cellsemi.configs.rounds import FusionConfig
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
    FusionConfig,
    method=st.sampled_from(METHODS),
    overlaps=st.sampled_from(["keep", "resolve"]),
    iou=st.sampled_from([0.0, 0.15, 0.3, 0.5, 0.8]),
)


def rows(cells: Instances) -> list[Any]:
    """Every column of every cell, order and all."""
    return [[np.asarray(getattr(cells, name))[i].tolist() for name in COLUMNS] for i in range(len(cells))]


# --- properties ---------------------------------------------------------------------------------------


@given(distinct_teachers(), configs, st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_method_is_what_the_reference_says(
    per_teacher: dict[str, Instances], config: FusionConfig, lock: bool
) -> None:
    found = fuse(per_teacher, config.model_copy(update={"overlaps": "keep"}), lock)
    expected = fused_by_hand(per_teacher, config, lock)
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
    expected = fuse({f"t{k}": c for k, c in enumerate(cells)}, config, lock)
    names = [f"n{k}" for k in range(len(cells))]
    random.shuffle(names)
    named = [(name, c.select(random.sample(range(len(c)), len(c)))) for name, c in zip(names, cells, strict=True)]
    random.shuffle(named)
    assert rows(fuse(dict(named), config, lock)) == rows(expected)


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
    cells, config = per_teacher["t0"], FusionConfig(method=method)
    alone = fuse({"a": cells}, config, False)
    assert sorted(alone.rle) == sorted(cells.rle)
    own = cells.quality if method == "weighted" else cells.score
    assert sorted(alone.score.tolist()) == pytest.approx(sorted(own.tolist()))
    with_blind = fuse({"a": cells, "b": Instances.empty(HEIGHT, WIDTH)}, config, False)
    assert sorted(with_blind.rle) == sorted(cells.rle)
    share = 1 if method == "nms" else 2
    assert sorted(with_blind.score.tolist()) == pytest.approx(sorted((own / share).tolist()))
