"""From what the teachers saw to what the students learn: calibrate, choose limits, screen, merge."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cellsemi.configs.schema import Config
from cellsemi.orchestrator.context import Context, finish_shards, over_shards
from cellsemi.orchestrator.engine import Worker
from cellsemi.orchestrator.jobs import ShardStage
from cellsemi.rounds import files, run, shards
from cellsemi.rounds.calibrate import Calibration, calibrate
from cellsemi.rounds.instances import Instances
from cellsemi.rounds.limits import Limits, choose_limits
from cellsemi.rounds.matching import scorable
from cellsemi.rounds.merge import MergeCounts, merge, with_images
from cellsemi.rounds.run import ENSEMBLE
from cellsemi.rounds.screen import count_reasons, count_states, screen
from cellsemi.rounds.tables import ImageRecord

REASONS = "reasons"


def set_limits(context: Context, round: int, teachers_round: int) -> None:
    """Calibrate the teachers on validation images and choose the limits per class, into screen.json.

    The teachers never trained on these images; test images are not opened here.
    """
    config, paths = context.config, context.paths
    predicted = paths.predictions(teachers_round, ENSEMBLE, "val")
    inputs = [run.outputs_fingerprint(predicted), run.outputs_fingerprint(paths.train(0)), context.config_hash]
    fingerprint = files.sha256_json(inputs)
    path = paths.screen(round)
    title = "calibrate and set limits"
    if path.is_file() and files.read_json(path)["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
        return
    started = time.monotonic()
    pairs = list(scored_pairs(predicted, paths.split("val")))
    context.watcher.stage(round, title, len(pairs), "images")
    found = calibrate(pairs, config.data.classes, config.screen.min_samples)
    calibrated = [(found.apply(cells), truth) for cells, truth in pairs]
    labelled = (cells.in_state("human") for cells in cells_of(paths.train(0)))
    # A few training images may lack a size that the pool has: every human-drawn cell that is not test counts.
    drawn = chain(labelled, (truth for _, truth in pairs))
    limits = choose_limits(calibrated, drawn, config.data.classes, config.screen)
    content = {
        "fingerprint": fingerprint,
        "calibration": found.to_json(),
        "limits": limits.to_json(),
        "report": [*found.report(), *limits.report()],
    }
    files.write_json(path, content)
    context.watcher.advance(len(pairs))
    context.finish(round, time.monotonic() - started)


def label(context: Context, round: int, teachers_round: int) -> None:
    """Give every fused mask of the unlabelled images its state and reason, into the round's pseudo shards."""
    config, paths = context.config, context.paths
    chosen = files.read_json(paths.screen(round))
    over_shards(
        context,
        round=round,
        title="screen pseudo-labels",
        source=paths.predictions(teachers_round, ENSEMBLE, "unlabelled"),
        out=paths.pseudo(round),
        inputs=[chosen["calibration"], chosen["limits"], round],
        make_job=lambda stage: ScreenJob(stage, str(paths.screen(round)), config, round),
    )


@dataclass(frozen=True, slots=True)
class ScreenJob:
    """Calibrate and screen the fused masks of one shard."""

    stage: ShardStage
    chosen: str  # path of screen.json
    config: Config
    round: int
    name: str = "screen pseudo-labels"
    uses_device: bool = False

    def start(self) -> Worker:
        """Read the calibration and the limits, once."""
        return _Screen(self)


class _Screen:
    def __init__(self, job: ScreenJob) -> None:
        self._job = job
        chosen = files.read_json(Path(job.chosen))
        self._calibration = Calibration.from_json(chosen["calibration"], job.config.data.classes)
        self._limits = Limits.from_json(chosen["limits"], job.config.data.classes)

    def run(self, item: int) -> dict[str, Any]:
        reasons: Counter[str] = Counter()
        out = []
        for record in self._job.stage.records(item):
            screened = None if record.instances is None else self._screen(self._known_class(record, record.instances))
            reasons += Counter() if screened is None else count_reasons(screened)
            out.append(record.with_(instances=screened))
        return self._job.stage.commit(item, out, **{REASONS: dict(sorted(reasons.items()))})

    def _known_class(self, record: ImageRecord, cells: Instances) -> Instances:
        """The class that the data set states for an unlabelled image, as file names do, comes before a guess."""
        data = self._job.config.data
        if data.one_class_per_image and record.cell_type is not None:
            return cells.with_(class_id=data.classes.index(record.cell_type))
        return cells

    def _screen(self, cells: Instances) -> Instances:
        config = self._job.config
        return screen(
            self._calibration.apply(cells),
            self._limits,
            config.fusion.min_votes,
            config.data.classes,
            self._job.round,
            weight_by_quality=config.screen.weight_by_quality,
        )


def pseudo_counts(context: Context, round: int) -> dict[str, int]:
    """Accepted, ignored and rejected cells of a round, from the manifest of its pseudo-labels."""
    total: Counter[str] = Counter()
    for shard in run.read_manifest(context.paths.pseudo(round))["shards"]:
        total += Counter(shard[REASONS])
    return count_states(total)


def build_training_set(context: Context, round: int) -> None:
    """Human labels and, from round 1 on, the screened pseudo-labels, into the round's training shards."""
    paths = context.paths
    sources = [paths.split("labelled")] + ([paths.pseudo(round)] if round else [])
    fingerprint = files.sha256_json([[run.outputs_fingerprint(folder) for folder in sources], context.config_hash])
    out, title = paths.train(round), "build the training set"
    if run.is_done(out, fingerprint):
        context.watcher.skipped(round, title)
        return
    context.check_space()
    started = time.monotonic()
    total = sum(run.read_manifest(folder)["rows"] for folder in sources)
    context.watcher.stage(round, title, total, "images")
    counts = MergeCounts()
    pseudo: Iterable[ImageRecord] = ()
    if round:
        pseudo = with_images(shards.read_folder(paths.pseudo(round)), shards.read_folder(paths.split("unlabelled")))
    records = merge(shards.read_folder(paths.split("labelled")), pseudo, counts)
    size = context.config.data.shard_images
    commits = shards.write_folder(out, records, size, context.config_hash, context.watcher.advance)
    seconds = time.monotonic() - started
    finish_shards(out, fingerprint, seconds, commits, merged=counts.to_json())
    if counts.left_out:
        reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(counts.left_out.items()))
        context.watcher.note(f"round {round}: unlabelled images that teach nothing this round: {reasons}")
    context.finish(round, seconds)


def cells_of(folder: Path) -> Iterator[Instances]:
    """The cells of each image of a folder that was annotated or looked at."""
    return (record.instances for record in shards.read_folder(folder) if record.instances is not None)


def scored_pairs(predicted: Path, truth: Path) -> Iterator[tuple[Instances, Instances]]:
    """(predictions, human cells) of each image of two folders that hold the same images in order."""
    for _, cells, true in paired(predicted, truth):
        yield cells, true


def paired(predicted: Path, truth: Path) -> Iterator[tuple[str, Instances, Instances]]:
    """(image id, predictions, human cells) of each image; ValueError when the folders do not fit.

    What people marked to be ignored is neither missed nor found wrongly (`scorable`).
    """
    for found, known in zip(shards.read_folder(predicted), shards.read_folder(truth), strict=True):
        if found.image_id != known.image_id or found.instances is None or known.instances is None:
            raise ValueError(f"{predicted}: expected cells of {known.image_id!r}, got {found.image_id!r}")
        yield known.image_id, *scorable(found.instances, known.instances)
