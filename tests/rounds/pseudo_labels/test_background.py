"""Background is earned: where all teachers are sure, what that teaches, and how much of it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellsemi.configs.training import TrainingConfig
from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instance_map import IGNORE, draw_instance_map
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.pseudo_labels.background import label_score, sure_background, wrong_background

H, W = 7, 9
MAPS = arrays(np.int32, (H, W), elements=st.integers(0, 3))
BITMAPS = arrays(bool, (H, W))


def cells(drawn: NDArray[np.int32], state: State = "predicted", **columns: Any) -> Instances:
    return masks.from_label_map(drawn, state=state, **columns)


@given(MAPS, BITMAPS, BITMAPS)
def test_all_teachers_have_to_be_sure(drawn: NDArray[np.int32], one: NDArray[np.bool_], two: NDArray[np.bool_]) -> None:
    found = cells(drawn)
    stated = {"a": found.with_(background=rle.encode(one)), "b": found.with_(background=rle.encode(two))}
    assert np.array_equal(rle.decode(sure_background(stated, 2), H, W), one & two)
    silent = {"a": stated["a"], "b": found}
    assert np.array_equal(rle.decode(sure_background(silent, 0), H, W), one & (drawn == 0))


def test_a_teacher_that_says_nothing_is_sure_beyond_its_grown_masks() -> None:
    drawn = np.zeros((H, W), np.int32)
    drawn[3, 4] = 1
    found = rle.decode(sure_background({"a": cells(drawn, score=0.01)}, 1), H, W)
    expected = np.ones((H, W), bool)
    expected[[2, 3, 3, 3, 4], [4, 3, 4, 5, 4]] = False
    assert np.array_equal(found, expected)


def test_without_a_teacher_nothing_is_sure() -> None:
    with pytest.raises(ValueError, match="one teacher"):
        sure_background({}, 0)


@given(MAPS, st.lists(st.sampled_from(["accepted", "ignored", "rejected"]), min_size=3, max_size=3), BITMAPS)
def test_only_what_is_sure_is_taught_as_background(
    drawn: NDArray[np.int32], states: list[State], sure: NDArray[np.bool_]
) -> None:
    values = [v for v in range(1, 4) if (drawn == v).any()]
    each = {value: states[i] for i, value in enumerate(values)}
    found = cells(drawn).with_(state=list(each.values()), background=rle.encode(sure))
    taught = draw_instance_map(found, 0)
    accepted = [value for value in values if each[value] == "accepted"]
    for y, x in np.ndindex(H, W):
        value = int(drawn[y, x])
        if value in accepted:
            assert taught[y, x] == accepted.index(value) + 1
        elif value and each[value] == "ignored":
            assert taught[y, x] == IGNORE
        else:
            assert taught[y, x] == (0 if sure[y, x] else IGNORE)


@given(MAPS)
def test_where_a_person_drew_all_the_rest_is_background(drawn: NDArray[np.int32]) -> None:
    assert np.array_equal(draw_instance_map(cells(drawn, "human"), 2) == 0, drawn == 0)


@given(MAPS, MAPS, BITMAPS, st.lists(st.integers(0, 1), min_size=3, max_size=3))
def test_wrong_background_is_counted_per_class(
    drawn: NDArray[np.int32], truth: NDArray[np.int32], sure: NDArray[np.bool_], kinds: list[int]
) -> None:
    filtered = cells(drawn, "accepted").with_(background=rle.encode(sure))
    values = [v for v in range(1, 4) if (truth == v).any()]
    human = cells(truth, "human", class_id=[kinds[v - 1] for v in values])
    expected = {}
    for number, name in enumerate(("round", "long")):
        inside = [(y, x) for y, x in np.ndindex(H, W) if truth[y, x] and kinds[truth[y, x] - 1] == number]
        if inside:
            expected[name] = np.mean([bool(sure[p]) and not drawn[p] for p in inside])
    found = wrong_background([(filtered, human)], ("round", "long"), 0)
    assert found == pytest.approx(expected)


def test_an_immature_teacher_teaches_true_cells_as_background_and_is_measured() -> None:
    truth = np.zeros((20, 20), np.int32)
    truth[2:6, 2:6], truth[10:18, 10:18] = 1, 2
    found = cells(np.where(truth == 1, 1, 0).astype(np.int32), "accepted")  # the large cell is in no mask
    human = cells(truth, "human")
    assert wrong_background([(found, human)], ("cell",), 2) == {"cell": pytest.approx(64 / 80)}
    unsure = found.with_(background=rle.encode(truth == 0))
    assert wrong_background([(unsure, human)], ("cell",), 2) == {"cell": 0}


def test_the_score_of_the_labels_is_the_f1_of_what_is_accepted() -> None:
    truth = np.zeros((20, 20), np.int32)
    truth[2:6, 2:6], truth[10:14, 10:14], truth[2:6, 12:16] = 1, 2, 3
    human = cells(truth, "human", class_id=[0, 1, 0])
    found = truth.copy()
    found[16:18, 16:18] = 4  # nothing is there
    given: list[State] = ["accepted", "accepted", "rejected", "accepted"]
    filtered = cells(found, score=0.5, class_id=[0, 0, 0, 0]).with_(state=given)
    right = 1  # the first; the second is of another class, the third was rejected
    assert label_score([(filtered, human)]) == pytest.approx(2 * right / (3 + 3))
    assert label_score([(filtered, human), (cells(truth, "accepted", class_id=[0, 1, 0]), human)]) == pytest.approx(
        8 / 12
    )
    assert label_score([(cells(truth, "ignored"), human)]) == 0 == label_score([])


def test_better_labels_get_more_of_the_crops() -> None:
    auto = TrainingConfig()
    assert [auto.human_share(score) for score in (0.0, 0.5, 1.0)] == [1.0, 0.75, 0.5]
    assert TrainingConfig(human_fraction=0.25).human_share(0.9) == 0.25
