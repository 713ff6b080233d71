"""What an explanation is made of, and what one is of a predictor that shows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellsemi.models.explanation import Explanation, Map, explanation_of, in_other_classes, small
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances

CELLS = masks.from_label_map(np.repeat([[0, 1, 2]], 2, axis=0), class_id=[0, 1])


class Plain:
    def predict(self, images: Sequence[Any], scale: float = 1.0) -> list[Instances]:
        return [CELLS for _ in images]


def test_a_predictor_that_shows_nothing_has_its_cells_and_says_so() -> None:
    found = explanation_of(Plain(), np.zeros((2, 3)))
    assert found.cells is CELLS and found.maps == () and found.shares() == {}
    assert found.notes == ("Its family shows nothing of its network: only its cells are shown.",)


def test_large_maps_are_averaged_by_area() -> None:
    values = np.random.default_rng(0).random((3, 40, 80))
    found = small(values, most_px=20)
    assert found.shape == (3, 10, 20) and found.dtype == np.float32
    np.testing.assert_allclose(found, values.reshape(3, 10, 4, 20, 4).mean((2, 4)), rtol=1e-5)
    assert small(values[0].astype(np.float32), most_px=80).shape == (40, 80)


def test_classes_are_led_to_those_of_the_run_and_ignored_ones_left_out() -> None:
    maps = tuple(Map("classes", "class", np.zeros((2, 3), np.float32), "", class_id=i) for i in (0, 1))
    plain = Map("outputs", "flow", np.zeros((2, 3), np.float32), "")
    found = Explanation(CELLS, maps=(plain, *maps), dropped=CELLS)
    renamed = in_other_classes(found, lambda cells: cells.with_(class_id=cells.class_id + 1), (2, -1), left_out=-1)
    assert [each.class_id for each in renamed.maps] == [None, 2]
    assert renamed.dropped is not None
    assert renamed.cells.class_id.tolist() == renamed.dropped.class_id.tolist() == [1, 2]
