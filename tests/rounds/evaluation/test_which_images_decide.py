"""How many images are enough, and what is said of those that decide."""

from __future__ import annotations

import pytest

from cellsemi.rounds.evaluation.bootstrap import ENOUGH_IMAGES, enough, who_decides


def test_one_number_says_what_is_enough() -> None:
    assert next(n for n in range(20) if enough(n)) == ENOUGH_IMAGES == 8
    assert "too few" in who_decides(30, ENOUGH_IMAGES - 1, None)
    assert who_decides(30, ENOUGH_IMAGES, None) == "8 validation images decide thresholds and promotion"


@pytest.mark.parametrize(
    ("labelled", "val", "groups", "folds"),
    [(30, 3, None, 5), (30, 3, 3, 3), (1, 2, None, 3), (1, 1, None, 2), (30, 3, 1, None)],
)
def test_folds_are_suggested_as_many_as_there_can_be(
    labelled: int, val: int, groups: int | None, folds: int | None
) -> None:
    said = who_decides(labelled, val, None, groups)
    assert said.startswith(f"only {val} validation image")
    offer = (
        f"rounds.folds: {folds} would let all {labelled + val} labelled images decide, at {folds} times the training"
    )
    assert said.endswith(offer) if folds else "rounds.folds" not in said


def test_with_folds_all_decide() -> None:
    assert who_decides(30, 3, 4) == "all 33 labelled images decide thresholds and promotion, in 4 folds (rounds.folds)"
