"""Chooses the thresholds per class and filters the pseudo-labels with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cellsemi.configs.schema import Config
from cellsemi.orchestrator.engine.protocol import Record, Worker
from cellsemi.orchestrator.steps.context import OF_CELLS, Context, do
from cellsemi.orchestrator.steps.jobs import ShardStage
from cellsemi.orchestrator.steps.over_shards import ShardWork
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.ensemble import Ensemble
from cellsemi.rounds.pseudo_labels.background import label_score, wrong_background
from cellsemi.rounds.pseudo_labels.filter import count_reasons, count_states, filter_cells
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.pseudo_labels.quality import Quality, fit_quality
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds, choose_thresholds
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.prediction_pairs import cells_of, grouped_pairs
from cellsemi.rounds.store.predictions import UNLABELLED, PredictionSet, as_unlabelled, evaluated_sets
from cellsemi.rounds.store.run import ENSEMBLE
from cellsemi.rounds.store.steps import Step

# What the thresholds are chosen by, and what they then teach wrongly is measured with.
CHOSEN_BY = (
    *("thresholds", "objective", "f_beta", "min_precision", "reject_below"),
    *("areas", "area_quantile", "area_slack", "quality", "min_samples"),
    *("background", "ignore_dilation_px", "max_wrong_background", "weight_by_quality"),
)


def set_thresholds(context: Context, round: int, teachers: Ensemble) -> None:
    """Calibrate the teachers' fused predictions on out-of-sample images and choose thresholds per class: filter.json.

    The teachers never trained on these images, and predict them as they predict unlabelled ones; test images are not
    opened here.
    """
    config, paths = context.config, context.paths
    sets = evaluated_sets(config, teachers.round, ENSEMBLE, as_unlabelled(config))
    # A few training images may lack a size that the unlabelled ones have: every human cell that is not test counts.
    human = [paths.split(name) for name in folds_of(config)[0].human]
    predicted = [each.folder(paths) for each in sets]
    path, min_votes = paths.filter(round), _min_votes(config, teachers)
    step = Step(
        round=round,
        name="calibrate and choose thresholds",
        output=path,
        settings=context.read(*(f"filter.{name}" for name in CHOSEN_BY), "fusion.min_votes", *OF_CELLS),
        inputs=(*human, *predicted, *(each.images(paths) for each in sets)),
        parameters={"min_votes": min_votes},
        total=sum(read_manifest(folder).rows for folder in predicted),
    )

    def work() -> None:
        pairs, groups = grouped_pairs([each.pair(paths) for each in sets])
        found, unseen = fit_quality(pairs, config.data.classes, config.filter, groups)
        drawn = (cells.in_state("human") for cells in cells_of(*human))
        thresholds = choose_thresholds(unseen, drawn, config.data.classes, config.filter)
        filtered = [(_filtered(config, thresholds, round, cells, min_votes), truth) for cells, truth in unseen]
        wrong = wrong_background(filtered, config.data.classes, config.filter.ignore_dilation_px)
        limit = config.filter.max_wrong_background
        FilterFile.of(found, thresholds, wrong, limit, label_score(filtered)).write(path)
        context.watcher.advance(len(pairs))

    do(context, step, work)


def _filtered(config: Config, thresholds: Thresholds, round: int, cells: Instances, min_votes: int) -> Instances:
    """The calibrated cells of an image with their states and reasons."""
    weighted = config.filter.weight_by_quality
    return filter_cells(cells, thresholds, min_votes, config.data.classes, round, weight_by_quality=weighted)


def _min_votes(config: Config, teachers: Ensemble) -> int:
    """The votes that a mask needs: no more than there are teachers."""
    return min(config.fusion.min_votes, len(teachers.members))


def filtering(context: Context, round: int, teachers: Ensemble, fold: Fold) -> ShardWork:
    """The work of giving every fused mask of the unlabelled images its state and reason, into the pseudo shards.

    Where fewer teachers are left than `fusion.min_votes`, since the others diverged, as many votes are asked for as
    there are teachers: with the votes of the config no mask could train.
    """
    config, paths = context.config, context.paths
    chosen, min_votes = paths.filter(round), _min_votes(config, teachers)
    step = Step(
        round=round,
        name=f"filter {fold.member('pseudo-labels')}",
        output=paths.pseudo(round, fold.suffix),
        settings=context.read("fusion.min_votes", "filter.weight_by_quality", *OF_CELLS),
        inputs=(chosen,),
        parameters={"min_votes": min_votes},
    )
    source = PredictionSet(teachers.round, ENSEMBLE, fold, UNLABELLED).folder(paths)
    return ShardWork(step, source, lambda stage: FilterJob(stage, str(chosen), config, round, min_votes))


def note_votes(context: Context, round: int, teachers: Ensemble) -> None:
    """Tell when fewer votes are asked for than the config says, since fewer teachers are left."""
    asked, min_votes = context.config.fusion.min_votes, _min_votes(context.config, teachers)
    if min_votes < asked:
        context.watcher.note(
            f"round {round}: fusion.min_votes is {asked}, but of the teachers only {', '.join(teachers.members)} "
            f"{'are' if min_votes > 1 else 'is'} left: {min_votes} asked for in this round"
        )


@dataclass(frozen=True, slots=True)
class FilterJob:
    """Calibrates and filters the fused masks of one shard."""

    stage: ShardStage
    chosen: str  # path of filter.json
    config: Config
    round: int
    min_votes: int
    name: str = "filter pseudo-labels"
    uses_device: bool = False

    def start(self) -> Worker:
        """Read the calibration and the thresholds, once."""
        return _Filter(self)


class _Filter:
    def __init__(self, job: FilterJob) -> None:
        self._job = job
        chosen = FilterFile.read(files.place(job.chosen))
        self._quality = Quality.from_json(chosen.model_dump(), job.config.data.classes)
        self._thresholds = Thresholds.from_json(chosen.thresholds, job.config.data.classes)

    def run(self, item: int) -> Record:
        reasons: Counter[str] = Counter()
        out = []
        for record in self._job.stage.records(item):
            filtered = None if record.instances is None else self._filter(record.instances)
            reasons += Counter() if filtered is None else count_reasons(filtered)
            out.append(record.with_(instances=filtered))
        return self._job.stage.commit(item, out, reasons=dict(sorted(reasons.items())))

    def _filter(self, cells: Instances) -> Instances:
        job = self._job
        return _filtered(job.config, self._thresholds, job.round, self._quality.apply(cells), job.min_votes)


def pseudo_counts(context: Context, round: int) -> dict[str, int]:
    """Accepted, ignored and rejected cells of a round, of all its folds, from the manifests of its pseudo-labels."""
    total: Counter[str] = Counter()
    for fold in folds_of(context.config):
        for shard in read_manifest(context.paths.pseudo(round, fold.suffix)).shards:
            total += Counter(shard.reasons)
    return count_states(total)
