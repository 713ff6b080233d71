"""Scores every model of a round on validation and test images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from cellsemi.configs.schema import Config
from cellsemi.orchestrator.stages.context import Context
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.calibration import Calibration
from cellsemi.rounds.evaluation.ensemble_selection import Selected, everyone, greedy
from cellsemi.rounds.evaluation.evaluation_table import Evaluation, read_evaluations, write_evaluations
from cellsemi.rounds.evaluation.metrics import best_threshold, score_image
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import outputs_fingerprint
from cellsemi.rounds.store.prediction_pairs import all_pairs, cells_of, paired
from cellsemi.rounds.store.prediction_splits import EVALUATED, Calibrations, judged
from cellsemi.rounds.store.run import ENSEMBLE


def choose_members(context: Context, round: int, students: Sequence[str], calibrations: Calibrations) -> Selected:
    """The students that form the round's ensemble: all, or those chosen on val, into members.json."""
    config, paths = context.config, context.paths
    if config.rounds.ensemble == "all":
        return everyone(students)
    path, title = paths.members(round), "choose the ensemble"
    folders = {name: list(judged(context.config, context.paths, round, name, "val")) for name in students}
    fingerprint = files.sha256_json([[name, _prints(pairs)] for name, pairs in folders.items()] + [calibrations])
    if path.is_file() and (content := files.read_json(path))["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
        return Selected(tuple(content["members"]), content["why"])
    started = time.monotonic()
    context.watcher.stage(round, title, len(students), "models")
    classes = config.data.classes
    worth = {name: Calibration.from_json(found, classes).as_scores for name, found in calibrations.items()}
    said = {
        name: [worth[name](cells) if name in worth else cells for cells in cells_of(*(pair[0] for pair in pairs))]
        for name, pairs in folders.items()
    }
    truth = list(cells_of(*(images for _, images in folders[students[0]])))

    def score_of(members: tuple[str, ...]) -> float:
        return best_threshold(_fused(config, {name: said[name] for name in members}, truth)).map

    chosen = greedy(students, score_of, at_least=config.fusion.min_votes)
    files.write_json(path, {"fingerprint": fingerprint, **asdict(chosen)})
    context.watcher.advance(len(students))
    context.finish(round, time.monotonic() - started)
    return chosen


def _prints(pairs: Sequence[tuple[Path, Path]]) -> list[list[str]]:
    return [[outputs_fingerprint(folder) for folder in pair] for pair in pairs]


def _fused(
    config: Config, said: Mapping[str, Sequence[Instances]], truth: Sequence[Instances]
) -> Iterator[tuple[Instances, Instances]]:
    """(fused predictions, human cells) of each image, as they are scored."""
    for true, *cells in zip(truth, *said.values(), strict=True):
        fused = fuse(dict(zip(said, cells, strict=True)), config.fusion, config.data.one_class_per_image)
        yield scorable(fused, true)


def evaluate(context: Context, round: int, names: Sequence[str]) -> list[Evaluation]:
    """Score every model of the round, and its ensemble, on val and test, into the round's evaluation table.

    With folds, val are all human labels, each image as seen by those who never learned from it.
    """
    paths, classes = context.paths, context.config.data.classes
    path, title = paths.evaluation(round), "evaluate"
    marker = path.with_suffix(".json")
    models = [*names, ENSEMBLE]
    folders = {(m, split): list(judged(context.config, paths, round, m, split)) for m in models for split in EVALUATED}
    fingerprint = files.sha256_json([[*key, _prints(pairs)] for key, pairs in folders.items()])
    if marker.is_file() and files.read_json(marker)["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
        return read_evaluations(path, classes)
    started = time.monotonic()
    context.watcher.stage(round, title, len(models), "models")
    found: list[Evaluation] = []
    for count, model in enumerate(models, start=1):
        threshold = best_threshold(all_pairs(folders[model, "val"])).value
        found += [_scored(round, model, split, threshold, folders[model, split]) for split in EVALUATED]
        context.watcher.advance(count)
    write_evaluations(path, found, classes, context.config_hash)
    files.write_json(marker, {"fingerprint": fingerprint})
    context.finish(round, time.monotonic() - started)
    return found


def _scored(round: int, model: str, split: str, threshold: float, folders: Sequence[tuple[Path, Path]]) -> Evaluation:
    images = chain.from_iterable(paired(*folder) for folder in folders)
    scores = tuple(score_image(image_id, known, cells, threshold) for image_id, cells, known in images)
    return Evaluation(round, model, split, threshold, scores)
