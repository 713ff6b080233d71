"""Finds how long a model has to be trained: until twice as many steps no longer raise its score on validation images.

A comparison with longer training on the human labels can only be won where longer training no longer helps, and how
long that takes depends on the data. So with `training.steps: auto` a fit is done in parts: the first has
`training.first_steps`, each later one starts from the weights of the one before and doubles the steps so far. The
last part that raised the validation mAP by `training.min_gain` or more, or any later one that is better, is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cellsemi.configs.training import AUTO_PROBABILITY
from cellsemi.models.base import FitResult, FitTask, Image, Progress
from cellsemi.models.model_files import LOSS_FILE, PARTS, ModelFacts, read_model_file, read_weights, write_model_file
from cellsemi.models.registry import load_predictor
from cellsemi.models.validation.choose_probabilities import OnValidation, choose
from cellsemi.models.validation.over_images import over_images
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.metrics import best_threshold
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import FoundSteps


@dataclass(frozen=True, slots=True)
class Search:
    """The first number of steps to try, the most, and the gain in validation mAP that asks for more."""

    first: int
    most: int
    min_gain: float
    validation: OnValidation

    def totals(self) -> list[int]:
        """The numbers of steps that may be tried: doubled each time, the last one is `most`."""
        found = [min(self.first, self.most)]
        while found[-1] < self.most:
            found.append(min(2 * found[-1], self.most))
        return found


Fit = Callable[[FitTask, Progress], FitResult]


def fit_until_it_stops(fit: Fit, task: FitTask, search: Search, progress: Progress) -> tuple[FitResult, FoundSteps]:
    """Train `task` in parts into its folder; returns the figures of all parts together, and the scores of each.

    A call that was interrupted goes on where it was, as each part does. `task.steps` is not read.
    """
    folder = files.place(task.out_dir)
    done, scores, results, teacher = 0, dict[int, float](), list[FitResult](), task.teacher
    left_out: dict[str, str] = {}
    for total in search.totals():
        part = replace(
            task,
            out_dir=str(folder / PARTS / str(total)),
            seed=derive_seed(task.seed, "part", total),
            steps=total - done,
            teacher=teacher,
        )
        results.append(_fit_once(fit, part, _later(progress, done, search.most)))
        scores[total] = _validation_map(search.validation, files.place(part.out_dir), left_out)
        before = scores.get(done, 0.0)
        done, teacher = total, part.out_dir
        if len(scores) > 1 and scores[total] - before < search.min_gain:
            break
    kept = max(scores, key=lambda total: (round(scores[total], 9), -total))
    used = results[: list(scores).index(kept) + 1]
    _adopt(task, [folder / PARTS / str(total) for total in scores if total <= kept], kept)
    files.remove_folder(folder / PARTS)
    result = replace(used[-1], steps=kept, seconds=sum(each.seconds for each in results))
    by_steps = {str(total): score for total, score in scores.items()}
    return result, FoundSteps(steps=kept, scores=by_steps, left_out=left_out)


def _later(progress: Progress, done: int, most: int) -> Progress:
    return lambda step, _: progress(done + step, most)


def _fit_once(fit: Fit, part: FitTask, progress: Progress) -> FitResult:
    """Fit a part, or take it as an interrupted call left it."""
    path = files.place(part.out_dir) / "result.json"
    if path.is_file():
        return FitResult(**files.read_json(path))
    found = fit(part, progress)
    files.write_json(path, {name: getattr(found, name) for name in FitResult.__dataclass_fields__})
    return found


def _validation_map(validation: OnValidation, model: Path, left_out: dict[str, str]) -> float:
    """The mAP of a trained folder on the validation images, at the best score threshold."""
    inference = validation.inference
    if inference.cell_probability == AUTO_PROBABILITY and read_model_file(model).model.has_cell_probability:
        chosen = choose(validation, model).cell_probability
        assert chosen is not None  # it was asked for
        inference = inference.at_probability(chosen.chosen)
    predictor = load_predictor(model, inference, validation.device)

    def pair(image: Image, human: Instances) -> tuple[Instances, Instances]:
        (found,) = predictor.predict([image])
        return scorable(found, human)

    return best_threshold(list(over_images(files.place(validation.images), validation.max_pixels, pair, left_out))).map


def _adopt(task: FitTask, parts: list[Path], steps: int) -> None:
    """Make the last of the parts the result of the fit, with the curves of all of them."""
    folder, last, first = files.place(task.out_dir), read_model_file(parts[-1]), read_model_file(parts[0])
    from cellsemi.models.training.result import join_curves  # with torch, which the driver does without

    join_curves(parts, folder)
    losses = pq.read_table(files.local(parts[-1] / LOSS_FILE))["loss"].to_numpy()
    loss = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    changed = {
        "fingerprint": task.fingerprint,
        "training": last.training.model_copy(update={"steps": steps, "seed": task.seed, "loss": loss}),
        "teacher_sha256": first.teacher_sha256,
    }
    facts = ModelFacts(**{name: getattr(last, name) for name in ModelFacts.model_fields} | changed)
    write_model_file(folder, read_weights(parts[-1]), facts)
