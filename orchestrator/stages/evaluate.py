"""Chooses the ensemble of a round, and evaluates every model of it on validation and test images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

from cellsemi.configs.errors import RunError
from cellsemi.configs.models import MasksConfig
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.steps.context import OF_CELLS, Context, do
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.choose_cutoffs import choose_cutoffs
from cellsemi.rounds.evaluation.ensemble import read_calibrations
from cellsemi.rounds.evaluation.ensemble_selection import Selected, everyone, greedy
from cellsemi.rounds.evaluation.evaluation_table import Evaluation, write_evaluations
from cellsemi.rounds.evaluation.metrics import best_threshold, coco_map, score_image
from cellsemi.rounds.pseudo_labels.fusion import Recalls, fuse
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.prediction_pairs import all_pairs, cells_of, grouped_pairs, paired
from cellsemi.rounds.store.predictions import EVALUATED, evaluated_sets, pairs_of
from cellsemi.rounds.store.run import ENSEMBLE
from cellsemi.rounds.store.steps import Step

Pairs = list[tuple[Path, Path]]  # (predictions, images) folders


class MembersFile(OnDisk):
    """The students that were chosen for a round's ensemble, `members.json`."""

    members: tuple[str, ...]
    why: str


def with_val(context: Context, round: int, names: Sequence[str]) -> list[str]:
    """The models that have predicted a validation image; teachers whose masks lack them all are named.

    Nothing says how good such masks are. RunError when no model is left.
    """
    config, paths = context.config, context.paths
    left = []
    for name in names:
        sets = (
            evaluated_sets(config, round, name, "val")
            if isinstance(config.model_called(name, round), MasksConfig)
            else ()
        )
        if sets and all(cells is None for cells in _each(each.folder(paths) for each in sets)):
            context.watcher.note(f"round {round}: {name} does not teach: it has masks of no validation image")
        else:
            left.append(name)
    if not left:
        raise RunError(
            f"round {round}: no teacher has masks of a validation image, so nothing says how good they are; add masks "
            "of the labelled images to the folder (models: folder)"
        )
    return left


def worth_fusing(context: Context, round: int, names: Sequence[str], calibration_file: Path | None) -> list[str]:
    """The models whose calibrated precision and recall are more than nil, or all where none is; the others are named.

    Averaged with others, a model that finds nothing takes from what they find.
    """
    calibrations = read_calibrations(calibration_file, context.config.data.classes)
    nothing = {name: why for name in names if name in calibrations and (why := calibrations[name].nothing)}
    if len(nothing) == len(names):
        return list(names)
    for name, why in nothing.items():
        context.watcher.note(f"round {round}: {name} is left out of the ensemble: on validation images {why}")
    return [name for name in names if name not in nothing]


def choose_members(context: Context, round: int, names: Sequence[str], calibration_file: Path | None) -> Selected:
    """The models that form the round's ensemble: all that find something, or those chosen on val, into members.json."""
    config, paths = context.config, context.paths
    students = worth_fusing(context, round, names, calibration_file)
    if config.rounds.ensemble == "all":
        return everyone(students, [name for name in names if name not in students])
    path = paths.members(round)
    pairs = {name: pairs_of(paths, evaluated_sets(config, round, name, "val")) for name in students}
    step = Step(
        round=round,
        name="choose the ensemble",
        output=path,
        settings=context.read("rounds.ensemble", "fusion", *OF_CELLS),
        inputs=(*_folders(pairs.values()), *([calibration_file] if calibration_file else [])),
        parameters={"students": list(students)},
        total=len(students),
        unit="models",
    )

    def work() -> None:
        chosen = _chosen(config, pairs, calibration_file)
        MembersFile(members=chosen.members, why=chosen.why).write(path)
        context.watcher.advance(len(students))

    do(context, step, work)
    found = MembersFile.read(path)
    return Selected(found.members, found.why)


