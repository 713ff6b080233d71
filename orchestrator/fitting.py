"""The students of a round, trained side by side, each from scratch and each resumable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import EngineError, TrainingDiverged
from cellsemi.configs.models import ModelConfig
from cellsemi.models.base import PROGRESS_FILE, FitTask
from cellsemi.orchestrator.context import Context, failed
from cellsemi.orchestrator.engine import Failure
from cellsemi.orchestrator.jobs import FitJob
from cellsemi.rounds import files, run
from cellsemi.rounds.run import CONTROL
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.shards import shard_paths


@dataclass(frozen=True, slots=True)
class Fit:
    """One model to train in a round: where it goes, from which shards, how long."""

    name: str
    model: ModelConfig
    train_round: int  # the round whose training shards it learns from; 0 is human labels only
    seed_round: int
    steps: int


def students_of(context: Context, round: int) -> list[Fit]:
    """The students of a round: every model of the config, from scratch."""
    config = context.config
    return [Fit(model.name, model, round, round, config.training_of(model).steps) for model in config.models]


def control_of(context: Context, ancestry: int) -> Fit:
    """The supervised control: the first model, human labels only, with the steps of a whole ancestry."""
    model = context.config.models[0]
    return Fit(CONTROL, model, 0, 0, context.config.training_of(model).steps * ancestry)


def fit(context: Context, round: int, fits: Sequence[Fit]) -> list[str]:
    """Train what is not trained yet; returns the names of the models that are there afterwards.

    A student whose training diverges is recorded and left out of the round, and said; the round fails
    when there are students among `fits` and none is left. What failed for another reason is tried again by
    the next call.
    """
    title = "train " + ", ".join(item.name for item in fits)
    folders = {item.name: context.paths.model(round, item.name) for item in fits}
    prints = {item.name: _fingerprint(context, item) for item in fits}
    todo = [item for item in fits if not run.is_done(folders[item.name], prints[item.name])]
    if todo:
        _train(context, round, title, todo, folders, prints)
    else:
        context.watcher.skipped(round, title)
    manifests = {item.name: run.read_manifest(folders[item.name]) for item in fits}
    for name, manifest in manifests.items():
        if "diverged" in manifest:
            context.watcher.note(f"round {round}: {name} is left out, its training diverged: {manifest['diverged']}")
    alive = [name for name, manifest in manifests.items() if "diverged" not in manifest]
    if any(item.name != CONTROL for item in fits) and not [name for name in alive if name != CONTROL]:
        raise TrainingDiverged(
            f"round {round}: no student is left: "
            + "; ".join(f"{name}: {manifest['diverged']}" for name, manifest in manifests.items() if name not in alive)
        )
    return alive


def _train(
    context: Context, round: int, title: str, todo: list[Fit], folders: dict[str, Path], prints: dict[str, str]
) -> None:
    context.check_space()
    started = time.monotonic()
    ordered = sorted(todo, key=lambda item: -item.steps)  # longest first: the shortest total on few workers
    tasks = tuple(_task(context, item, folders[item.name]) for item in ordered)
    context.watcher.stage(round, title, sum(item.steps for item in ordered), "steps")

    def tick() -> None:
        context.watcher.advance(sum(_steps_done(folders[item.name], item.steps) for item in ordered))

    def on_done(item: int, record: dict[str, Any]) -> None:
        name = ordered[item].name
        run.finish_stage(folders[name], prints[name], record["seconds"], **_stable(record))
        tick()

    outcome = context.engine.tasks(FitJob(tasks, name=title), range(len(tasks)), on_done, tick)
    others = [f for f in outcome.failed if not _diverged(f)]
    for failure in outcome.failed:
        if _diverged(failure):
            name = ordered[failure.item].name
            run.finish_stage(folders[name], prints[name], 0.0, diverged=failure.error)
    if others:
        raise failed(title, others)
    if len(outcome.done) + len(outcome.failed) != len(tasks):
        raise EngineError(f"{title}: the engine returned {len(outcome.done)} of {len(tasks)} models")
    context.finish(round, time.monotonic() - started)


def _task(context: Context, item: Fit, folder: Path) -> FitTask:
    config = context.config
    return FitTask(
        model=item.model,
        training=config.training_of(item.model),
        classes=config.data.classes,
        one_class_per_image=config.data.one_class_per_image,
        ignore_dilation_px=config.screen.ignore_dilation_px,
        shards=tuple(str(path) for path in shard_paths(context.paths.train(item.train_round))),
        out_dir=str(folder),
        seed=derive_seed(config.run.seed, item.seed_round, item.model.seed_offset),
        steps=item.steps,
        device=config.engine.device,
        shared_dir=str(context.paths.precision),
    )


def _fingerprint(context: Context, item: Fit) -> str:
    return files.sha256_json(
        [
            item.model.model_dump(mode="json"),
            item.seed_round,
            item.steps,
            run.outputs_fingerprint(context.paths.train(item.train_round)),
            context.config_hash,
        ]
    )


def _diverged(failure: Failure) -> bool:
    return failure.error.startswith(TrainingDiverged.__name__)


def _stable(record: dict[str, Any]) -> dict[str, Any]:
    """The record without what differs between an undisturbed fit and a resumed one."""
    return {key: value for key, value in record.items() if key not in ("resumed_at", "seconds")}


def _steps_done(folder: Path, steps: int) -> int:
    """Steps of one student so far, from the file that it writes now and then."""
    if (folder / run.MANIFEST).is_file():
        return steps
    path = folder / PROGRESS_FILE
    return int(files.read_json(path)["step"]) if path.is_file() else 0
