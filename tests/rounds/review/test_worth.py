"""What a correction is worth: the expected number of changed labels, raised for what the human labels lack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.review.worth import FEW, IN_UNSURE, NEW_GROUP, Known, worth

KNOWN = Known.of({0: [16] * 20}, ["plate 1", None], 1)
QUALITIES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12)


def cells(quality: list[float], states: list[str], side: int = 4) -> Instances:
    """Squares in a row, `side` pixels each way."""
    crops = [(np.ones((side, side), bool), i * (side + 1), 1) for i in range(len(quality))]
    width = max(1, len(quality)) * (side + 1)
    return masks.from_crops(side + 4, width, crops, score=np.array(quality), state=tuple(states))  # type: ignore[arg-type]


def test_each_kind_of_label_counts_as_the_sentence_says() -> None:
    found = worth(cells([0.9, 0.6, 0.5, 0.2], ["accepted", "accepted", "ignored", "rejected"]), None, KNOWN, 0)
    assert found.wrong == pytest.approx(0.1 + 0.4, abs=1e-6)
    assert found.doubtful == pytest.approx(0.5 + 0.2, abs=1e-6)
    assert (found.missed, found.new_sizes, found.new_group) == (0, 0, False)
    assert found.changes == pytest.approx(1.2, abs=1e-6) and found.sure == pytest.approx(1.5, abs=1e-6)
    assert found.total == found.share == pytest.approx(1.2 / (1.5 + 1.2 + FEW), abs=1e-6)


@given(QUALITIES, st.floats(0, 1, width=32), st.data())
def test_one_more_doubtful_mask_never_makes_an_image_worth_less(quality: list[float], more: float, data: Any) -> None:
    kinds = st.sampled_from(["accepted", "ignored", "rejected"])
    states = data.draw(st.lists(kinds, min_size=len(quality), max_size=len(quality)))
    before = worth(cells(quality, states), None, KNOWN, 0)
    after = worth(cells([*quality, more], [*states, "ignored"]), None, KNOWN, 0)
    assert after.changes == pytest.approx(before.changes + more, abs=1e-5)
    assert after.share >= before.share - 1e-6


def test_where_nothing_is_known_cells_of_the_usual_size_are_expected() -> None:
    drawn = cells([1.0], ["accepted"])
    sure = np.ones((drawn.height, drawn.width), bool)
    sure[6:8] = False  # ten pixels without a mask of which nobody is sure
    found = worth(drawn.with_(background=rle.encode(sure)), None, KNOWN, 0)
    assert found.missed == pytest.approx(IN_UNSURE * 10 / 16)
    assert worth(drawn, None, KNOWN, 0).missed == 0  # all that no cell covers is background


def test_sizes_and_groups_that_the_human_labels_lack_raise_it() -> None:
    usual, large = cells([0.5], ["ignored"]), cells([0.5], ["ignored"], side=9)
    assert worth(large, None, KNOWN, 0).total == 2 * worth(usual, None, KNOWN, 0).total
    assert worth(usual, "plate 2", KNOWN, 0).total == (1 + NEW_GROUP) * worth(usual, "plate 1", KNOWN, 0).total
    assert worth(usual, "plate 2", Known.of({0: [16]}, [None], 1), 0).new_group is False  # no group is known at all


def test_the_reason_says_what_it_was() -> None:
    words = worth(cells([0.9] * 6, ["ignored"] * 6, side=9), "new", KNOWN, 0).reason()
    assert words == (
        "5 labels of 5 are expected to change (5 doubtful); 100% of the cells have sizes that the human labels lack; "
        "a group without human labels"
    )


def test_an_image_without_a_mask_is_worth_nothing_unless_its_background_is_unsure() -> None:
    empty = Instances.empty(10, 10)
    assert worth(empty, None, KNOWN, 0).total == 0
    assert worth(empty.with_(background=rle.encode(np.zeros((10, 10), bool))), None, KNOWN, 0).total > 0


def test_a_sure_image_with_many_cells_does_not_lead_by_their_number() -> None:
    many = worth(cells([0.9] * 60, ["accepted"] * 60), None, KNOWN, 0)
    wrong = worth(cells([0.5] * 6, ["ignored"] * 6), None, KNOWN, 0)
    assert many.changes > wrong.changes and many.total < wrong.total
