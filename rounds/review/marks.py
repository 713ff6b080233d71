"""Keeps what a person marked on the pseudo-labels of a run, and says which human labels follow from it.

    RUN/marks/1f2e..json   the marks of one image, written as soon as they are made; the name is a hash of its id

A mark keeps the mask that it is about, so that it outlives the round that found the cell. `right`: this is a cell, with
this outline. `wrong`: there is no cell here. `ignore`: a cell with a bad outline, or nobody can tell.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instance_map import NOT_LABELLED
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import match, overlap
from cellsemi.rounds.review.corrections import AROUND_PX
from cellsemi.rounds.store import files
from cellsemi.rounds.store.on_disk import OnDisk

Verdict = Literal["right", "wrong", "ignore"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "ignore")
_WRITING = threading.Lock()  # a mark is read, changed, written: one at a time in a process


class Mark(OnDisk):
    """What a person said of one cell; `rle` is its mask as in the shards, `round` the round whose label it was."""

    rle: str
    class_id: int
    verdict: Verdict
    round: int
    at: str


class MarkedImage(OnDisk):
    """The marks of an image, the last one last.

    `complete` is the round of whose labels the person said: all others are right as they are, and no cell is missing.
    """

    image_id: str
    marks: tuple[Mark, ...] = ()
    complete: int | None = None

    @property
    def round(self) -> int:
        """The round whose labels were looked at last."""
        rounds = [mark.round for mark in self.marks] if self.complete is None else [self.complete]
        return rounds[-1] if rounds else 0

    def count(self, verdict: Verdict) -> int:
        """Cells with a verdict."""
        return sum(mark.verdict == verdict for mark in self.marks)

    def verdicts(self, cells: Instances) -> list[Verdict | None]:
        """What was said of each cell: of this very mask."""
        said = {mark.rle.encode(): mark.verdict for mark in self.marks}
        return [said.get(mask) for mask in cells.rle]

    def marked(self, cells: Instances, index: Sequence[int], verdict: Verdict | None, round: int) -> Self:
        """With a mark on some cells in the place of what was said of them before; None takes the marks away."""
        chosen = {cells.rle[i]: int(cells.class_id[i]) for i in index}
        left = [mark for mark in self.marks if mark.rle.encode() not in chosen]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if verdict is not None:
            left += [
                Mark(rle=mask.decode(), class_id=class_id, verdict=verdict, round=round, at=now)
                for mask, class_id in chosen.items()
            ]
        return self.model_copy(update={"marks": tuple(left)})


# --- on disk ------------------------------------------------------------------------------------------


def read_marks(folder: Path, image_id: str) -> MarkedImage:
    """The marks of an image, none where nobody made any; RunError when their file is damaged."""
    path = _path(folder, image_id)
    return MarkedImage.read(path) if path.is_file() else MarkedImage(image_id=image_id)


def read_all_marks(folder: Path) -> Iterator[MarkedImage]:
    """The images of which a person said anything, by id; RunError as `read_marks`."""
    found = [MarkedImage.read(path) for path in folder.glob("*.json")]
    yield from sorted((each for each in found if each.marks or each.complete is not None), key=lambda one: one.image_id)


def mark_cells(
    folder: Path, image_id: str, cells: Instances, index: Sequence[int], verdict: Verdict | None, round: int
) -> MarkedImage:
    """Note a verdict on cells of an image, on disk when this returns; RunError when it cannot be written."""
    with _WRITING:
        found = read_marks(folder, image_id).marked(cells, index, verdict, round)
        found.write(_path(folder, image_id))
    return found


def mark_complete(folder: Path, image_id: str, round: int | None) -> MarkedImage:
    """Note that all other labels of a round are right in an image (None: take that back); RunError as `mark_cells`."""
    with _WRITING:
        found = read_marks(folder, image_id).model_copy(update={"complete": round})
        found.write(_path(folder, image_id))
    return found


def _path(folder: Path, image_id: str) -> Path:
    return folder / f"{files.sha256_bytes(image_id.encode())[:24]}.json"


# --- what they teach ----------------------------------------------------------------------------------


def labels_of(marked: MarkedImage, pseudo: Instances) -> Instances:
    """The human labels that follow from the marks; `pseudo` are the filtered labels of the round `marked.round`.

    Cells that are right are human, those to be ignored are ignored. Without `complete` all else is NOT_LABELLED, but
    for two places that are background: the mask of a cell that is wrong, and what lies within AROUND_PX of a right cell
    where the models were sure that there is nothing. Neither reaches into another cell that may be one. With `complete`
    the accepted cells that have no mark are human, too, the doubtful ones stay ignored, and the rest is background.
    """
    right, wrong, ignored = (cells_marked(marked, verdict, pseudo.height, pseudo.width) for verdict in VERDICTS)
    unmarked = pseudo.select(~_covered(pseudo, Instances.concat(pseudo.height, pseudo.width, [right, wrong, ignored])))
    if marked.complete is not None:
        right = Instances.concat(pseudo.height, pseudo.width, [right, _human(unmarked.in_state("accepted"))])
        ignored = Instances.concat(pseudo.height, pseudo.width, [ignored, _ignored(unmarked.in_state("ignored"))])
        return Instances.concat(pseudo.height, pseudo.width, [right, ignored])
    others = masks.union_map(unmarked.in_state("accepted", "ignored"))
    around = masks.union_map(right, AROUND_PX)
    if pseudo.background is not None:
        around &= rle.decode(pseudo.background, pseudo.height, pseudo.width)
    known = (around | masks.union_map(wrong)) & ~others
    unknown = ~known & ~masks.union_map(right) & ~masks.union_map(ignored)
    parts = [right, ignored]
    if unknown.any():
        crops = [(unknown, 0, 0)]
        parts.append(masks.from_crops(pseudo.height, pseudo.width, crops, state="ignored", reason=NOT_LABELLED))
    return Instances.concat(pseudo.height, pseudo.width, parts)


def cells_marked(marked: MarkedImage, verdict: Verdict, height: int, width: int) -> Instances:
    """The cells with a verdict; of marks of several rounds on the same cell (IoU > .5) the last one counts."""
    runs = rle.runs_of([mark.rle.encode() for mark in marked.marks], height, width)
    ids = [mark.class_id for mark in marked.marks]
    every = masks.from_runs(height, width, runs, class_id=ids)
    last = np.ones(len(every), bool)
    for i, j in np.argwhere(np.triu(masks.iou_matrix(every, every) > 0.5, 1)).tolist():
        last[i] &= marked.marks[i].round == marked.marks[j].round
    wanted = last & np.array([mark.verdict == verdict for mark in marked.marks], bool)
    return (_ignored if verdict == "ignore" else _human)(every.select(wanted))


def _covered(cells: Instances, by: Instances) -> NDArray[np.bool_]:
    """bool (N,): which cells are one of `by`."""
    found = np.zeros(len(cells), bool)
    found[match(overlap(cells, by))[0]] = True
    return found


def _human(cells: Instances) -> Instances:
    return cells.with_(
        state="human", reason="", score=1.0, quality=1.0, weight=1.0, round=0, votes=1, agreement=1.0, background=None
    )


def _ignored(cells: Instances) -> Instances:
    return _human(cells).with_(state="ignored")
