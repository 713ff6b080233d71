"""Before the rounds: the models are looked after, the user's images become shards, bad ones are put aside."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from cellsemi.configs.data import DataConfig
from cellsemi.configs.models import WithWeights
from cellsemi.configs.schema import Config
from cellsemi.models import weight_files
from cellsemi.models.catalogue import CATALOGUE
from cellsemi.models.registry import family
from cellsemi.orchestrator.context import Context, finish_shards
from cellsemi.rounds.datasets.ignore_label_issues import inputs_fingerprint
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.store.manifest import finish_stage, is_done
from cellsemi.rounds.store.run import QUARANTINE_FILE, SPLITS


def check_models(config: Config) -> None:
    """ModelError, before anything is begun, when a model lacks its framework or its weights are not as stated."""
    for model in config.models:
        wanted = {package for known in CATALOGUE if known.kind == model.kind for package in known.packages}
        if any(find_spec(package) is None for package in wanted):
            family(model.kind)  # says what is missing, and the line that installs it
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


def sentences(report: IngestReport, data: DataConfig) -> list[str]:
    """What a person must know about the data: sizes, and everything that was left out."""
    images, cells = report.images, report.cells
    lines = [
        f"{images['labelled']} labelled images ({cells['labelled']} cells), {images['unlabelled']} unlabelled, "
        f"{images['val']} val ({cells['val']} cells), {images['test']} test ({cells['test']} cells)"
    ]
    lines += report.notes
    lines += [f"{count} cells: {what} (data.clean)" for what, count in report.cleaned.items()]
    if report.repeated:
        lines.append(f"{report.repeated} cells of images that are listed twice were taken once")
    if sum(report.ignored.values()):
        lines.append(f"{sum(report.ignored.values())} cells are marked to be ignored: neither learnt nor scored")
    if report.quarantined:
        lines.append(f"{len(report.quarantined)} images cannot be used and are left out (data/{QUARANTINE_FILE}):")
        lines += [f"  {row.path}: {row.problem}" for row in report.quarantined[:5]]
    if report.labelled_not_drawn:
        fate = "left out" if data.limit_rest == "leave out" else "in the pool, their labels hidden"
        lines.append(f"{report.labelled_not_drawn} labelled images are not drawn (data.labelled_limit): {fate}")
    for split in SPLITS:
        if report.duplicates[split]:
            lines.append(f"{report.duplicates[split]} {split} images repeat another one's pixels")
        if report.empty[split]:
            lines.append(f"{report.empty[split]} {split} images are annotated as empty")
    return lines
