"""The chosen images are worth much and differ: no twenty neighbours."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.review.choose import SAME_GROUP, SHARPNESS, choose, look

LOOKS = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.just(2)), elements=st.floats(-5, 5))


def test_copies_of_the_best_image_wait_for_what_is_different() -> None:
    looks = np.array([[0.0], [0.0], [0.0], [3.0], [6.0]])
    assert set(choose([10, 9.9, 9.8, 9, 9], looks, [None] * 5, 3)[:3]) >= {3, 4}


def test_an_image_that_stands_for_many_comes_before_an_odd_one() -> None:
    looks = np.array([[0.0], [0.1], [0.2], [0.3], [9.0]])
    assert choose([4, 4, 4, 4, 6], looks, [None] * 5, 2)[1] == 4
    assert choose([4, 4, 4, 4, 40], looks, [None] * 5, 1) == [4]


def test_neighbours_of_one_group_take_turns_with_others_that_are_worth_less() -> None:
    looks = np.eye(3)  # each as far from the others
    assert choose([10, 9, 6], looks, ["well 1", "well 1", "well 2"], 2) == [0, 2]
    assert choose([10, 9, 6], looks, [None, None, None], 2) == [0, 1]


def test_images_of_no_worth_are_not_chosen() -> None:
    assert choose([0, 2, 0], np.zeros((3, 2)), [None] * 3, 3) == [1]
    assert choose([], np.zeros((0, 2)), [], 3) == [] == choose([0, 0], np.zeros((2, 2)), [None] * 2, 1)


@given(LOOKS, st.integers(1, 10), st.data())
def test_every_choice_covers_the_most_by_the_formula(looks: np.ndarray, count: int, data: st.DataObject) -> None:
    """Against a plain loop over all images and all chosen ones."""
    n = len(looks)
    values = data.draw(st.lists(st.floats(0.5, 20), min_size=n, max_size=n))
    groups = data.draw(st.lists(st.sampled_from([None, "a", "b"]), min_size=n, max_size=n))
    found = choose(values, looks, groups, count)
    assert len(found) == len(set(found)) == min(n, count)
    spread = [column.std() or 1.0 for column in looks.T]

    def alike(i: int, j: int) -> float:
        squared = sum(((looks[i][k] / s) - (looks[j][k] / s)) ** 2 for k, s in enumerate(spread)) / len(spread)
        same = groups[i] is not None and groups[i] == groups[j]
        return max(float(np.exp(-SHARPNESS * squared)), SAME_GROUP if same else 0.0)

    def covers(chosen: list[int]) -> float:
        return sum(values[j] * max((alike(i, j) for i in chosen), default=0.0) for j in range(n))

    for place, image in enumerate(found):
        before = found[:place]
        best = max(covers([*before, other]) for other in range(n) if other not in before)
        assert covers([*before, image]) >= best - 1e-4 * max(best, 1)


def test_a_look_does_not_depend_on_the_range_of_the_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (40, 50)).astype(np.uint16)
    cells = masks.from_crops(40, 50, [(np.ones((5, 5), bool), 3, 3)], state="accepted")
    assert np.allclose(look(image, cells), look(image * 100 + 7, cells), atol=1e-6)
    assert not np.allclose(look(image, cells), look(image, Instances.empty(40, 50)))
    assert look(np.stack([image] * 3, -1), cells).shape == (8,)
