"""Holds the cells that a model found in an image, of every score, and filters them by cutoffs that a person moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.orchestrator.app.view import View
from cellsemi.orchestrator.apply.choose_model import ChosenModel
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.explain.explain import Picture, notes_of
from cellsemi.orchestrator.explain.reasons import CellRow, cell_rows
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import Colour
from cellsemi.rounds.drawing import cell_colours, class_colours, scaled
from cellsemi.rounds.store.schemas import ImageRecord

Bools = NDArray[np.bool_]
KEPT, LOW, SMALL = "kept", "score too low", "too small"


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """All cells that a model found in an image, of every score, with a row each that says who found it.

    `record` holds the image as it was read. `free` of the cells may be kept; the others were covered by better ones,
    whatever the limits. `start` are the cutoffs that were chosen for the model.
    """

    title: str
    record: ImageRecord
    pixels: NDArray[Any]
    view: View
    classes: tuple[str, ...]
    cells: Instances
    rows: tuple[CellRow, ...]
    free: Bools
    colours: tuple[Colour, ...]
    start: Cutoffs
    notes: tuple[str, ...]


def find_cells(predictor: EnsemblePredictor, chosen: ChosenModel, picture: Picture) -> Found:
    """Predict an image once; `picture.record` holds its file."""
    recipe = predictor.recipe
    none = Cutoffs.same(0.0, len(recipe.classes))
    cells, rows = cell_rows(predictor.predict_each(picture.pixels), none, recipe.classes, None)
    notes = notes_of(predictor, picture, chosen.seen)
    by_class = class_colours(recipe.classes) if len(recipe.classes) > 1 else {}
    record = picture.record
    return Found(
        title=recipe.title,
        record=record,
        pixels=picture.pixels,
        view=View.of(scaled(picture.pixels, record.low or 0.0, record.high or 0.0)),
        classes=recipe.classes,
        cells=cells,
        rows=tuple(rows),
        free=np.array([row.kept for row in rows], bool),
        colours=tuple(cell_colours(cells, recipe.classes, by_class)),
        start=recipe.cutoffs,
        notes=tuple(notes),
    )


def kept(found: Found, limits: Cutoffs) -> Bools:
    """bool (N,): the cells that are kept under the limits."""
    return found.free & limits.chosen(found.cells)


def kept_cells(found: Found, limits: Cutoffs) -> Instances:
    """The cells that are kept, best scored first."""
    return found.cells.select(kept(found, limits))


def counts(found: Found, limits: Cutoffs) -> list[dict[str, object]]:
    """Of each class how many cells are kept, and how many are not because of their score, or else their size."""
    scored, large = limits.scored(found.cells), limits.large(found.cells)
    table: list[dict[str, object]] = []
    for class_id, name in enumerate(found.classes):
        own = found.free & (found.cells.class_id == class_id)
        table.append(
            {
                "class": name,
                KEPT: int((own & scored & large).sum()),
                LOW: int((own & ~scored).sum()),
                SMALL: int((own & scored & ~large).sum()),
            }
        )
    return table


def why(found: Found, limits: Cutoffs, i: int) -> str:
    """What is known of a cell, and why it is kept or dropped, in a sentence or two."""
    row, class_id = found.rows[i], int(found.cells.class_id[i])
    score, area = limits.of_class(class_id)
    who = f"Cell {row.number}, {row.class_name}: score {row.score:.3f}, {row.area_px} px"
    who += f", found by {row.votes} of {row.members} models ({row.found_by})" if row.members > 1 else ""
    if not found.free[i]:
        return f"{who}. Dropped: {row.why}."
    if row.score < np.float32(score):
        return f"{who}. Dropped: its score is below {score:.3f}."
    if row.area_px < area:
        return f"{who}. Dropped: it has fewer than {area} px."
    return f"{who}. Kept: a score of at least {score:.3f}, and {area} px or more."


def limits_of(values: Sequence[float], classes: int) -> Cutoffs:
    """From the values of the controls: the scores of all classes, then the areas."""
    return Cutoffs(
        tuple(float(value) for value in values[:classes]),
        tuple(round(value) for value in values[classes : 2 * classes]),
    )
