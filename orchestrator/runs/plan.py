"""Plans what a call would do: which steps of a run are kept, which are done again because of a changed setting."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import config_difference
from cellsemi.configs.schema import Config
from cellsemi.configs.settings_read import read_settings
from cellsemi.rounds.store.kept_weights import read_kept, write_kept
from cellsemi.rounds.store.run import (
    RunPaths,
    paths_of,
    read_config,
    read_precision,
    read_shard_workers,
    write_config,
    write_precision,
    write_shard_workers,
)
from cellsemi.rounds.store.steps import Stale, StepRecord, read_steps, stale_steps, supersede
from cellsemi.rounds.store.unaltered import record_path

State = Literal["kept", "to do", "redone"]
SHOWN = 20  # lines of a refusal; --dry-run prints all


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a run and what the next call does with it; `because` says why it is done again."""

    round: int
    name: str
    state: State
    because: str = ""

    def line(self) -> str:
        """One line of text."""
        return f"round {self.round}: {self.name}: {self.state}" + (f" because {self.because}" if self.because else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call with a config would do. `changes` are the settings that differ from those of the run.

    `undoes`: a round is finished, or a change makes a step stale that is done. To read the images again loses nothing.
    """

    paths: RunPaths
    changes: tuple[str, ...]
    steps: tuple[PlannedStep, ...]
    undoes: bool = False

    @property
    def asks(self) -> bool:
        """Whether the changes need --accept-changes: a round is finished, or work that is done would be done again."""
        return bool(self.changes) and self.undoes

    def count(self, state: State) -> int:
        """How many steps are in a state."""
        return sum(step.state == state for step in self.steps)


def make_plan(config: Config, n: int) -> Plan:
    """The plan of bringing the run of a config to `n` rounds; nothing is changed.

    A decision that is made anew may choose other teachers for the rounds after it: their steps are then done again too,
    which nobody can know before.
    """
    paths = paths_of(config)
    records = read_steps(paths)
    stale = {each.record.output: each.because for each in _stale(records, config)}
    if paths.config.is_file():
        changes = tuple(config_difference(read_config(paths), config))
    else:
        changes = (f"{paths.config.name} is gone, and steps were made with other settings",) if stale else ()
    steps = [_planned(record, stale.get(record.output)) for record in records]
    finished = len(paths.finished_rounds())
    begun = any(record.round == finished for record in records)
    steps += _rounds_to_do(finished, n, begun)
    work = [record for record in records if record.state == "done" and paths.root / record.output != paths.data]
    undoes = finished > 0 or any(record.output in stale for record in work)
    return Plan(paths, changes, tuple(steps), undoes)


def _planned(record: StepRecord, because: tuple[str, ...] | None) -> PlannedStep:
    if because is not None:
        return PlannedStep(record.round, record.name, "redone", "; ".join(because))
    return PlannedStep(record.round, record.name, "kept" if record.state == "done" else "to do")


def _rounds_to_do(first: int, n: int, begun: bool) -> list[PlannedStep]:
    return [
        PlannedStep(round, "the rest of its steps" if begun and round == first else "all its steps", "to do")
        for round in range(first, n + 1)
    ]


def _stale(records: Sequence[StepRecord], config: Config) -> list[Stale]:
    return stale_steps(records, lambda paths: read_settings(config, paths))


def refuse_changes(plan: Plan) -> UsageError:
    """The error of a call with changed settings that were not accepted: what they would redo, and the remedies."""
    redone = [step.line() for step in plan.steps if step.state == "redone"]
    shown = redone[:SHOWN] + ([f"and {len(redone) - SHOWN} more"] if len(redone) > SHOWN else [])
    return UsageError(
        f"{plan.paths.root}: this run was made with another config:\n  "
        + "\n  ".join(plan.changes)
        + f"\nWith these settings {plan.count('kept')} of its steps are kept and {len(redone)} are done again:\n  "
        + "\n  ".join(shown or ["none"])
        + "\nAdd --accept-changes to do that (--dry-run shows all steps), go on with the run as it is (its name alone: "
        f"--run {plan.paths.name}), or give the new run a name: --run {plan.paths.name}-2"
    )


def accept_changes(config: Config, paths: RunPaths) -> list[StepRecord]:
    """Take the settings that changed, if any: move what they make stale below superseded/, then write run.yaml.

    Returns the steps that are to be done again. The caller holds the run's lock. A call that is cut off goes on from
    where it was: run.yaml is written last.
    """
    if paths.config.is_file() and not config_difference(read_config(paths), config):
        return []
    moved = supersede(paths, [each.record for each in _stale(read_steps(paths), config)])
    write_config(paths, config)
    return moved


def adopt_steps(source: RunPaths, target: RunPaths, config: Config) -> int:
    """Give a new run the steps of another that its config does not change, as links to the same files.

    Files of a run are written whole and never altered, so a link is as good as a copy. Returns how many steps it took.
    """
    records = [record for record in read_steps(source) if record.state == "done"]
    stale = {each.record.output for each in _stale(records, config)}
    kept = [record for record in records if record.output not in stale]
    for record in sorted(kept, key=lambda record: len(record.output)):
        output = source.root / record.output
        inner = {other.output for other in records if other.output.startswith(f"{record.output}/")}
        _link(output, target.root / record.output, {source.root / path for path in inner})
        _link(record_path(output), target.root / record_path(output).relative_to(source.root), set())
    if (agreed := read_precision(source)) is not None:
        write_precision(target, agreed)
    if (workers := read_shard_workers(source)) is not None:
        write_shard_workers(target, workers)
    if weights := read_kept(source):
        _link(source.weights, target.weights, set())
        write_kept(target, weights)
    return len(kept)


def _link(path: Path, place: Path, leave_out: set[Path]) -> None:
    """Link a file, or every file of a folder but those of some folders in it; a copy where links are not possible."""
    if path in leave_out or place.is_file():
        return
    if path.is_dir():
        for each in sorted(path.iterdir()):
            _link(each, place / each.name, leave_out)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.hardlink_to(path)
    except OSError:
        shutil.copy2(path, place)
