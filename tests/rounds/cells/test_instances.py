"""The record of an image's cells refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances

LABELS = np.array([[1, 1, 0], [0, 2, 2], [3, 0, 0]], np.int32)


def test_columns_of_another_length_are_refused_with_expected_and_got() -> None:
    with pytest.raises(ValueError, match=r"could not be broadcast|expected"):
        masks.from_label_map(LABELS, score=np.array([0.5, 0.5]))


@pytest.mark.parametrize("name", ["score", "quality", "agreement"])
@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_scores_lie_in_0_to_1(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected finite values in \[0, 1\]"):
        masks.from_label_map(LABELS, **({"quality": 0.5} | {name: value}))


def test_masks_drawn_once_agree_with_themselves() -> None:
    assert masks.from_label_map(LABELS, state="human").agreement.tolist() == [1.0] * 3


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="state: expected"):
        masks.from_label_map(LABELS, state="maybe")


def test_select_takes_flags_and_indices_in_their_order() -> None:
    cells = masks.from_label_map(LABELS, score=np.array([0.1, 0.2, 0.3]))
    assert cells.select(np.array([True, False, True])).score.tolist() == pytest.approx([0.1, 0.3])
    picked = cells.select([2, 0])
    assert picked.area.tolist() == [1, 2] and picked.rle == (cells.rle[2], cells.rle[0])
    assert len(cells.select([])) == 0


def test_with_spreads_scalars_and_keeps_the_rest() -> None:
    cells = masks.from_label_map(LABELS).with_(state="accepted", weight=0.5)
    assert cells.state == ("accepted",) * 3 and cells.weight.tolist() == [0.5] * 3
    assert cells.weight.dtype == np.float32 and cells.area.tolist() == [2, 2, 1]


def test_concat_refuses_another_image_size() -> None:
    with pytest.raises(ValueError, match="expected 3x3, got 4x4"):
        Instances.concat(3, 3, [Instances.empty(4, 4)])


def test_concat_keeps_order() -> None:
    cells = masks.from_label_map(LABELS)
    both = Instances.concat(3, 3, [cells.select([1]), cells.select([0, 2])])
    assert both.area.tolist() == [2, 2, 1] and len(Instances.concat(3, 3, [])) == 0
