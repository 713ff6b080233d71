"""Marks on pseudo-labels: on disk at once, and they teach no more than a person, or the models, can vouch for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.configs.errors import RunError
from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instance_map import IGNORE, draw_instance_map
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.review.corrections import AROUND_PX
from cellsemi.rounds.review.marks import (
    VERDICTS,
    MarkedImage,
    Verdict,
    labels_of,
    mark_cells,
    mark_complete,
    read_all_marks,
    read_marks,
)

SIZE = 40, 60
BOXES = [(2, 2), (2, 20), (20, 2), (20, 20), (2, 40), (20, 40)]  # y, x of squares of 8 pixels
STATES = ("accepted", "accepted", "ignored", "rejected", "accepted", "accepted")


def pseudo(sure: bool = True) -> Instances:
    """Six squares; with `sure` the models are sure that there is nothing in the left half, where no cell is."""
    labels = np.zeros(SIZE, np.int32)
    for number, (y, x) in enumerate(BOXES, start=1):
        labels[y : y + 8, x : x + 8] = number
    cells = masks.from_label_map(labels, state=STATES, class_id=[0, 1, 0, 0, 1, 0], quality=0.5, round=1)
    nothing = (labels == 0) & (np.arange(SIZE[1]) < SIZE[1] // 2)
    return cells.with_(background=rle.encode(nothing)) if sure else cells


def taught(said: dict[int, Verdict], complete: bool = False, sure: bool = True) -> np.ndarray:
    """The instance map that a student sees, without growing what is ignored."""
    cells = pseudo(sure)
    marked = MarkedImage(image_id="im", complete=1 if complete else None)
    for i, verdict in said.items():
        marked = marked.marked(cells, [i], verdict, 1)
    labels = labels_of(marked, cells)
    assert set(labels.state) <= {"human", "ignored"}
    return draw_instance_map(labels, 0)


def square(number: int) -> tuple[slice, slice]:
    y, x = BOXES[number]
    return slice(y, y + 8), slice(x, x + 8)


@given(st.dictionaries(st.integers(0, 5), st.sampled_from(VERDICTS)), st.booleans())
def test_without_complete_no_pixel_becomes_background_that_nobody_vouches_for(
    said: dict[int, Verdict], sure: bool
) -> None:
    """Pixel by pixel: background lies in a wrong mask, or near a right one where no cell may be."""
    drawn = taught(said, sure=sure)
    allowed = np.zeros(SIZE, bool)
    near = np.zeros(SIZE, bool)
    y, x = np.indices(SIZE)
    for number, verdict in said.items():
        top, left = BOXES[number]
        beside_y = np.maximum(np.maximum(top - y, y - top - 7), 0)
        beside_x = np.maximum(np.maximum(left - x, x - left - 7), 0)
        if verdict == "right":
            near |= beside_y + beside_x <= AROUND_PX
            assert (drawn[square(number)] > 0).all()
        elif verdict == "wrong":
            allowed[square(number)] = True
        else:
            assert (drawn[square(number)] == IGNORE).all()
    if sure:
        near &= (x < SIZE[1] // 2) & rle.decode(pseudo().background or b"", *SIZE)
    for number, state in enumerate(STATES):
        if said.get(number) is None and state != "rejected":
            near[square(number)] = False
        if said.get(number) != "wrong" and sure:
            near[square(number)] = False
    ignored = [square(number) for number, verdict in said.items() if verdict == "ignore"]
    for place in ignored:
        allowed[place] = near[place] = False
    assert np.array_equal(drawn == 0, (allowed | near) & (drawn <= 0))
    assert len(np.unique(drawn[drawn > 0])) == list(said.values()).count("right")


def test_complete_makes_the_rest_right_and_what_no_cell_covers_background() -> None:
    drawn = taught({1: "wrong", 3: "right", 5: "ignore"}, complete=True)
    assert len(np.unique(drawn[drawn > 0])) == 3  # the accepted 0 and 4, and the rejected 3 that is a cell after all
    for number in (0, 3, 4):
        assert (drawn[square(number)] > 0).all()
    for number in (2, 5):  # the doubtful one that nobody marked, and the one to be ignored
        assert (drawn[square(number)] == IGNORE).all()
    assert (drawn == IGNORE).sum() == 128 and (drawn[square(1)] == 0).all()


def test_classes_stay() -> None:
    labels = labels_of(MarkedImage(image_id="im").marked(pseudo(), [1, 0], "right", 1), pseudo())
    assert labels.class_id[:2].tolist() == [1, 0]


def test_of_two_rounds_on_one_cell_the_later_mark_counts() -> None:
    """The later round found the cell a pixel further; two masks of one round stay two."""
    first = pseudo()
    moved = np.zeros(SIZE, np.int32)
    moved[3:11, 2:10] = 1
    later = masks.from_label_map(moved, state="accepted")
    marked = MarkedImage(image_id="im").marked(first, [0], "right", 1).marked(later, [0], "wrong", 2)
    assert (draw_instance_map(labels_of(marked, later), 0)[3:11, 2:10] == 0).all()
    same = MarkedImage(image_id="im").marked(first, [0], "right", 1).marked(later, [0], "wrong", 1)
    assert (draw_instance_map(labels_of(same, later), 0)[square(0)] > 0).all()


def test_marks_are_on_disk_when_they_are_made_and_can_be_taken_away(tmp_path: Path) -> None:
    cells, folder = pseudo(), tmp_path / "marks"
    mark_cells(folder, "a/b: c", cells, [0, 2], "right", 1)
    mark_cells(folder, "a/b: c", cells, [2], "wrong", 1)
    assert read_marks(folder, "a/b: c").verdicts(cells) == ["right", None, "wrong", None, None, None]
    mark_cells(folder, "a/b: c", cells, [0], None, 1)
    mark_complete(folder, "z", 1)
    assert [(each.image_id, each.count("wrong"), each.round) for each in read_all_marks(folder)] == [
        ("a/b: c", 1, 1),
        ("z", 0, 1),
    ]
    mark_complete(folder, "z", None)
    assert [each.image_id for each in read_all_marks(folder)] == ["a/b: c"]


def test_a_damaged_file_of_marks_is_named(tmp_path: Path) -> None:
    mark_cells(tmp_path, "im", pseudo(), [0], "right", 1)
    (path,) = tmp_path.glob("*.json")
    path.write_text('{"image_id": "im", "marks": [{"verdict": "perhaps"}]}')
    with pytest.raises(RunError, match=path.name):
        read_marks(tmp_path, "im")
