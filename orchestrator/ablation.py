"""Runs an ablation: a config as it is, and once more for each part with that part switched, on the same seeds.

Every run is an ordinary one, so that it resumes, and has a leaderboard of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.ablation_parts import Part, Switch, switch
from cellsemi.configs.errors import CellsemiError, UsageError, in_one_line
from cellsemi.configs.loading import build_config
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.campaign import open_log, run_campaign
from cellsemi.orchestrator.engine.protocol import Engine
from cellsemi.orchestrator.events import Watcher
from cellsemi.orchestrator.runs.plan import adopt_steps
from cellsemi.rounds.evaluation.ablation_table import BASE, RunResult, Variant
from cellsemi.rounds.evaluation.ensemble_selection import stop_reason
from cellsemi.rounds.evaluation.evaluation_table import find, read_evaluations
from cellsemi.rounds.evaluation.history import decisions, read_manifests
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.metrics import ImageScore
from cellsemi.rounds.store import files
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, open_run


@dataclass(frozen=True, slots=True)
class Planned:
    """One run: its part ("base" for none), its seed, its config and its place."""

    part: str
    seed: int
    config: Config
    paths: RunPaths


@dataclass(frozen=True, slots=True)
class Plan:
    """All runs of an ablation, seed by seed, and what could not be switched."""

    base: Config
    target: int
    seeds: tuple[int, ...]
    switches: tuple[Switch, ...]
    runs: tuple[Planned, ...]
    notes: tuple[str, ...]

    @property
    def table(self) -> Path:
        """Where the table goes, beside the runs and without suffix: .md, .csv and .json."""
        return files.place(self.base.run.root).resolve() / f"{self.base.run.name}-ablation"


def make_plan(base: Config, target: int, parts: Sequence[Part], seeds: Sequence[int], strict: bool) -> Plan:
    """Which runs bring base and parts to round `target`; opens all of them before any is begun.

    A part that can change nothing in this config is left out with a note; UsageError when `strict`.
    UsageError also when one of the runs was made with another config.
    """
    switches, notes = [], []
    for part in parts:
        try:
            switches.append(switch(base, part))
        except UsageError as error:
            if strict:
                raise
            notes.append(f"left out: {in_one_line(str(error))}")
    each = tuple(dict.fromkeys(seeds))
    configs = [(BASE, base), *((made.part, made.config) for made in switches)]
    named = [(part, seed, _as_run(config, part, seed)) for seed in each for part, config in configs]
    runs = [Planned(part, seed, config, open_run(config)) for part, seed, config in named]
    return Plan(base, target, each, tuple(switches), tuple(runs), tuple(notes))


def _as_run(config: Config, part: str, seed: int) -> Config:
    data = config.model_dump(mode="json")
    data["run"] |= {"name": f"{config.run.name}-{part}-s{seed}", "seed": seed}
    return build_config(data, f"the run of {part} with seed {seed}")


def is_finished(planned: Planned, target: int) -> bool:
    """Whether the run has come to round `target`, or has ended before it by its own rule."""
    made = decisions(read_manifests(planned.paths))
    promoted = [decision.promoted for decision in made.values()]
    ended = bool(promoted) and stop_reason(promoted, planned.config) is not None
    return (len(made) > target or ended) and planned.paths.leaderboard.with_suffix(".parquet").is_file()


def carry_out(plan: Plan, engine: Callable[[], Engine], watcher: Watcher) -> dict[str, str]:
    """Bring every run to the plan's round; the errors of those that failed, by name.

    The engine is made for the first run that is not finished, and serves all others. A run that fails does
    not stop the rest.
    """
    todo = [planned for planned in plan.runs if not is_finished(planned, plan.target)]
    errors: dict[str, str] = {}
    if not todo:
        watcher.note(f"all {len(plan.runs)} runs were done before")
        return errors
    with engine() as started:
        watcher.note(f"engine: {started.describe()}")
        for number, planned in enumerate(plan.runs, start=1):
            done = ": was done before" if planned not in todo else ""
            watcher.note(f"run {number} of {len(plan.runs)}, {planned.paths.name}{done}")
            if done:
                continue
            try:
                with driver_lock(planned.paths):
                    _adopt(plan, planned, watcher)
                    log = open_log(watcher, planned.paths, started)
                    run_campaign(planned.config, plan.target, started, planned.paths, log)
            except CellsemiError as error:
                errors[planned.paths.name] = in_one_line(str(error))
                watcher.note(f"{planned.paths.name} failed: {error}")
    return errors


def _adopt(plan: Plan, planned: Planned, watcher: Watcher) -> None:
    """Take over the steps of the base's run of the same seed that the switched part does not touch."""
    if planned.part == BASE or planned.paths.data.is_dir():
        return
    (base,) = (each for each in _runs_of(plan, BASE) if each.seed == planned.seed)
    count = adopt_steps(base.paths, planned.paths, planned.config)
    watcher.note(f"{planned.paths.name}: {count} steps are those of {base.paths.name}")


def gather(plan: Plan, errors: dict[str, str]) -> list[Variant]:
    """What the runs came to, the base first; a run that cannot be read is one that failed."""
    return [_variant(plan, None, errors), *(_variant(plan, made, errors) for made in plan.switches)]


def _variant(plan: Plan, made: Switch | None, errors: dict[str, str]) -> Variant:
    part = made.part if made else BASE
    results, failed = {}, {}
    for planned in _runs_of(plan, part):
        if planned.paths.name in errors:
            failed[planned.seed] = errors[planned.paths.name]
            continue
        try:
            results[planned.seed] = read_result(planned, plan.target)
        except CellsemiError as error:
            failed[planned.seed] = in_one_line(str(error))
    if made is None:
        return Variant(part, "", (), (), results, failed)
    return Variant(part, made.to, made.settings, made.changes, results, failed)


def _runs_of(plan: Plan, part: str) -> Iterator[Planned]:
    return (planned for planned in plan.runs if planned.part == part)


def read_result(planned: Planned, target: int) -> RunResult:
    """The test scores and counts of a finished run up to round `target`; later rounds do not count."""
    manifests = {number: each for number, each in read_manifests(planned.paths).items() if number <= target}
    made = decisions(manifests)
    last = max(manifests)
    promoted = max(number for number, decision in made.items() if decision.promoted)
    scores = {number: _test_scores(planned, number) for number in {last, promoted}}
    (ensemble,) = (row for row in map(Row.from_json, manifests[last].rows) if row.model == ENSEMBLE)
    return RunResult(
        last_round=last,
        promoted_round=promoted,
        last=scores[last],
        promoted=scores[promoted],
        accepted=ensemble.accepted,
        ignored=ensemble.ignored,
        rejected=ensemble.rejected,
        seconds=sum(manifest.seconds for manifest in manifests.values()),
    )


def _test_scores(planned: Planned, round: int) -> tuple[ImageScore, ...]:
    found = read_evaluations(planned.paths.evaluation(round), planned.config.data.classes)
    return find(found, ENSEMBLE, "test").scores
