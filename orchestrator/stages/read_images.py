"""Before the rounds: the models are looked after, the user's images become shards, bad ones are put aside."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from cellsemi.configs.models import WithWeights
from cellsemi.configs.schema import Config
from cellsemi.models import weight_files
from cellsemi.models.registry import family
from cellsemi.orchestrator.stages.context import Context, finish_shards
from cellsemi.rounds.datasets.ignore_label_issues import inputs_fingerprint
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport, sentences
from cellsemi.rounds.store.manifest import finish_stage, is_done
from cellsemi.rounds.store.run import SPLITS


def check_models(config: Config) -> None:
    """ModelError, before anything is begun, when a model lacks its framework or its weights are not as stated."""
    for model in config.models:
        family(model.kind)  # refuses when a package is missing, with the line that installs it
        if isinstance(model, WithWeights) and model.weights is not None:
            weight_files.verify(model.weights, model.weights_sha256)


def read_images(context: Context) -> None:
    """Read the data set into the run's shards, once: the run keeps its own copy of what it was made from."""
    paths, title = context.paths, "read images"
    fingerprint = inputs_fingerprint(context.config.data, context.config_hash)
    if is_done(paths.data, fingerprint):
        context.watcher.skipped(0, title)
        return
    context.check_space()
    begun: dict[str, float] = {}

    def on_image(split: str, done: int, of: int) -> None:
        if split not in begun:
            begun[split] = time.monotonic()
            context.watcher.stage(0, f"{title}: {split}", of, "images")
        context.watcher.advance(done)
        if done == of:
            context.finish(0, time.monotonic() - begun[split])

    report = ingest(context.config, paths.data, context.config_hash, on_image)
    for split in SPLITS:
        finish_shards(paths.split(split), fingerprint, 0.0, report.shards[split])
    finish_stage(paths.data, fingerprint, report.seconds, report=_told(report))
    for line in sentences(report, context.config.data):
        context.watcher.note(line)


def _told(report: IngestReport) -> dict[str, Any]:
    content = asdict(report)
    del content["shards"], content["seconds"]
    return content
