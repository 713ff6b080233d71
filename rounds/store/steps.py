"""Records the steps of a run: what each read, what it wrote, and whether it is done.

A step is work that is done once. Its record lies beside its output (`step.json` in a folder, `NAME.step.json` beside a
file) and is written last: from then on the step is done. The record holds the settings that the step read and the
fingerprints of its inputs, so that a later call can tell what a changed setting makes stale, and what it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from cellsemi.configs.errors import RunError
from cellsemi.configs.settings_read import changed_settings
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import COMMITS, Commit, outputs_fingerprint
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.unaltered import (
    MANIFEST,
    RECORD,
    altered_shards,
    check_output,
    content_of,
    record_path,
)

StepState = Literal["done", "begun"]


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work: its name in a round, what it reads, and the folder or file that it writes.

    `settings` are values of the config by their path (configs.settings_read), `inputs` outputs of earlier steps or
    files from outside, and `parameters` all else that its result depends on. `total` counts its work in `unit`s.
    """

    round: int
    name: str
    output: Path
    settings: Mapping[str, JsonValue]
    inputs: tuple[Path, ...] = ()
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    total: int = 1
    unit: str = "images"


class StepRecord(OnDisk):
    """A step that was begun or done, as it lies on disk. Paths are below the run's folder.

    `number` counts the steps of a run in the order in which they began; `total` counts `unit`s of work; `content` is
    that of the output of a step that is done (unaltered.content_of).
    """

    round: int
    name: str
    number: int
    state: StepState
    fingerprint: str
    settings: dict[str, JsonValue]
    parameters: dict[str, JsonValue]
    inputs: dict[str, str]
    output: str
    unit: str
    total: int
    seconds: float | None = None
    content: str | None = None


def read_steps(paths: RunPaths) -> list[StepRecord]:
    """The records of a run, in the order in which their steps began."""
    found = [StepRecord.read(path) for path in _record_files(paths)]
    return sorted(found, key=lambda record: (record.round, record.number))


def _record_files(paths: RunPaths) -> Iterator[Path]:
    for folder in (paths.data, *sorted(paths.root.glob("round-*"))):
        yield from folder.rglob(f"*{RECORD}")


def fingerprint_of(step: Step, inputs: Mapping[str, str]) -> str:
    """Changes when the result of the step would: of the inputs counts what lies there, in their order, not where."""
    return files.sha256_json([step.name, dict(step.settings), dict(step.parameters), list(inputs.values())])


class Ledger:
    """The records of a run while it is worked on: which steps are done, begun, or stale."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._numbers = max((record.number for record in read_steps(paths)), default=0)

    def fingerprint(self, step: Step) -> str:
        """The fingerprint of a step with its inputs as they are now; RunError when one of them is not there."""
        return fingerprint_of(step, self._inputs(step))

    def is_done(self, step: Step) -> bool:
        """Whether the step is done with these settings and inputs.

        A record made from other settings or from other inputs is moved aside, with all that was made from its
        output. RunError when the very same inputs, or the output itself, were altered after the step was done.
        """
        path = record_path(step.output)
        if not path.is_file() or not step.output.exists():
            return False
        record, inputs = StepRecord.read(path), self._inputs(step)
        if record.fingerprint == fingerprint_of(step, inputs):
            check_output(step.output)
            return record.state == "done"
        altered = record.state == "done" and self._differs_only_in_content(record, step, inputs)
        if altered:
            raise RunError(
                f"{path}: made from other inputs than the run has now: {', '.join(_altered(record, inputs))} was "
                f"altered. Remove {step.output} and what came after it, and run the same command again"
            )
        supersede(self._paths, [record])
        return False

    def begin(self, step: Step) -> None:
        """Record that the step is begun; what an earlier call left of it stays where it is."""
        path = record_path(step.output)
        if path.is_file():
            number = StepRecord.read(path).number
        else:
            self._numbers += 1
            number = self._numbers
        self._write(step, "begun", number, None)

    def finish(self, step: Step, seconds: float) -> None:
        """Record that the step is done."""
        number = StepRecord.read(record_path(step.output)).number
        self._write(step, "done", number, round(seconds, 2))

    def _write(self, step: Step, state: StepState, number: int, seconds: float | None) -> None:
        inputs = self._inputs(step)
        StepRecord(
            round=step.round,
            name=step.name,
            number=number,
            state=state,
            fingerprint=fingerprint_of(step, inputs),
            settings=dict(step.settings),
            parameters=dict(step.parameters),
            inputs=inputs,
            output=below(self._paths, step.output),
            unit=step.unit,
            total=step.total,
            seconds=seconds,
            content=content_of(step.output) if state == "done" and step.output.exists() else None,
        ).write(record_path(step.output))

    def _inputs(self, step: Step) -> dict[str, str]:
        for path in step.inputs:
            check_output(path)
        return {below(self._paths, path): outputs_fingerprint(path) for path in step.inputs}

    @staticmethod
    def _differs_only_in_content(record: StepRecord, step: Step, inputs: Mapping[str, str]) -> bool:
        same_settings = (record.settings, record.parameters) == (dict(step.settings), dict(step.parameters))
        return same_settings and set(record.inputs) == set(inputs)


def _altered(record: StepRecord, inputs: Mapping[str, str]) -> list[str]:
    return [path for path, found in inputs.items() if record.inputs.get(path) != found]


def below(paths: RunPaths, path: Path) -> str:
    """A path as records name it: below the run's folder, or whole where it lies outside."""
    return path.relative_to(paths.root).as_posix() if path.is_relative_to(paths.root) else str(path)


