"""Predicts what a user names with what a run made, on an engine, and writes it in the formats that are asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.errors import DataError
from cellsemi.orchestrator.apply.choose_model import ChosenModel
from cellsemi.orchestrator.apply.images import Found
from cellsemi.orchestrator.apply.outputs import write_outputs, write_quarantined
from cellsemi.orchestrator.apply.predict_files import Pool, Predicted, predict_files
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths

PREDICTIONS = "predictions"  # of every score, below the folder of a call
DEFAULT_FORMATS = ("label-maps", "measurements", "overlays")


@dataclass(frozen=True, slots=True)
class Application:
    """What a call did: which model, which images, what was written and what was left out."""

    model: str
    out: Path
    images: int
    cells: int
    keep: str
    predicted: Predicted
    written: Mapping[str, Exported]
    passed_over: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "model": self.model,
            "out": str(self.out),
            "images": self.images,
            "cells": self.cells,
            "kept": self.keep,
            "before": self.predicted.before,
            "known": self.predicted.known,
            "quarantined": [state.model_dump() for state in self.predicted.quarantined],
            "passed_over": dict(self.passed_over),
            "warnings": dict(self.predicted.warnings),
            "formats": {name: _counts(done) for name, done in self.written.items()},
        }


def _counts(done: Exported) -> dict[str, object]:
    return {"images": done.images, "cells": done.cells, "files": len(done.files), "losses": dict(done.losses)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be written: into which folder, which cells, in which formats."""

    out: Path
    keep: Cutoffs
    formats: Sequence[str] = DEFAULT_FORMATS


def apply(chosen: ChosenModel, found: Found, wanted: Wanted, pool: Pool) -> Application:
    """Predict images into the folder `predictions` of `wanted.out` and write the formats beside it.

    DataError when not one of the images can be used.
    """
    out, keep = wanted.out, wanted.keep
    with driver_lock(RunPaths(out)):
        predicted = predict_into(chosen, found, out / PREDICTIONS, pool)
        recipe = chosen.model.recipe
        written = write_outputs(predicted, keep, wanted.formats, out)
        write_quarantined(predicted.quarantined, out)
    cells = next(iter(written.values())).cells if written else 0
    return Application(
        model=recipe.title,
        out=out,
        images=len(predicted.rows),
        cells=cells,
        keep=keep.sentence(recipe.classes),
        predicted=predicted,
        written=written,
        passed_over=found.passed_over,
    )


def predict_alone(chosen: ChosenModel, found: Found, out: Path, pool: Pool) -> Predicted:
    """Predict images into the folder `predictions` of `out`, while no other process works there."""
    with driver_lock(RunPaths(out)):
        return predict_into(chosen, found, out / PREDICTIONS, pool)


def predict_into(chosen: ChosenModel, found: Found, folder: Path, pool: Pool) -> Predicted:
    """Predict images into a folder of shards, watched; DataError when not one of them can be used."""
    started, watcher = time.monotonic(), pool.watcher
    watcher.stage(None, "predict images", len(found.images), "images")
    predicted = predict_files(chosen, found.images, folder, pool)
    watcher.finish(time.monotonic() - started)
    for sentence, times in sorted(predicted.warnings.items()):
        watcher.note(f"{times} times: {sentence}")
    if not predicted.rows:
        first = predicted.quarantined[0]
        raise DataError(f"none of the {len(found.images)} images can be used; {first.path}: {first.problem}")
    return predicted