def _chosen(config: Config, pairs: Mapping[str, Pairs], calibration_file: Path | None) -> Selected:
    calibrations = read_calibrations(calibration_file, config.data.classes)
    recalls = {name: found.recalls for name, found in calibrations.items()}
    predicted = {
        name: [
            calibrations[name].as_scores(cells) if cells is not None and name in calibrations else cells
            for cells in _each(predictions for predictions, _ in folders)
        ]
        for name, folders in pairs.items()
    }
    students = list(pairs)
    truth = list(cells_of(*(images for _, images in pairs[students[0]])))

    def score_of(members: tuple[str, ...]) -> float:
        pairs = list(_fused(config, {name: predicted[name] for name in members}, truth, recalls))
        return best_threshold(pairs).map if pairs else 0.0

    return greedy(students, score_of, at_least=config.fusion.min_votes)


def _folders(pairs: Iterable[Pairs]) -> Iterator[Path]:
    return chain.from_iterable(pair for each in pairs for pair in each)


def _each(folders: Iterable[Path]) -> Iterator[Instances | None]:
    """The predicted cells of each image of some folders; None where the teacher lacks it."""
    return (record.instances for folder in folders for record in shards.read_folder(folder))


def _fused(
    config: Config,
    predicted: Mapping[str, Sequence[Instances | None]],
    truth: Sequence[Instances],
    recalls: Mapping[str, Recalls],
) -> Iterator[tuple[Instances, Instances]]:
    """(fused predictions, human cells) of each image that a member has, as they are scored."""
    for true, *cells in zip(truth, *predicted.values(), strict=True):
        seen = {name: each for name, each in zip(predicted, cells, strict=True) if each is not None}
        if seen:
            yield scorable(fuse(seen, config.fusion, config.data.one_class_per_image, recalls), true)


def evaluate(context: Context, round: int, names: Sequence[str]) -> None:
    """Score every model of the round, and its ensemble, on val and test, into the round's evaluation table.

    Cutoffs are chosen on val; each val image is scored with those that images of other groups chose. With folds, val
    are all human labels, each image as predicted by models that never learned from it.
    """
    config, paths = context.config, context.paths
    models = [*names, ENSEMBLE]
    pairs = {
        (m, split): pairs_of(paths, evaluated_sets(config, round, m, split)) for m in models for split in EVALUATED
    }
    step = Step(
        round=round,
        name="evaluate",
        output=paths.evaluation(round),
        settings=context.read("rounds.cutoffs", "rounds.coco", *OF_CELLS),
        inputs=tuple(_folders(pairs.values())),
        parameters={"models": list(models)},
        total=len(models),
        unit="models",
    )

    def work() -> None:
        found: list[Evaluation] = []
        for count, model in enumerate(models, start=1):
            scored = [*_evaluated(config, round, model, {split: pairs[model, split] for split in EVALUATED})]
            if config.rounds.coco:
                scored = [replace(each, coco=coco_map(all_pairs(pairs[model, each.split]))) for each in scored]
            found += scored
            context.watcher.advance(count)
        write_evaluations(paths.evaluation(round), found, config.data.classes, context.config_hash)

    do(context, step, work)


def _evaluated(config: Config, round: int, model: str, pairs: Mapping[str, Pairs]) -> Iterator[Evaluation]:
    classes = len(config.data.classes)
    on_val, groups = grouped_pairs(pairs["val"])
    chosen = choose_cutoffs(on_val, groups, classes, config.rounds.cutoffs) if on_val else None
    cutoffs = chosen.cutoffs if chosen else Cutoffs.same(0.0, classes)
    for split in EVALUATED:
        images = chain.from_iterable(paired(*pair) for pair in pairs[split])
        each = chosen.of_others if chosen and split == "val" else repeat(cutoffs)
        scores = tuple(
            score_image(image_id, known, used.kept(cells))
            for (image_id, cells, known), used in zip(images, each, strict=False)
        )
        yield Evaluation(round, model, split, cutoffs, scores)
