"""Trains the students of a round side by side, each from its teacher or from scratch, and each resumable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.configs.errors import EngineError, TrainingDiverged, UsageError
from cellsemi.configs.models import ModelConfig
from cellsemi.configs.rounds import AUTO
from cellsemi.configs.training import AUTO_PROBABILITY, AUTO_STEPS, TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import MODEL_FILE, read_model_file, read_progress
from cellsemi.models.validation.choose_probabilities import OnValidation
from cellsemi.models.validation.find_steps import Search
from cellsemi.orchestrator.engine.protocol import Failure, Record
from cellsemi.orchestrator.engine.resources import idle_cpus
from cellsemi.orchestrator.stages.build_training_set import human_training_set
from cellsemi.orchestrator.stages.choose_precision import agreed_training
from cellsemi.orchestrator.stages.read_images import code_of
from cellsemi.orchestrator.steps.context import OF_CELLS, Context, Finish, do_all, failed
from cellsemi.orchestrator.steps.jobs import FitJob
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.kept_weights import read_kept
from cellsemi.rounds.store.manifest import NO_SHARDS, FitRecord, read_fit, read_manifest, training_shards
from cellsemi.rounds.store.run import control_name, is_control
from cellsemi.rounds.store.shards import shard_paths
from cellsemi.rounds.store.steps import Step
from cellsemi.rounds.store.unaltered import MANIFEST

MEMORY_HELP = (
    "engine.workers_per_student: 2 takes half of the memory of each GPU for the same result, a smaller "
    "training.crop_px takes less for another\n"
)
LATER = 0.5  # of the steps that round 0 found to be enough: those of a student that starts from its teacher


@dataclass(frozen=True, slots=True)
class Fit:
    """One model to train in a round, or in one fold of it: where it goes, from which shards, how long."""

    name: str
    model: ModelConfig
    fold: Fold
    learns_from: Path  # the folder of its training shards
    pseudo_round: int  # the round whose pseudo-labels are among them; 0: human labels only
    seed_round: int
    steps: int | None  # None: as many as it takes (`training.steps: auto`)
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
    config, found = context.config, []
    for model in config.models_of(round):
        for fold in folds_of(config):
            teacher = _teacher(context, fold.member(model.name), teachers_round) if model.trains else None
            steps = steps_of(context, round, model) if model.trains else 0
            learns_from = context.paths.train(round, fold.suffix)
            found.append(Fit(model.name, model, fold, learns_from, round, round, steps, teacher))
    return found


def _teacher(context: Context, member: str, teachers_round: int | None) -> Path | None:
    """The folder of the teacher of this name; None where a student starts from scratch."""
    if teachers_round is None or context.config.rounds.start == "scratch":
        return None
    folder = context.paths.model(teachers_round, member)
    return folder if (folder / MODEL_FILE).is_file() else None


def steps_of(context: Context, round: int, model: ModelConfig) -> int | None:
    """The steps for which a model is trained in a round; None: as many as it takes.

    With `training.steps: auto` the first round with students finds them (the most that a fold needs). Later on a
    student that starts from its teacher takes LATER of them, one that starts from scratch all; one that was not in
    round 0 goes by the first student of it.
    """
    stated = _in_steps(context, context.config.training_of(model)).steps
    if stated != AUTO_STEPS:
        return stated
    if round == 0:
        return None
    found = found_steps(context, model, before=round)
    if found is not None:
        return found if context.config.rounds.start == "scratch" else math.ceil(found * LATER)
    others = [found_steps(context, other) for other in context.config.students_of(0)]
    return next((steps for steps in others if steps is not None), None)


def _in_steps(context: Context, training: TrainingConfig) -> TrainingConfig:
    """Training settings with epochs of the human labels as steps; UsageError without human-labelled images."""
    images = _human_images(context) if training.counts_epochs else 1
    if not images:
        raise UsageError("a training is stated in epochs, but no image is human-labelled: state training.steps")
    return training.in_steps(images)


def _human_images(context: Context) -> int:
    """The human-labelled images that the models of the first fold learn from at the start."""
    return sum(read_manifest(context.paths.split(split)).rows for split in folds_of(context.config)[0].train)


def found_steps(context: Context, model: ModelConfig, before: int | None = None) -> int | None:
    """The steps that a model was found to need in its first round, one below `before`; None: it did not look."""
    for round in range(len(context.paths.finished_rounds()) + 1 if before is None else before):
        fits = [context.paths.model(round, fold.member(model.name)) for fold in folds_of(context.config)]
        found = [read_fit(folder).found_steps for folder in fits if (folder / MANIFEST).is_file()]
        if steps := max((each.steps for each in found if each is not None), default=0):
            return steps
    return None


def first_steps(context: Context, round: int) -> int:
    """The steps of the first student of a round, which the control copies; 0 where teachers alone take part.

    0 as well for a student that has to find its steps, before it is trained.
    """
    students = context.config.students_of(round)
    if not students:
        return 0
    found = steps_of(context, round, students[0])
    found = found_steps(context, students[0]) if found is None else found
    return 0 if found is None else found


def controls_of(context: Context, round: int, steps: int, seeds: int) -> list[Fit]:
    """The supervised controls of a round, one for each seed: its first student, human labels only, for as many steps.

    Human labels that were added since the start are among them. Without human training images there is none.
    """
    folds = folds_of(context.config)
    if not read_manifest(human_training_set(context, round, folds[0])).rows:
        if round == 1:
            context.watcher.note(f"round {round}: no control can be trained: there are no human training images")
        return []
    model = context.config.students_of(round)[0]
    return [
        Fit(control_name(seed), model, fold, human_training_set(context, round, fold), 0, seed, steps)
        for seed in range(seeds)
        for fold in folds
    ]


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
    for item in fits:
        if found := read_fit(context.paths.model(round, item.member)).found_steps:
            tried = ", ".join(f"{score:.3f} after {steps}" for steps, score in found.curve)
            context.watcher.note(f"round {round}: {item.member} is trained for {found.steps} steps (val mAP {tried})")
    _note_epochs(context, round, fits)
    return _alive(context, round, fits)


def _note_epochs(context: Context, round: int, fits: Sequence[Fit]) -> None:
    """Say how many steps the epochs of the human labels are."""
    for model in {item.name: item.model for item in fits if not is_control(item.name)}.values():
        if model.trains and context.config.training_of(model).counts_epochs:
            training, images = _in_steps(context, context.config.training_of(model)), _human_images(context)
            length = f"{training.steps} steps of {training.batch} crops, an epoch being {images} human-labelled images"
            context.watcher.note(f"round {round}: {model.name} is trained for {length}")


def _alive(context: Context, round: int, fits: Sequence[Fit]) -> list[str]:
    """The models whose training did not diverge in any fold; the others are noted. TrainingDiverged as `fit` states."""
    diverged: dict[str, str] = {}
    for item in fits:
        if why := read_fit(context.paths.model(round, item.member)).diverged:
            diverged.setdefault(item.name, why)
            context.watcher.note(f"round {round}: {item.name} is left out, its training diverged: {why}")
    names = list(dict.fromkeys(item.name for item in fits))
    alive = [name for name in names if name not in diverged]
    if not all(map(is_control, names)) and all(map(is_control, alive)):
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
        settings += ["rounds.start"] if item.pseudo_round else []
        inputs = [item.learns_from, *([item.teacher] if item.teacher else [])]
    if item.steps is None or _choice(context, item) is not None:
        settings += [f"models[{name}].inference", f"models[{name}].unlabelled_inference", "data.max_pixels"]
        settings += ["filter.background", "filter.background_quantile"]
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
            "human_fraction": _human_fraction(context, item),
            "fold": item.fold.suffix,
            "starts_from": item.teacher.relative_to(paths.root).as_posix() if item.teacher else None,
            **({"weights_sha256": kept.sha256} if (kept := read_kept(paths).get(name)) else {}),
        },
        total=_most_steps(context, item) or 1,
        unit="steps" if item.model.trains else "models",
    )


def _train(context: Context, title: str, todo: Sequence[tuple[Step, Fit]], finish: Finish) -> None:
    ordered = sorted(todo, key=lambda pair: -pair[0].total)  # longest first: the shortest total on few workers
    idle = _idle_cpus(context, [item for _, item in ordered])
    tasks = tuple(
        replace(_task(context, item, step.output), idle_cpus=cpus)
        for (step, item), cpus in zip(ordered, idle, strict=True)
    )
    choices = tuple(_choice(context, item) for _, item in ordered)
    job = FitJob(tasks, choices, tuple(_search(context, item) for _, item in ordered), name=title)

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
        _note_cell_size(context, ordered[item][0].output, ordered[item][1].member)
        if start := read_model_file(ordered[item][0].output).start():
            context.watcher.note(f"{ordered[item][1].member} {start}")
        tick()

    outcome = context.engine.tasks(job, range(len(tasks)), on_done, tick, context.watcher.incident)
    others = [f for f in outcome.failed if not _diverged(f)]
    for failure in outcome.failed:
        if _diverged(failure):
            step = ordered[failure.item][0]
            record = FitRecord(fingerprint=context.ledger.fingerprint(step), seconds=0.0, diverged=failure.error)
            _finish(context, step, record, finish)
    if others:
        raise failed(title, others, MEMORY_HELP if any("OutOfMemory" in f.error for f in others) else "")
    if len(outcome.done) + len(outcome.failed) != len(tasks):
        raise EngineError(f"{title}: the engine returned {len(outcome.done)} of {len(tasks)} models")


def _note_cell_size(context: Context, model: Path, member: str) -> None:
    """Say at which size the network sees images, where that is not their own (training.cell_px)."""
    size = read_model_file(model).cell_size
    if size.scale != 1 and size.diameter_px is not None:
        seen = f"sees images at {size.scale:.3g} times their size, their cells of {size.diameter_px:.3g} px"
        context.watcher.note(f"{member} {seen} at {size.diameter_px * size.scale:.3g} px")


def _finish(context: Context, step: Step, record: FitRecord, finish: Finish) -> None:
    record.write(step.output / MANIFEST)
    finish(step, record.seconds)


def _task(context: Context, item: Fit, folder: Path) -> FitTask:
    config, kept = context.config, read_kept(context.paths).get(item.model.name)
    learnt = training_shards(item.learns_from, context.paths.root) if item.model.trains else NO_SHARDS
    return FitTask(
        model=item.model,
        training=_in_steps(context, agreed_training(context, item.model)),
        classes=config.data.classes,
        one_class_per_image=config.data.one_class_per_image,
        ignore_dilation_px=config.filter.ignore_dilation_px,
        shards=tuple(map(str, learnt.labels)),
        images=tuple(map(str, learnt.images)),
        rows=learnt.rows,
        hashes=learnt.hashes,
        out_dir=str(folder),
        seed=derive_seed(config.run.seed, item.seed_round, item.model.seed_offset, *_part(item.fold)),
        steps=_most_steps(context, item),
        device=config.engine.device,
        human_fraction=_human_fraction(context, item),
        teacher=None if item.teacher is None else str(item.teacher),
        code=None if (code := code_of(context, item.model)) is None else str(code),
        weights=None if kept is None else str(context.paths.root / kept.kept),
        weights_sha256=None if kept is None else kept.sha256,
        checkpoint_s=config.engine.checkpoint_s,
        ranks=config.engine.workers_per_student,
        validation=tuple(map(str, shard_paths(context.paths.split(item.fold.val)) if item.model.trains else ())),
        input_processes=None if config.engine.input_processes == AUTO else config.engine.input_processes,
    )


def _idle_cpus(context: Context, fits: Sequence[Fit]) -> list[int]:
    """CPUs beside each student, the longest first, and beside the threads of all processes that train it."""
    config, engine = context.config, context.engine
    at_once = min(len(fits), engine.workers())
    ranks = config.engine.workers_per_student
    threads = [ranks * config.training_of(item.model).threads for item in fits]
    steps = [_most_steps(context, item) for item in fits]
    return idle_cpus(steps, threads, engine.cpus_for_each(at_once), at_once)


def _human_fraction(context: Context, item: Fit) -> float:
    """The share of human crops; pseudo-labels that validation images speak for get more of the others."""
    if not item.pseudo_round:
        return 1.0
    label_score = FilterFile.read(context.paths.filter(item.pseudo_round)).label_score
    return round(context.config.training_of(item.model).human_share(label_score), 3)


def _choice(context: Context, item: Fit) -> OnValidation | None:
    """What is chosen on the human labels of the fold that the model leaves out; None where nothing is left open."""
    config, inference = context.config, context.config.inference_of(item.model)
    sure = config.filter.background == "sure" and inference.background_probability is None
    if not item.model.has_cell_probability or (inference.cell_probability != AUTO_PROBABILITY and not sure):
        return None
    return _on_validation(context, item, config.filter.background_quantile if sure else None)


def _on_validation(context: Context, item: Fit, quantile: float | None) -> OnValidation:
    config = context.config
    return OnValidation(
        images=str(context.paths.split(item.fold.val)),
        inference=config.inference_of(item.model),
        labelling=config.unlabelled_inference_of(item.model),
        classes=len(config.data.classes),
        quantile=quantile,
        device=config.engine.device,
        max_pixels=config.data.max_pixels,
    )


def _search(context: Context, item: Fit) -> Search | None:
    """How a fit finds its steps; None where they are stated."""
    if item.steps is not None:
        return None
    training = context.config.training_of(item.model)
    return Search(training.first_steps, training.max_steps, training.min_gain, _on_validation(context, item, None))


def _most_steps(context: Context, item: Fit) -> int:
    return context.config.training_of(item.model).max_steps if item.steps is None else item.steps


def _part(fold: Fold) -> tuple[str, ...]:
    """What sets the seed of a fold's models apart; nothing where there is one."""
    return (fold.suffix,) if fold.suffix else ()


def _diverged(failure: Failure) -> bool:
    return failure.error.startswith(TrainingDiverged.__name__)


def _steps_done(step: Step) -> int:
    """Optimiser steps of one student so far, from the file that it writes now and then."""
    if (step.output / MANIFEST).is_file():
        return step.total
    return read_progress(step.output) or 0
