"""Collects the report of a finished round from the run's folder alone: report.md, and its picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cellsemi.configs.schema import Config
from cellsemi.models.model_files import MODEL_FILE, read_model_file
from cellsemi.orchestrator.runs.activity import Activity
from cellsemi.orchestrator.runs.progress_on_disk import Stage, models_of, quarantined, stages
from cellsemi.rounds.calibration.calibration import Calibration
from cellsemi.rounds.duration import duration
from cellsemi.rounds.evaluation.ensemble import read_calibrations
from cellsemi.rounds.evaluation.history import RoundManifest, standings
from cellsemi.rounds.evaluation.seen import seen_by_starts
from cellsemi.rounds.pseudo_labels.filter import named
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds
from cellsemi.rounds.report import round_report
from cellsemi.rounds.report.reliability_diagram import picture
from cellsemi.rounds.report.round_report import Facts, Scored, TrainingSet, Used
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import read_fit, read_manifest
from cellsemi.rounds.store.prediction_pairs import cell_columns
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths
from cellsemi.rounds.store.steps import read_steps
from cellsemi.rounds.store.unaltered import MANIFEST

NAME = "report.md"


def write_report(config: Config, paths: RunPaths, round: int, out: Path | None = None) -> Path:
    """Write report.md of a finished round, and its picture where there are predictions; returns its path.

    They go into the folder of the round, or one of its name below `out`. The same run folder gives the same bytes.
    RunError when a file of the run is missing or damaged.
    """
    facts = collect(config, paths, round)
    path = (paths.round(round) if out is None else out / paths.round(round).name) / NAME
    if shown := round_report.diagrams(facts):
        files.write_bytes(path.with_name(round_report.PICTURE), picture(shown))
    files.write_text(path, round_report.to_markdown(facts))
    return path


def collect(config: Config, paths: RunPaths, round: int) -> Facts:
    """What the run's folder holds of a finished round."""
    folds = folds_of(config)
    manifests = {number: RoundManifest.read(paths.round_manifest(number)) for number in range(round + 1)}
    manifest = manifests[round]
    rows, sentence = standings(manifests, paths.name)
    teachers_round = manifest.teachers_round
    taught = teachers_round is not None
    drift = paths.drift(round)
    return Facts(
        run=paths.name,
        round=round,
        verdict=sentence,
        decision=manifest.decision,
        on_control=manifest.control,
        rows=[row for row in rows if row.round == round],
        students=manifest.students,
        why_these_students=manifest.why_these_students,
        teachers_round=teachers_round,
        teachers=() if teachers_round is None else manifests[teachers_round].students,
        training=[_training_set(paths, round, fold) for fold in folds],
        unlabelled=read_manifest(paths.pseudo(round, folds[0].suffix)).rows if taught else 0,
        pseudo=_pseudo(config, paths, round) if taught else {},
        scored=list(_scored(config, paths, round)),
        thresholds=_thresholds(config, paths, round) if taught else None,
        drift=files.read_json(drift)["alarms"] if drift.is_file() else None,
        problems=list(_problems(paths, round)),
        times=list(_times(paths, round)),
        places=list(_places(paths, round, folds)),
        starts=list(_starts(paths, round)),
        used=_used(paths, round),
    )


def _training_set(paths: RunPaths, round: int, fold: Fold) -> TrainingSet:
    merged = read_manifest(paths.train(round, fold.suffix)).merged
    assert merged is not None, "a training set is merged"
    name, images = fold.suffix.lstrip("."), merged.human_images
    return TrainingSet(name, images, merged.human_cells, merged.pseudo_images, merged.left_out)


def _starts(paths: RunPaths, round: int) -> Iterator[str]:
    """Which given weights the models of a round started from."""
    for model in models_of(paths, round):
        folder = paths.model(round, model)
        if (folder / MODEL_FILE).is_file() and (start := read_model_file(folder).start()):
            yield f"{model} {start}"


def _pseudo(config: Config, paths: RunPaths, round: int) -> dict[str, Counter[str]]:
    """Cells by class, then by state and reason, of the pseudo-labels of all folds."""
    classes = config.data.classes
    found: dict[str, Counter[str]] = {name: Counter() for name in classes}
    folders = [paths.pseudo(round, fold.suffix) for fold in folds_of(config)]
    names = ["class_id", "state", "reason"]
    for _, cells in cell_columns(folders, names):
        for row in cells.group_by(names).aggregate([([], "count_all")]).to_pylist():
            found[classes[row["class_id"]]][named(row["state"], row["reason"])] += row["count_all"]
    return found


