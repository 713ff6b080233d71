"""Who teaches next: score every model of a round, decide on validation images, keep the leaderboard.

The score threshold of each model is chosen on val and applied to test; test is scored once per model and
decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from cellsemi.configs.schema import Config
from cellsemi.orchestrator import reporting
from cellsemi.orchestrator.calibrating import kept
from cellsemi.orchestrator.contest import Contender, compare
from cellsemi.orchestrator.context import Context
from cellsemi.orchestrator.fitting import first_steps
from cellsemi.orchestrator.folds import folds_of
from cellsemi.orchestrator.labelling import EVALUATED, Calibrations, judged
from cellsemi.orchestrator.records import all_pairs, cells_of, paired
from cellsemi.orchestrator.screening import pseudo_counts
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.calibration import Calibration
from cellsemi.rounds.evaluation.ensemble_selection import Selected, everyone, greedy, stop_reason
from cellsemi.rounds.evaluation.evaluation_table import Evaluation, find, read_evaluations, write_evaluations
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.metrics import best_threshold, score_image
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.evaluation.verdict import verdict
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import outputs_fingerprint, read_manifest
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE, RunPaths


@dataclass(frozen=True, slots=True)
class Teachers:
    """The students in the ensemble of the last promoted round teach now; `steps` are those behind them in all."""

    round: int
    names: tuple[str, ...]
    steps: int


def standing(paths: RunPaths) -> Teachers:
    """Who teaches now: the ensemble of the last promoted round; round 0 always is."""
    manifests = read_manifests(paths)
    last = max(number for number, manifest in manifests.items() if manifest["decision"]["promoted"])
    return Teachers(last, tuple(manifests[last]["students"]), manifests[last]["steps"])


def stopped(context: Context, decision: Decision | None = None) -> str | None:
    """Why no further round is run after the finished ones and one with `decision`; None: go on."""
    made = [*decisions(read_manifests(context.paths)).values(), *([decision] if decision else [])]
    return stop_reason([each.promoted for each in made], context.config.rounds.stop_after)


def read_manifests(paths: RunPaths) -> dict[int, dict[str, Any]]:
    """The manifests of the finished rounds, by round."""
    return {number: files.read_json(paths.round_manifest(number)) for number in paths.finished_rounds()}


def choose_members(context: Context, round: int, students: Sequence[str], calibrations: Calibrations) -> Selected:
    """The students that form the round's ensemble: all, or those chosen on val, into members.json."""
    config, paths = context.config, context.paths
    if config.rounds.ensemble == "all":
        return everyone(students)
    path, title = paths.members(round), "choose the ensemble"
    folders = {name: list(judged(context.config, context.paths, round, name, "val")) for name in students}
    fingerprint = files.sha256_json([[name, _prints(pairs)] for name, pairs in folders.items()] + [calibrations])
    if path.is_file() and (content := files.read_json(path))["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
        return Selected(tuple(content["members"]), content["why"])
    started = time.monotonic()
    context.watcher.stage(round, title, len(students), "models")
    classes = config.data.classes
    worth = {name: Calibration.from_json(found, classes).as_scores for name, found in calibrations.items()}
    said = {
        name: [worth[name](cells) if name in worth else cells for cells in cells_of(*(pair[0] for pair in pairs))]
        for name, pairs in folders.items()
    }
    truth = list(cells_of(*(images for _, images in folders[students[0]])))

    def score_of(members: tuple[str, ...]) -> float:
        return best_threshold(_fused(config, {name: said[name] for name in members}, truth)).map

    chosen = greedy(students, score_of, at_least=config.fusion.min_votes)
    files.write_json(path, {"fingerprint": fingerprint, **asdict(chosen)})
    context.watcher.advance(len(students))
    context.finish(round, time.monotonic() - started)
    return chosen


def _prints(pairs: Sequence[tuple[Path, Path]]) -> list[list[str]]:
    return [[outputs_fingerprint(folder) for folder in pair] for pair in pairs]


def _fused(
    config: Config, said: Mapping[str, Sequence[Instances]], truth: Sequence[Instances]
) -> Iterator[tuple[Instances, Instances]]:
    """(fused predictions, human cells) of each image, as they are scored."""
    for true, *cells in zip(truth, *said.values(), strict=True):
        fused = fuse(dict(zip(said, cells, strict=True)), config.fusion, config.data.one_class_per_image)
        yield scorable(fused, true)


def evaluate(context: Context, round: int, names: Sequence[str]) -> list[Evaluation]:
    """Score every model of the round, and its ensemble, on val and test, into the round's evaluation table.

    With folds, val are all human labels, each image as seen by those who never learned from it.
    """
    paths, classes = context.paths, context.config.data.classes
    path, title = paths.evaluation(round), "evaluate"
    marker = path.with_suffix(".json")
    models = [*names, ENSEMBLE]
    folders = {(m, split): list(judged(context.config, paths, round, m, split)) for m in models for split in EVALUATED}
    fingerprint = files.sha256_json([[*key, _prints(pairs)] for key, pairs in folders.items()])
    if marker.is_file() and files.read_json(marker)["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
        return read_evaluations(path, classes)
    started = time.monotonic()
    context.watcher.stage(round, title, len(models), "models")
    found: list[Evaluation] = []
    for count, model in enumerate(models, start=1):
        threshold = best_threshold(all_pairs(folders[model, "val"])).value
        found += [_scored(round, model, split, threshold, folders[model, split]) for split in EVALUATED]
        context.watcher.advance(count)
    write_evaluations(path, found, classes, context.config_hash)
    files.write_json(marker, {"fingerprint": fingerprint})
    context.finish(round, time.monotonic() - started)
    return found


def _scored(round: int, model: str, split: str, threshold: float, folders: Sequence[tuple[Path, Path]]) -> Evaluation:
    images = chain.from_iterable(paired(*folder) for folder in folders)
    scores = tuple(score_image(image_id, known, cells, threshold) for image_id, cells, known in images)
    return Evaluation(round, model, split, threshold, scores)


def judge(context: Context, round: int, candidate: Contender, teachers: Teachers | None) -> Decision:
    """Compare the round's ensemble with the standing one on the validation images, at the sizes of the pool.

    The reason also says when the rounds end with this one.
    """
    best = _contender(context, teachers) if teachers else None
    decision = compare(context, round, candidate, best)
    end = stopped(context, decision)
    return replace(decision, reason=f"{decision.reason}; no further round is run: {end}") if end else decision


def judge_control(
    context: Context,
    round: int,
    found: Sequence[Evaluation],
    candidate: Contender,
    decision: Decision,
    teachers: Teachers,
) -> Decision:
    """Whether longer training on the human labels beats the best ensemble so far: then it is what is delivered.

    It teaches nobody: the rounds go on from the ensembles.
    """
    best = candidate if decision.promoted else _contender(context, teachers)
    control = Contender(round, CONTROL, (CONTROL,), {}, find(found, CONTROL, "val"))
    return compare(context, round, control, best)


def _contender(context: Context, teachers: Teachers) -> Contender:
    """The standing ensemble."""
    paths = context.paths
    val = find(read_evaluations(paths.evaluation(teachers.round), context.config.data.classes), ENSEMBLE, "val")
    return Contender(teachers.round, ENSEMBLE, teachers.names, kept(paths.calibration(teachers.round)), val)


def delivered(paths: RunPaths) -> tuple[int, str]:
    """(round, model) that the run recommends: the last promoted ensemble, or the control that beat it."""
    found = (0, ENSEMBLE)
    for number, manifest in read_manifests(paths).items():
        if manifest["decision"]["promoted"]:
            found = (number, ENSEMBLE)
        if manifest["control"] and manifest["control"]["promoted"]:
            found = (number, CONTROL)
    return found


def rows_of(
    context: Context,
    round: int,
    names: Sequence[str],
    chosen: Selected,
    decision: Decision,
    on_control: Decision | None,
    seconds: float,
) -> list[Row]:
    """The leaderboard rows of a round: its students, its ensemble, and the control when there is one."""
    config, paths = context.config, context.paths
    found = read_evaluations(paths.evaluation(round), config.data.classes)
    first = config.models_of(round)[0].name
    before = read_evaluations(paths.evaluation(0), config.data.classes) if round else []
    known = {evaluation.model for evaluation in before}
    counts = pseudo_counts(context, round) if round else {}
    control = find(found, CONTROL, "test") if CONTROL in names else None
    winners = {*chosen.members, ENSEMBLE} if decision.promoted else set()
    winners |= {CONTROL} if on_control and on_control.promoted else set()
    rows = []
    for model in [*(name for name in names if name != CONTROL), ENSEMBLE, *([CONTROL] if control else [])]:
        baseline = leaderboard.baseline_name(model, first)
        rows.append(
            leaderboard.make_row(
                find(found, model, "val"),
                find(found, model, "test"),
                baseline=find(before, baseline, "test") if baseline in known else None,
                control=control if model == first else None,
                classes=config.data.classes,
                counts=_counts_of(model, counts),
                promoted=model in winners,
                seconds=_fit_seconds(context, round, model) if model != ENSEMBLE else seconds,
                config=config.rounds.promotion,
                seed=config.run.seed,
            )
        )
    return rows


def _counts_of(model: str, counts: dict[str, int]) -> dict[str, int]:
    """The pseudo-labels that a model learned from; the control and round 0 saw none."""
    return {state: 0 if model == CONTROL else counts.get(state, 0) for state in ("accepted", "ignored", "rejected")}


def _fit_seconds(context: Context, round: int, model: str) -> float:
    """Seconds that the fits of a model took, in all folds."""
    members = [context.paths.model(round, fold.member(model)) for fold in folds_of(context.config)]
    return float(sum(read_manifest(folder)["seconds"] for folder in members))


def finish_round(
    context: Context,
    round: int,
    names: Sequence[str],
    chosen: Selected,
    teachers: Teachers | None,
    decision: Decision,
    on_control: Decision | None,
) -> None:
    """Write the round's manifest, last, and the leaderboard of all rounds so far.

    `students` in it are those of the ensemble; the rows hold every model.
    """
    paths = context.paths
    seconds = context.spent(round)
    manifest = {
        "round": round,
        "teachers_round": None if teachers is None else teachers.round,
        "students": list(chosen.members),
        "why_these_students": chosen.why,
        "steps": first_steps(context, round) + (teachers.steps if teachers else 0),
        "decision": asdict(decision),
        "control": asdict(on_control) if on_control else None,
        "seconds": seconds,
        "rows": [row.to_json() for row in rows_of(context, round, names, chosen, decision, on_control, seconds)],
    }
    files.write_json(paths.round_manifest(round), manifest)
    write_leaderboard(context)
    reporting.write_report(context, round)


def write_leaderboard(context: Context) -> None:
    """The leaderboard of all finished rounds as Parquet, CSV and Markdown, with the verdict."""
    manifests = read_manifests(context.paths)
    rows = [Row.from_json(values) for manifest in manifests.values() for values in manifest["rows"]]
    sentence = verdict(rows, decisions(manifests), delivered(context.paths))
    leaderboard.write(context.paths.leaderboard, rows, sentence, context.config_hash)


def decisions(manifests: dict[int, dict[str, Any]]) -> dict[int, Decision]:
    """The decision of every finished round."""
    return {number: Decision(**manifest["decision"]) for number, manifest in manifests.items()}


def read_verdict(paths: RunPaths) -> str:
    """The verdict of a run as it stands."""
    return verdict(leaderboard.read(paths.leaderboard), decisions(read_manifests(paths)), delivered(paths))
