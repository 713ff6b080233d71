"""Which sizes the pool's cells have, and how the ensembles of two rounds do on validation images of these sizes."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

from cellsemi.orchestrator.stages.context import Context
from cellsemi.orchestrator.stages.fuse import fuse_members
from cellsemi.orchestrator.stages.jobs import ZOOMS
from cellsemi.orchestrator.stages.predict import predict
from cellsemi.rounds.evaluation.metrics import ImageScore, score_image
from cellsemi.rounds.evaluation.size_shift import enlargements
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.prediction_pairs import paired
from cellsemi.rounds.store.prediction_splits import UNLABELLED, Calibrations, enlarged, judged, trial_of
from cellsemi.rounds.store.run import ENSEMBLE


def measure(context: Context, names: tuple[str, ...]) -> None:
    """Compare the zooms that the models of round 0 chose on the pool with those on val, into sizes.json; note it.

    They learned from human labels alone and are surest at the sizes of these; later teachers have learned
    the sizes of the pool, and their zooms say less.
    """
    trial = trial_of(context.config)
    pool = _zooms(context, names, UNLABELLED)
    found = enlargements(pool, _zooms(context, names, trial)) if pool else {1.0: 1.0}
    files.write_json(context.paths.sizes, {"shares": {f"{size:g}": share for size, share in found.items()}})
    if set(found) != {1.0}:
        sizes = ", ".join(f"{share:.0%} are {size:g} times as large" for size, share in found.items())
        context.watcher.note(f"round 1: cells of the pool beside those of val: {sizes}")


def _zooms(context: Context, names: tuple[str, ...], split: str) -> Counter[float]:
    """Images by the zoom at which a model of round 0 kept them; empty where there was no search."""
    counted: Counter[float] = Counter()
    for name in names:
        for fold in folds_of(context.config):
            folder = context.paths.predictions(0, fold.member(name), split)
            shards: list[dict[str, Any]] = read_manifest(folder)["shards"]
            for zoom, count in chain.from_iterable(shard.get(ZOOMS, {}).items() for shard in shards):
                counted[float(zoom)] += count
    return counted


def shares(context: Context) -> dict[float, float]:
    """Enlargement of val images -> share of the pool, as `measure` found; nothing where they are all alike."""
    path = context.paths.sizes
    if not (context.config.rounds.promotion.unlabelled_sizes and path.is_file()):
        return {}
    found = {float(size): float(share) for size, share in files.read_json(path)["shares"].items()}
    return {} if set(found) == {1.0} else found


def scores_at(
    context: Context,
    round: int,
    model_round: int,
    name: str,
    members: tuple[str, ...],
    worth: Calibrations,
    enlargement: float,
    threshold: float,
) -> tuple[ImageScore, ...]:
    """The scores of a model, or of the ensemble of `members`, on val images that are enlarged so many times."""
    split = enlarged(enlargement)
    for member in members:
        predict(context, round, model_round, member, split)
    if name == ENSEMBLE:
        fuse_members(context, round, model_round, members, split, worth)
    pairs = judged(context.config, context.paths, model_round, name, split)
    images = chain.from_iterable(paired(*pair) for pair in pairs)
    return tuple(score_image(image_id, known, cells, threshold) for image_id, cells, known in images)
