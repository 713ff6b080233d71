"""From what the teachers saw to what the students learn: calibrate, choose limits, screen, merge."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsemi.configs.schema import Config
from cellsemi.orchestrator.engine.protocol import Worker
from cellsemi.orchestrator.stages.context import Context, over_shards
from cellsemi.orchestrator.stages.jobs import ShardStage
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.filter import count_reasons, count_states, screen
from cellsemi.rounds.pseudo_labels.quality import Quality, fit_quality
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds, choose_thresholds
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import outputs_fingerprint, read_manifest
from cellsemi.rounds.store.prediction_pairs import all_pairs, cells_of
from cellsemi.rounds.store.prediction_splits import UNLABELLED, judged, trial_of
from cellsemi.rounds.store.run import ENSEMBLE

REASONS = "reasons"


def set_thresholds(context: Context, round: int, teachers_round: int) -> None:
    """Calibrate the teachers on out-of-sample images and choose the limits per class, into filter.json.

    The teachers never trained on these images, and look at them as at the pool; test images are not opened here.
    """
    config, paths = context.config, context.paths
    folders = list(judged(context.config, context.paths, teachers_round, ENSEMBLE, trial_of(config)))
    # A few training images may lack a size that the pool has: every human-drawn cell that is not test counts.
    human = [paths.split(name) for name in folds_of(config)[0].human]
    read = [*human, *(predicted for predicted, _ in folders)]
    fingerprint = files.sha256_json([[outputs_fingerprint(folder) for folder in read], context.config_hash])
    path = paths.filter(round)
    title = "calibrate and set limits"
    if path.is_file() and files.read_json(path)["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
        return
    started = time.monotonic()
    pairs = all_pairs(folders)
    context.watcher.stage(round, title, len(pairs), "images")
    found = fit_quality(pairs, config.data.classes, config.filter)
    calibrated = [(found.apply(cells), truth) for cells, truth in pairs]
    drawn = (cells.in_state("human") for cells in cells_of(*human))
    limits = choose_thresholds(calibrated, drawn, config.data.classes, config.filter)
    content = {
        "fingerprint": fingerprint,
        **found.to_json(),
        "limits": limits.to_json(),
        "report": [*found.report(), *limits.report()],
    }
    files.write_json(path, content)
    context.watcher.advance(len(pairs))
    context.finish(round, time.monotonic() - started)


def label(context: Context, round: int, teachers_round: int) -> None:
    """Give every fused mask of the unlabelled images its state and reason, into the round's pseudo shards."""
    config, paths = context.config, context.paths
    chosen = files.read_json(paths.filter(round))
    for fold in folds_of(config):
        over_shards(
            context,
            round=round,
            title=f"screen {fold.member('pseudo-labels')}",
            source=paths.predictions(teachers_round, fold.member(ENSEMBLE), UNLABELLED),
            out=paths.pseudo(round, fold.suffix),
            inputs=[chosen["calibration"], chosen["regressor"], chosen["limits"], round],
            make_job=lambda stage: FilterJob(stage, str(paths.filter(round)), config, round),
        )


@dataclass(frozen=True, slots=True)
class FilterJob:
    """Calibrate and screen the fused masks of one shard."""

    stage: ShardStage
    chosen: str  # path of filter.json
    config: Config
    round: int
    name: str = "screen pseudo-labels"
    uses_device: bool = False

    def start(self) -> Worker:
        """Read the calibration and the limits, once."""
        return _Filter(self)


class _Filter:
    def __init__(self, job: FilterJob) -> None:
        self._job = job
        chosen = files.read_json(Path(job.chosen))
        self._quality = Quality.from_json(chosen, job.config.data.classes)
        self._limits = Thresholds.from_json(chosen["limits"], job.config.data.classes)

    def run(self, item: int) -> dict[str, Any]:
        reasons: Counter[str] = Counter()
        out = []
        for record in self._job.stage.records(item):
            filtered = None if record.instances is None else self._filter(record.instances)
            reasons += Counter() if filtered is None else count_reasons(filtered)
            out.append(record.with_(instances=filtered))
        return self._job.stage.commit(item, out, **{REASONS: dict(sorted(reasons.items()))})

    def _filter(self, cells: Instances) -> Instances:
        config = self._job.config
        return screen(
            self._quality.apply(cells),
            self._limits,
            config.fusion.min_votes,
            config.data.classes,
            self._job.round,
            weight_by_quality=config.filter.weight_by_quality,
        )


def pseudo_counts(context: Context, round: int) -> dict[str, int]:
    """Accepted, ignored and rejected cells of a round, of all its folds, from the manifests of its pseudo-labels."""
    total: Counter[str] = Counter()
    for fold in folds_of(context.config):
        for shard in read_manifest(context.paths.pseudo(round, fold.suffix))["shards"]:
            total += Counter(shard[REASONS])
    return count_states(total)
