"""Trains the students of a round side by side, each from its teacher or from scratch, and each resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.errors import EngineError, TrainingDiverged
from cellsemi.configs.models import ModelConfig
from cellsemi.configs.training import AUTO_PROBABILITY
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import MODEL_FILE, PROGRESS_FILE
from cellsemi.orchestrator.engine.protocol import Failure, Record
from cellsemi.orchestrator.stages.choose_cell_probability import ProbabilityChoice
from cellsemi.orchestrator.stages.context import OF_CELLS, Context, Finish, do_all, failed
from cellsemi.orchestrator.stages.jobs import FitJob
from cellsemi.orchestrator.stages.read_images import code_of
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import MANIFEST, FitRecord, read_fit, read_manifest
from cellsemi.rounds.store.run import CONTROL
from cellsemi.rounds.store.shards import shard_paths
from cellsemi.rounds.store.steps import Step


@dataclass(frozen=True, slots=True)
class Fit:
    """One model to train in a round, or in one fold of it: where it goes, from which shards, how long."""

    name: str
    model: ModelConfig
    fold: Fold
    train_round: int  # the round whose training shards it learns from; 0 is human labels only
    seed_round: int
    steps: int
    teacher: Path | None = None  # the trained folder that it starts from; None: from scratch

    @property
    def member(self) -> str:
        """The name of what is trained: the model, and its fold."""
        return self.fold.member(self.name)


def students_of(context: Context, round: int, teachers_round: int | None = None) -> list[Fit]:
    """The models of a round in every fold: its students, and those that take part without training (no steps).

    Each student starts from the model of its name and fold in the round of the teachers, where there is one and the
    config says so; else from scratch.
    """
    config = context.config
    return [
        Fit(
            model.name,
            model,
            fold,
            round,
            round,
            config.training_of(model).steps if model.trains else 0,
            _teacher(context, fold.member(model.name), teachers_round) if model.trains else None,
        )
        for model in config.models_of(round)
        for fold in folds_of(config)
    ]


def _teacher(context: Context, member: str, teachers_round: int | None) -> Path | None:
    """The folder of the teacher of this name; None where a student starts from scratch."""
    if teachers_round is None or context.config.rounds.start == "scratch":
        return None
    folder = context.paths.model(teachers_round, member)
    return folder if (folder / MODEL_FILE).is_file() else None


def first_steps(context: Context, round: int) -> int:
    """The steps of the first student of a round, which the control copies; 0 where teachers alone take part."""
    students = context.config.students_of(round)
    return context.config.training_of(students[0]).steps if students else 0


def control_of(context: Context, round: int, steps: int) -> list[Fit]:
    """The supervised control of a round: its first student, human labels only, for as many steps.

    Without human training images there is none.
    """
    trains_on = read_manifest(context.paths.train(0, folds_of(context.config)[0].suffix)).rows
    if not trains_on:
        if round == 1:
            context.watcher.note(f"round {round}: no control can be trained: there are no human training images")
        return []
    model = context.config.students_of(round)[0]
    return [Fit(CONTROL, model, fold, 0, 0, steps) for fold in folds_of(context.config)]


def fit(context: Context, round: int, fits: Sequence[Fit]) -> list[str]:
    """Train what is not trained yet; returns the names of the models that are there afterwards, in every fold.

    A student whose training diverges is recorded, noted and left out of the round. TrainingDiverged when there are
    students among `fits` and none is left. What failed for another reason is tried again by the next call.
    """
    title = "; ".join(
        f"{verb} {', '.join(names)}"
        for verb, trains in (("train", True), ("take", False))
        if (names := [item.member for item in fits if item.model.trains == trains])
    )
    steps = {item.member: _step(context, round, item) for item in fits}

    def work(todo: Sequence[Step], finish: Finish) -> None:
        _train(context, title, [(steps[item.member], item) for item in fits if steps[item.member] in todo], finish)

    do_all(context, title, list(steps.values()), work)
    return _alive(context, round, fits)


def _alive(context: Context, round: int, fits: Sequence[Fit]) -> list[str]:
    """The models whose training did not diverge in any fold; the others are noted. TrainingDiverged as `fit` states."""
    diverged: dict[str, str] = {}
    for item in fits:
        if why := read_fit(context.paths.model(round, item.member)).diverged:
            diverged.setdefault(item.name, why)
            context.watcher.note(f"round {round}: {item.name} is left out, its training diverged: {why}")
    names = list(dict.fromkeys(item.name for item in fits))
    alive = [name for name in names if name not in diverged]
    if any(name != CONTROL for name in names) and not [name for name in alive if name != CONTROL]:
        raise TrainingDiverged(
            f"round {round}: no student is left: " + "; ".join(f"{name}: {why}" for name, why in diverged.items())
        )
    return alive


def _step(context: Context, round: int, item: Fit) -> Step:
    """The step that trains one model in one fold."""
    name, paths = item.model.name, context.paths
    settings, inputs = [f"models[{name}]"], []
    if item.model.trains:
        settings += [f"models[{name}].training", "filter.ignore_dilation_px", "run.seed"]
        settings += ["rounds.start"] if item.train_round else []
        inputs = [paths.train(item.train_round, item.fold.suffix), *([item.teacher] if item.teacher else [])]
    if _choice(context, item) is not None:
        settings += [f"models[{name}].inference", "data.max_pixels"]
        inputs.append(paths.split(item.fold.val))
    return Step(
        round=round,
        name=f"{'train' if item.model.trains else 'take'} {item.member}",
        output=paths.model(round, item.member),
        settings=context.read(*settings, *OF_CELLS),
        inputs=tuple(inputs),
        parameters={
            "steps": item.steps,
            "seed_round": item.seed_round,
            "fold": item.fold.suffix,
            "starts_from": item.teacher.relative_to(paths.root).as_posix() if item.teacher else None,
        },
        total=item.steps or 1,
        unit="steps" if item.model.trains else "models",
    )


def _train(context: Context, title: str, todo: Sequence[tuple[Step, Fit]], finish: Finish) -> None:
    ordered = sorted(todo, key=lambda pair: -pair[1].steps)  # longest first: the shortest total on few workers
    tasks = tuple(_task(context, item, step.output) for step, item in ordered)
    job = FitJob(tasks, tuple(_choice(context, item) for _, item in ordered), name=title)

    def tick() -> None:
        context.watcher.advance(sum(_steps_done(step) for step, _ in ordered))

    def on_done(item: int, record: Record) -> None:
        kept = {key: value for key, value in record.items() if key != "resumed_at"}
        _finish(
            context,
            ordered[item][0],
            FitRecord(fingerprint=context.ledger.fingerprint(ordered[item][0]), **kept),
            finish,
        )
        tick()

    outcome = context.engine.tasks(job, range(len(tasks)), on_done, tick)
    others = [f for f in outcome.failed if not _diverged(f)]
    for failure in outcome.failed:
        if _diverged(failure):
            step = ordered[failure.item][0]
            record = FitRecord(fingerprint=context.ledger.fingerprint(step), seconds=0.0, diverged=failure.error)
            _finish(context, step, record, finish)
    if others:
        raise failed(title, others)
    if len(outcome.done) + len(outcome.failed) != len(tasks):
        raise EngineError(f"{title}: the engine returned {len(outcome.done)} of {len(tasks)} models")


def _finish(context: Context, step: Step, record: FitRecord, finish: Finish) -> None:
    record.write(step.output / MANIFEST)
    finish(step, record.seconds)


def _task(context: Context, item: Fit, folder: Path) -> FitTask:
    config = context.config
    return FitTask(
        model=item.model,
        training=config.training_of(item.model),
        classes=config.data.classes,
        one_class_per_image=config.data.one_class_per_image,
        ignore_dilation_px=config.filter.ignore_dilation_px,
        shards=tuple(
            map(str, shard_paths(context.paths.train(item.train_round, item.fold.suffix)) if item.steps else ())
        ),
        out_dir=str(folder),
        seed=derive_seed(config.run.seed, item.seed_round, item.model.seed_offset, *_part(item.fold)),
        steps=item.steps,
        device=config.engine.device,
        shared_dir=str(context.paths.precision),
        teacher=None if item.teacher is None else str(item.teacher),
        code=None if (code := code_of(context, item.model)) is None else str(code),
    )


def _choice(context: Context, item: Fit) -> ProbabilityChoice | None:
    """What is chosen on the human labels of the fold that the model leaves out; None where nothing is left open."""
    config, inference = context.config, context.config.inference_of(item.model)
    if not item.model.has_cell_probability or inference.cell_probability != AUTO_PROBABILITY:
        return None
    images = context.paths.split(item.fold.val)
    return ProbabilityChoice(str(images), inference, config.engine.device, config.data.max_pixels)


def _part(fold: Fold) -> tuple[str, ...]:
    """What sets the seed of a fold's models apart; nothing where there is one."""
    return (fold.suffix,) if fold.suffix else ()


def _diverged(failure: Failure) -> bool:
    return failure.error.startswith(TrainingDiverged.__name__)


def _steps_done(step: Step) -> int:
    """Optimiser steps of one student so far, from the file that it writes now and then."""
    if (step.output / MANIFEST).is_file():
        return step.total
    path = step.output / PROGRESS_FILE
    return int(files.read_json(path)["step"]) if path.is_file() else 0
