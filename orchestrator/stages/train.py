"""The students of a round, trained side by side, each from scratch and each resumable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import EngineError, TrainingDiverged
from cellsemi.configs.models import ModelConfig
from cellsemi.configs.training import AUTO_PROBABILITY
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import PROGRESS_FILE
from cellsemi.orchestrator.engine.protocol import Failure
from cellsemi.orchestrator.stages.choose_cell_probability import Choice
from cellsemi.orchestrator.stages.context import Context, failed
from cellsemi.orchestrator.stages.jobs import FitJob
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import MANIFEST, finish_stage, is_done, outputs_fingerprint, read_manifest
from cellsemi.rounds.store.run import CONTROL
from cellsemi.rounds.store.shards import shard_paths


@dataclass(frozen=True, slots=True)
class Fit:
    """One model to train in a round, or in one fold of it: where it goes, from which shards, how long."""

    name: str
    model: ModelConfig
    fold: Fold
    train_round: int  # the round whose training shards it learns from; 0 is human labels only
    seed_round: int
    steps: int

    @property
    def member(self) -> str:
        """The name of what is trained: the model, and its fold."""
        return self.fold.member(self.name)


def students_of(context: Context, round: int) -> list[Fit]:
    """The students of a round: every model that takes part, in every fold, from scratch."""
    config = context.config
    return [
        Fit(model.name, model, fold, round, round, config.training_of(model).steps)
        for model in config.models_of(round)
        for fold in folds_of(config)
    ]


def first_steps(context: Context, round: int) -> int:
    """The steps of the first student of a round, which the control copies."""
    return context.config.training_of(context.config.models_of(round)[0]).steps


def control_of(context: Context, round: int, steps: int) -> list[Fit]:
    """The supervised control of a round: its first model, human labels only, for as many steps."""
    model = context.config.models_of(round)[0]
    return [Fit(CONTROL, model, fold, 0, 0, steps) for fold in folds_of(context.config)]


def fit(context: Context, round: int, fits: Sequence[Fit]) -> list[str]:
    """Train what is not trained yet; returns the names of the models that are there afterwards, in every fold.

    A student whose training diverges is recorded and left out of the round, and said; the round fails
    when there are students among `fits` and none is left. What failed for another reason is tried again by
    the next call.
    """
    title = "train " + ", ".join(item.member for item in fits)
    folders = {item.member: context.paths.model(round, item.member) for item in fits}
    prints = {item.member: _fingerprint(context, item) for item in fits}
    todo = [item for item in fits if not is_done(folders[item.member], prints[item.member])]
    if todo:
        _train(context, round, title, todo, folders, prints)
    else:
        context.watcher.skipped(round, title)
    diverged: dict[str, str] = {}
    for item in fits:
        manifest = read_manifest(folders[item.member])
        if "diverged" in manifest:
            diverged.setdefault(item.name, manifest["diverged"])
            context.watcher.note(
                f"round {round}: {item.name} is left out, its training diverged: {manifest['diverged']}"
            )
    names = list(dict.fromkeys(item.name for item in fits))
    alive = [name for name in names if name not in diverged]
    if any(name != CONTROL for name in names) and not [name for name in alive if name != CONTROL]:
        raise TrainingDiverged(
            f"round {round}: no student is left: " + "; ".join(f"{name}: {why}" for name, why in diverged.items())
        )
    return alive


def _train(
    context: Context, round: int, title: str, todo: list[Fit], folders: dict[str, Path], prints: dict[str, str]
) -> None:
    context.check_space()
    started = time.monotonic()
    ordered = sorted(todo, key=lambda item: -item.steps)  # longest first: the shortest total on few workers
    tasks = tuple(_task(context, item, folders[item.member]) for item in ordered)
    context.watcher.stage(round, title, sum(item.steps for item in ordered), "steps")

    def tick() -> None:
        context.watcher.advance(sum(_steps_done(folders[item.member], item.steps) for item in ordered))

    def on_done(item: int, record: dict[str, Any]) -> None:
        name = ordered[item].member
        finish_stage(folders[name], prints[name], record["seconds"], **_stable(record))
        tick()

    outcome = context.engine.tasks(
        FitJob(tasks, tuple(_choice(context, item) for item in ordered), name=title), range(len(tasks)), on_done, tick
    )
    others = [f for f in outcome.failed if not _diverged(f)]
    for failure in outcome.failed:
        if _diverged(failure):
            name = ordered[failure.item].member
            finish_stage(folders[name], prints[name], 0.0, diverged=failure.error)
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
        ignore_dilation_px=config.filter.ignore_dilation_px,
        shards=tuple(str(path) for path in shard_paths(context.paths.train(item.train_round, item.fold.suffix))),
        out_dir=str(folder),
        seed=derive_seed(config.run.seed, item.seed_round, item.model.seed_offset, *_part(item.fold)),
        steps=item.steps,
        device=config.engine.device,
        shared_dir=str(context.paths.precision),
    )


def _choice(context: Context, item: Fit) -> Choice | None:
    """What is chosen on the human labels of the fold that the model leaves out; None where nothing is left open."""
    config, inference = context.config, context.config.inference_of(item.model)
    if not item.model.has_cell_probability or inference.cell_probability != AUTO_PROBABILITY:
        return None
    images = context.paths.split(item.fold.val)
    return Choice(str(images), inference, config.engine.device, config.data.max_pixels)


def _fingerprint(context: Context, item: Fit) -> str:
    return files.sha256_json(
        [
            item.model.model_dump(mode="json"),
            item.seed_round,
            item.steps,
            outputs_fingerprint(context.paths.train(item.train_round, item.fold.suffix)),
            item.fold.suffix,
            outputs_fingerprint(context.paths.split(item.fold.val)),
            context.config_hash,
        ]
    )


def _part(fold: Fold) -> tuple[str, ...]:
    """What sets the seed of a fold's models apart; nothing where there is one."""
    return (fold.suffix,) if fold.suffix else ()


def _diverged(failure: Failure) -> bool:
    return failure.error.startswith(TrainingDiverged.__name__)


def _stable(record: dict[str, Any]) -> dict[str, Any]:
    """The record without what differs between an undisturbed fit and a resumed one."""
    return {key: value for key, value in record.items() if key not in ("resumed_at", "seconds")}


def _steps_done(folder: Path, steps: int) -> int:
    """Steps of one student so far, from the file that it writes now and then."""
    if (folder / MANIFEST).is_file():
        return steps
    path = folder / PROGRESS_FILE
    return int(files.read_json(path)["step"]) if path.is_file() else 0
