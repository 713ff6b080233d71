"""Makers of predictions are compared on the same images, with paired intervals and classes that both name."""

from __future__ import annotations

import numpy as np
import pytest

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.bootstrap import paired_probability
from cellsemi.rounds.evaluation.comparison import Scored, common_classes, compare, renumbered, score_in


def cells(*numbers: int) -> Instances:
    """Ten cells, of which those of these numbers are kept."""
    labels = np.kron(np.arange(1, 11).reshape(2, 5), np.ones((6, 6), int))
    return masks.from_label_map(np.where(np.isin(labels, numbers), labels, 0), state="human")


def scored(name: str, found: list[Instances]) -> Scored:
    truth = cells(*range(1, 11))
    return Scored(name, tuple(score_in(str(i), each, truth) for i, each in enumerate(found)), ("cell",))


def test_differences_are_image_by_image() -> None:
    half, most = cells(1, 2, 3, 4, 5), cells(1, 2, 3, 4, 5, 6, 7, 8)
    first, second, third = compare([scored("a", [half] * 9), scored("b", [most] * 9), scored("c", [half] * 8 + [most])])
    assert first.difference is None and (first.map.value, first.ap50) == (0.5, 0.5)
    assert second.difference is not None and second.difference.low == pytest.approx(0.3) == second.difference.high
    assert third.difference is not None and third.difference.value == pytest.approx(0.3 / 9)
    assert third.difference.low == 0.0 < third.difference.high
    values = [score.total.ap for score in scored("c", [half] * 8 + [most]).scores]
    assert paired_probability(values, [0.5] * 9, 500, 0) > 0.5


def test_ignored_cells_are_not_scored() -> None:
    truth = cells(1, 2)
    doubtful = truth.with_(state=["human", "ignored"])
    assert score_in("x", cells(1), doubtful).total.ap == 1.0 == score_in("x", truth, doubtful).total.ap
    assert score_in("x", cells(1), truth).total.ap == 0.5


def test_classes_are_compared_by_name() -> None:
    assert common_classes(("a", "b"), ("b", "c")) == ("a", "b", "c")
    assert common_classes(("a", "b"), ("c",)) == ("cell",) == common_classes((), ("c",)) == common_classes((), ())
    found = cells(1, 2).with_(class_id=[0, 1])
    assert renumbered(found, ("b", "c"), ("a", "b", "c")).class_id.tolist() == [1, 2]
    assert renumbered(found, ("x", "y"), ("cell",)).class_id.tolist() == [0, 0]
    assert renumbered(found, (), ("cell",)).class_id.tolist() == [0, 0]


def test_nobody_to_compare_is_an_error() -> None:
    with pytest.raises(IndexError):
        compare([])
    with pytest.raises(ValueError, match="at least one"):
        compare([scored("a", [])])
