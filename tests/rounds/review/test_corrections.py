"""What a person changed is counted, and with a correction in part only what was changed teaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import IGNORE, draw_instance_map
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.review.corrections import AROUND_PX, compare, partly

SIDE, PLACES = 8, 12  # squares on a 3 x 4 grid of 24 pixels
KINDS = st.sampled_from(["keep", "remove", "redraw", "class", "free", "add"])
EDITS = st.lists(KINDS, min_size=PLACES, max_size=PLACES)


def square(place: int, side: int = SIDE) -> Any:
    mask = np.zeros((72, 96), bool)
    y, x = place // 4 * 24 + 4, place % 4 * 24 + 4
    mask[y : y + side, x : x + side] = True
    return mask


def built(found: list[tuple[Any, int]]) -> Instances:
    crops = [(mask, 0, 0) for mask, _ in found]
    return masks.from_crops(72, 96, crops, class_id=[number for _, number in found], state="human")


@given(EDITS, st.randoms(use_true_random=False))
def test_each_edit_is_counted_as_what_it_is(edits: list[str], random: Any) -> None:
    given_cells = [(square(i), 0) for i, edit in enumerate(edits) if edit not in ("free", "add")]
    back = [(square(i), 0) for i, edit in enumerate(edits) if edit in ("keep", "add")]
    back += [(square(i, SIDE - 1), 0) for i, edit in enumerate(edits) if edit == "redraw"]
    back += [(square(i), 1) for i, edit in enumerate(edits) if edit == "class"]
    random.shuffle(back)
    done = compare(built(given_cells), built(back))
    assert done.kept == edits.count("keep")
    assert (done.added, done.removed) == (edits.count("add"), edits.count("remove"))
    assert done.redrawn == edits.count("redraw") + edits.count("class")
    assert done.changes == done.added + done.removed + done.redrawn
    assert set(done.cells.state) <= {"human"} and len(done.cells) == len(back)


def test_of_a_correction_in_part_only_what_was_changed_teaches() -> None:
    kept, removed, added, redrawn = (square(place) for place in (0, 2, 5, 11))
    done = compare(built([(kept, 0), (removed, 0), (redrawn, 0)]), built([(kept, 0), (added, 0), (square(11, 6), 0)]))
    taught = draw_instance_map(partly(done), 2)
    assert (taught[removed] == 0).all() and (taught[added] > 0).all() and (taught[square(11, 6)] > 0).all()
    assert (taught[redrawn & ~square(11, 6)] == 0).all()
    assert (taught[kept] == IGNORE).all() and taught[40, 4] == IGNORE
    assert taught[4 - AROUND_PX + 5, 2 * 24 + 6] == 0  # what lies beside a change was looked at


def test_outlines_that_a_tool_has_rounded_are_kept() -> None:
    large = np.zeros((200, 200), bool)
    large[20:180, 20:180] = True
    rounded = large.copy()
    rounded[20, 20:24] = rounded[179, 170:180] = False
    before, after = (masks.from_crops(200, 200, [(mask, 0, 0)], state="human") for mask in (large, rounded))
    assert compare(before, after).changes == 0


@pytest.mark.parametrize("empty_first", [True, False])
def test_from_and_to_nothing(empty_first: bool) -> None:
    full, none = built([(square(0), 0), (square(3), 0)]), Instances.empty(72, 96)
    done = compare(*((none, full) if empty_first else (full, none)))
    assert (done.added, done.removed) == ((2, 0) if empty_first else (0, 2))
    assert compare(none, none).changes == 0
