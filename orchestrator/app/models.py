"""Lists the models that a person may choose, loads them when they are asked for, and predicts each image once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from cellsemi.configs.errors import UsageError
from cellsemi.orchestrator.app.found import Found, find_cells
from cellsemi.orchestrator.apply.choose_model import ChosenModel, choose_model, of_run
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.explain.explain import Explained, Picture, explain, find_picture
from cellsemi.orchestrator.explain.run_image import image_called
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.run import RunPaths

Key = TypeVar("Key")
Value = TypeVar("Value")
RECOMMENDED = "recommended"
LOADED, REMEMBERED = 2, 8  # models in memory, and images whose cells are kept


class Models:
    """The models of a run and exported ones; one at a time predicts."""

    def __init__(self, paths: RunPaths | None, folders: Sequence[Path], device: str = "auto") -> None:
        self._paths, self._folders, self._device = paths, tuple(folders), device
        self._loaded: OrderedDict[str, tuple[ChosenModel, EnsemblePredictor]] = OrderedDict()
        self._found: OrderedDict[tuple[str, str], Found] = OrderedDict()
        self._lock = threading.Lock()

    def choices(self) -> list[tuple[str, str]]:
        """(what it is, its key) of each model, as the disk says now: a run that is being made gets more."""
        found = []
        if self._paths is not None and self._paths.finished_rounds():
            found.append((f"what {self._paths.name} recommends", RECOMMENDED))
            rows = leaderboard.read(self._paths.leaderboard)
            found += [(f"round {row.round}, {row.model}", f"{row.round}/{row.model}") for row in reversed(rows)]
        return found + [(f"exported: {folder.name}", f"folder/{i}") for i, folder in enumerate(self._folders)]

    def find(self, key: str, image: Path | str) -> tuple[Found, bool]:
        """The cells of an image, and whether they were known already; `image` is a file, or the id of one of the run.

        A CellsemiError says why the model or the image cannot be used.
        """
        with self._lock:
            chosen, predictor, fingerprint = self._open(key)
            picture = self._picture(image, predictor)
            at = (fingerprint, f"{picture.record.sha256} {picture.record.image_id}")
            known = at in self._found
            if not known:
                self._found[at] = find_cells(predictor, chosen, picture)
            _newest(self._found, at, REMEMBERED)
            return self._found[at], known

    def explain(self, key: str, image: Path | str, keep: Cutoffs) -> Explained:
        """What the members of a model computed for an image; errors as `find`."""
        with self._lock:
            chosen, predictor, _ = self._open(key)
            return explain(predictor, self._picture(image, predictor), keep, chosen.seen)

    def _open(self, key: str) -> tuple[ChosenModel, EnsemblePredictor, str]:
        chosen = self._chosen(key)
        fingerprint = chosen.model.fingerprint
        if fingerprint not in self._loaded:
            self._loaded[fingerprint] = chosen, EnsemblePredictor(chosen.model, self._device)
        _newest(self._loaded, fingerprint, LOADED)
        return *self._loaded[fingerprint], fingerprint

    def _chosen(self, key: str) -> ChosenModel:
        kind, _, name = key.partition("/")
        if kind == "folder":
            return choose_model(None, self._folders[int(name)])
        if self._paths is None:
            raise UsageError("no model: the app was started without a run and without --model FOLDER")
        return of_run(self._paths) if kind == RECOMMENDED else of_run(self._paths, int(kind), name)

    def _picture(self, image: Path | str, predictor: EnsemblePredictor) -> Picture:
        """The image with its file in the record, so that it can be written in every format."""
        most = predictor.recipe.max_pixels
        if isinstance(image, Path):
            found = find_picture(str(image), most, self._paths)
            return Picture(found.pixels, found.record.with_(image=image.read_bytes()), found.known)
        if self._paths is None:
            raise UsageError("an id names an image of a run; the app was started without one")
        known = image_called(self._paths, image)
        assert known.record.image is not None, "the rows of a split hold their images"
        pixels = decode_image(known.record.image, known.record.source or image, most)
        return Picture(pixels, known.record, known)


def _newest(kept: OrderedDict[Key, Value], key: Key, most: int) -> None:
    """Make `key` the newest, and forget the oldest of more than `most`."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