def done_on_disk(paths: RunPaths, record: StepRecord) -> int | None:
    """How many units of a step are done: its total, or what a step in progress has committed; None if unknown."""
    if record.state == "done":
        return record.total
    commits = list((paths.root / record.output / COMMITS).glob("*.json"))
    return sum(Commit.read(path).rows for path in commits) if commits else None


def altered(paths: RunPaths) -> Iterator[str]:
    """What is no longer as the steps of a run wrote it, a line each with the remedy; the shards of data/ apart."""
    for record in read_steps(paths):
        output = paths.root / record.output
        if record.state != "done":
            continue
        try:
            check_output(output)
        except RunError as error:
            yield str(error)
            continue
        if output != paths.data and (output / MANIFEST).is_file():
            yield from altered_shards(output)


# --- what a change makes stale -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stale:
    """A step that must be done again, and why: changed settings, or the step that it follows."""

    record: StepRecord
    because: tuple[str, ...]


def stale_steps(records: Iterable[StepRecord], read: Callable[[Iterable[str]], Mapping[str, JsonValue]]) -> list[Stale]:
    """The steps that a change of settings makes stale, and all that was made from their outputs.

    `read` gives the new values of some setting paths. `because` holds the settings at the root of it.
    """
    ordered = list(records)
    reasons = {record.output: tuple(changed_settings(record.settings, read(record.settings))) for record in ordered}
    return _with_dependents(ordered, {output: why for output, why in reasons.items() if why})


def _with_dependents(records: Iterable[StepRecord], roots: Mapping[str, tuple[str, ...]]) -> list[Stale]:
    ordered = list(records)
    because = dict(roots)
    changed = True
    while changed:
        changed = False
        for record in ordered:
            if record.output in because:
                continue
            causes = [because[path] for path in _sources(record, because)]
            if causes:
                because[record.output] = tuple(dict.fromkeys(line for cause in causes for line in cause))
                changed = True
    return [Stale(record, because[record.output]) for record in ordered if record.output in because]


def _sources(record: StepRecord, stale: Mapping[str, object]) -> list[str]:
    """Stale outputs that the step read, or in whose folder its own output lies."""
    return [
        output
        for output in stale
        if output in record.inputs
        or any(path.startswith(f"{output}/") for path in record.inputs)
        or record.output.startswith(f"{output}/")
    ]


def supersede(paths: RunPaths, roots: Iterable[StepRecord]) -> list[StepRecord]:
    """Move the outputs of some steps, and of all that was made from them, below `superseded/`; returns their records.

    They stay there until their round is finished anew (`forget_superseded`).
    """
    stale = _with_dependents(read_steps(paths), {record.output: ("",) for record in roots})
    for each in sorted(stale, key=lambda each: -len(each.record.output)):
        output = paths.root / each.record.output
        for path in dict.fromkeys((output, record_path(output))):
            if path.exists():
                _move(path, paths.superseded / each.record.output if path == output else _beside(paths, path))
    return [each.record for each in stale]


def _beside(paths: RunPaths, path: Path) -> Path:
    return paths.superseded / path.relative_to(paths.root)


def _move(path: Path, target: Path) -> None:
    with files.explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not path.is_dir():
            target = target / path.name
        elif target.is_dir():
            _merge(path, target)
            return
        path.replace(target)


def _merge(folder: Path, target: Path) -> None:
    """Move a folder onto one that an earlier change left: the newer files win."""
    for path in sorted(folder.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _merge(path, place)
        else:
            if place.is_dir():
                files.remove_folder(place)
            path.replace(place)
    folder.rmdir()


def forget_superseded(paths: RunPaths, round: int) -> None:
    """Remove what the rounds up to a finished one replaced."""
    for name in (paths.data.name, *(paths.round(number).name for number in range(round + 1))):
        files.remove_folder(paths.superseded / name, ignore_errors=True)
    if paths.superseded.is_dir() and not any(paths.superseded.iterdir()):
        paths.superseded.rmdir()
