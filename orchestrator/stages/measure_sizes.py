"""Measures the cell sizes of the unlabelled images, and evaluates ensembles on validation images of these sizes."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from cellsemi.orchestrator.stages.fuse import fuse_members
from cellsemi.orchestrator.stages.predict import predict
from cellsemi.orchestrator.steps.context import Context, do
from cellsemi.rounds.evaluation.ensemble import Ensemble
from cellsemi.rounds.evaluation.metrics import ImageScore, score_image
from cellsemi.rounds.evaluation.size_shift import enlargements
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.prediction_pairs import paired
from cellsemi.rounds.store.predictions import UNLABELLED, PredictionSet, as_unlabelled, evaluated_sets
from cellsemi.rounds.store.run import ENSEMBLE
from cellsemi.rounds.store.steps import Step


class SizeFile(OnDisk):
    """Which enlargement of val images has which share of the unlabelled images, `round-01/sizes.json`."""

    shares: dict[str, float]


def measure(context: Context, names: tuple[str, ...]) -> None:
    """Compare the scales that the models of round 0 chose on unlabelled images with those on val, into sizes.json.

    They learned from human labels alone and score best at the sizes of these; later teachers have learned
    the sizes of the unlabelled images, and their scales say less.
    """
    paths = context.paths
    seen = [_sets(context, names, split) for split in (UNLABELLED, as_unlabelled(context.config))]

    def work() -> None:
        unlabelled, val = (_scales(context, sets) for sets in seen)
        found = enlargements(unlabelled, val) if unlabelled else {1.0: 1.0}
        SizeFile(shares={f"{size:g}": share for size, share in found.items()}).write(paths.sizes)

    folders = tuple(each.folder(paths) for sets in seen for each in sets)
    step = Step(
        round=1,
        name="compare cell sizes",
        output=paths.sizes,
        settings={},
        inputs=folders,
        parameters={"models": list(names)},
        total=len(names),
        unit="models",
    )
    do(context, step, work)
    found = _read(context)
    if set(found) != {1.0}:
        sizes = ", ".join(f"{share:.0%} are {size:g}x larger" for size, share in found.items())
        context.watcher.note(f"round 1: unlabelled cells vs validation cells: {sizes}")


def _sets(context: Context, names: tuple[str, ...], split: str) -> list[PredictionSet]:
    return [PredictionSet(0, name, fold, split) for name in names for fold in folds_of(context.config)]


def _scales(context: Context, sets: list[PredictionSet]) -> Counter[float]:
    """Images by the scale at which a model of round 0 kept them; empty where there was no search."""
    counted: Counter[float] = Counter()
    for each in sets:
        shards = read_manifest(each.folder(context.paths)).shards
        for scale, count in chain.from_iterable(shard.scales.items() for shard in shards):
            counted[float(scale)] += count
    return counted


def _read(context: Context) -> dict[float, float]:
    return {float(size): share for size, share in SizeFile.read(context.paths.sizes).shares.items()}


def shares(context: Context) -> dict[float, float]:
    """Enlargement of val images -> share of the unlabelled images, as `measure` found; empty where all are alike."""
    if not (context.config.rounds.promotion.unlabelled_sizes and context.paths.sizes.is_file()):
        return {}
    found = _read(context)
    return {} if set(found) == {1.0} else found


def scores_at(context: Context, at: int, ensemble: Ensemble, scale: float) -> tuple[ImageScore, ...]:
    """The scores of an evaluated ensemble, or of the control, on val images that are enlarged so many times."""
    for name in ensemble.members:
        predict(context, at, PredictionSet(ensemble.round, name, None, "val", scale))
    if ensemble.name == ENSEMBLE:
        fuse_members(context, at, ensemble, "val", scale)
    sets = evaluated_sets(context.config, ensemble.round, ensemble.name, "val", scale)
    images = chain.from_iterable(paired(*each.pair(context.paths)) for each in sets)
    cutoffs = ensemble.evaluation(context.paths).cutoffs
    return tuple(score_image(image_id, known, cutoffs.kept(cells)) for image_id, cells, known in images)
