"""Removes the overlaps of cells for formats with one cell a pixel, and counts what is lost."""

from __future__ import annotations

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import STATES, Instances
from cellsemi.rounds.formats.base import Exported


def one_cell_a_pixel(found: Instances, done: Exported, several_classes: bool) -> Instances:
    """The cells without overlaps, those with the higher score first in line; counted in `done`, as is what is lost."""
    shown = found.in_state(*(state for state in STATES if state != "ignored"))
    cells, lost = masks.without_overlaps(shown)
    losses = {
        "ignored cells": len(found) - len(shown),
        "pixels given to a higher-scored cell": int(lost.sum()),
        "cells covered whole by others": len(shown) - len(cells),
        "cells whose score is not written": int((cells.score < 1).sum()),
        "cells whose class is not written": len(cells) if several_classes else 0,
    }
    done.cells += len(cells)
    done.losses.update({what: count for what, count in losses.items() if count})
    return cells