def _thresholds(config: Config, paths: RunPaths, round: int) -> Thresholds:
    return Thresholds.from_json(FilterFile.read(paths.filter(round)).thresholds, config.data.classes)


def _scored(config: Config, paths: RunPaths, round: int) -> Iterator[Scored]:
    """Every calibration of the round: of its teachers, of what they say together, of its students."""
    classes = config.data.classes
    yield from _members("teacher", classes, paths.teachers_calibration(round))
    if paths.filter(round).is_file():
        content = FilterFile.read(paths.filter(round)).calibration
        yield Scored("teachers together", ENSEMBLE, Calibration.from_json(content, classes))
    yield from _members("student", classes, paths.calibration(round))


def _members(whose: str, classes: Sequence[str], path: Path) -> Iterator[Scored]:
    calibrations = read_calibrations(path, classes)
    for name in sorted(calibrations):
        yield Scored(whose, name, calibrations[name])


# --- what went wrong ----------------------------------------------------------------------------------


def _problems(paths: RunPaths, round: int) -> Iterator[str]:
    """Images and models that were left out, and what models reported while they predicted."""
    if count := quarantined(paths):
        yield f"{count} images of the data set cannot be used: {paths.quarantine.relative_to(paths.root)}"
    yield from seen_by_starts(paths)
    for model in models_of(paths, round):
        folder = paths.model(round, model)
        record = read_fit(folder) if (folder / MANIFEST).is_file() else None
        if record is not None and record.diverged:
            yield f"the training of {model} diverged: {record.diverged}"
        for image_id, reason in record.unused.items() if record is not None else ():
            yield f"validation image {image_id} had no say in the training of {model}: {reason}"
    for step in read_steps(paths):
        if step.round == round and "model" in step.parameters:
            who = f"{step.parameters['model']} on {step.parameters['images']}"
            yield from _warnings(paths.root / step.output, who)


def _warnings(folder: Path, who: str) -> Iterator[str]:
    if not (folder / MANIFEST).is_file():
        return
    warnings: Counter[str] = Counter()
    for shard in read_manifest(folder).shards:
        warnings += Counter(shard.warnings)
        for image_id, why in shard.lost.items():
            yield f"{who}: image {image_id} was left out, on every attempt: {why}"
    for sentence, times in sorted(warnings.items()):
        yield f"{who}, {times} times: {sentence}"


# --- workers, time and places ----------------------------------------------------------------------------------


def _used(paths: RunPaths, round: int) -> Used | None:
    """What the workers of a round did; None where nothing was measured."""
    activity = Activity(paths.events)
    activity.follow()
    uses = [use for use in activity.use if use.round == round]
    by_gpu = any(use.gpus.reserved for use in uses)
    rows = [
        (use.stage, (each.reserved, each.computing, each.starting, each.idle, each.lost))
        for use in uses
        if (each := use.gpus if by_gpu else use.workers).reserved
    ]
    counts: dict[str, int] = {kind: count for (of, kind), count in sorted(activity.incidents.items()) if of == round}
    return Used("GPU" if by_gpu else "Worker", rows, counts) if rows else None


def _times(paths: RunPaths, round: int) -> Iterator[tuple[str, str, str]]:
    for stage in stages(paths):
        if stage.round == round and stage.seconds is not None:
            yield stage.name, _done(stage), duration(stage.seconds)
    seconds = RoundManifest.read(paths.round_manifest(round)).seconds
    yield "all", "", duration(seconds)


def _done(stage: Stage) -> str:
    return "" if stage.done is None else f"{stage.done} {stage.unit}"


def _places(paths: RunPaths, round: int, folds: Sequence[Fold]) -> Iterator[tuple[str, str]]:
    """What there is of the round, each with its path below the run's folder."""
    places = [
        ("decision and rows", paths.round_manifest(round)),
        ("scores of every image", paths.evaluation(round)),
        ("calibration of the teachers", paths.teachers_calibration(round)),
        ("calibration and thresholds of the pseudo-labels", paths.filter(round)),
        ("calibration of the students", paths.calibration(round)),
        ("drift", paths.drift(round)),
        *(("pseudo-labels", paths.pseudo(round, fold.suffix)) for fold in folds),
        *(("what the students learned from", paths.train(round, fold.suffix)) for fold in folds),
        *((f"model {name}", paths.model(round, name)) for name in models_of(paths, round)),
        ("leaderboard of all rounds", paths.leaderboard.with_suffix(".md")),
        ("settings", paths.config),
    ]
    for what, path in places:
        if path.exists():
            yield what, str(path.relative_to(paths.root))
