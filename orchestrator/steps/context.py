"""Holds what every stage is given, and does a step: once, recorded, timed, announced."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from cellsemi.configs.errors import CellsemiError, DataError, EngineError
from cellsemi.configs.schema import Config
from cellsemi.configs.settings_read import read_settings
from cellsemi.orchestrator.engine.protocol import Engine, Failure
from cellsemi.orchestrator.events import Watcher
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.steps import Ledger, Step, read_steps

OF_CELLS = ("data.classes", "data.one_class_per_image")  # read by all that turns predictions into cells


@dataclass(frozen=True, slots=True)
class Context:
    """One driver's call: the config, its hash, the run's paths, the engine and who is watching."""

    config: Config
    config_hash: str
    paths: RunPaths
    engine: Engine
    watcher: Watcher
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ledger", Ledger(self.paths))

    def read(self, *settings: str) -> dict[str, JsonValue]:
        """The values of some settings, for a step that reads them."""
        return read_settings(self.config, settings)

    def check_space(self) -> None:
        """RunError when the disk is nearly full: before work, not in the middle of it."""
        files.check_free_space(self.paths.root, self.config.engine.min_free_mb)

    def spent(self, round: int) -> float:
        """Seconds that the finished steps of a round took, whichever call they ran in."""
        return sum(record.seconds or 0.0 for record in read_steps(self.paths) if record.round == round)


def do(context: Context, step: Step, work: Callable[[], None]) -> bool:
    """Do a step unless it is done; returns whether it was done now. See `do_all`."""

    def alone(_: Sequence[Step], finish: Finish) -> None:
        started = time.monotonic()
        work()
        finish(step, time.monotonic() - started)

    return bool(do_all(context, step.name, [step], alone))


Finish = Callable[[Step, float], None]  # the step is done, in so many seconds


def do_all(
    context: Context,
    title: str,
    steps: Sequence[Step],
    work: Callable[[Sequence[Step], Finish], None],
    *,
    quiet: bool = False,
) -> list[Step]:
    """Do the steps of one round that are not done yet, side by side: the one way in which work is done once.

    Returns those that were done now. `work` writes the output of each and calls `finish`; a step that it does not
    finish stays begun, and the next call tries it again. The watcher sees them as one piece of work, or is called by
    `work` itself where their total is not known before (0); with `quiet` it is not told. RunError when the inputs of a
    done step were altered, or the disk is nearly full.
    """
    ledger, watcher = context.ledger, context.watcher
    todo = [step for step in steps if not ledger.is_done(step)]
    if not todo:
        watcher.skipped(steps[0].round, title)
        return []
    context.check_space()
    started = time.monotonic()
    total = sum(step.total for step in todo)
    told = total > 0 and not quiet
    if told:
        watcher.stage(todo[0].round, title, total, todo[0].unit)
    for step in todo:
        ledger.begin(step)
    work(todo, ledger.finish)
    if told:
        watcher.finish(time.monotonic() - started)
    return todo


def failed(title: str, failures: Sequence[Failure], remedy: str = "") -> EngineError:
    """The error of a stage whose work failed on every attempt; `remedy` is a line."""
    shown = "\n  ".join(f"item {f.item}, {f.attempts} attempts: {f.error}" for f in failures[:5])
    more = f"\n  and {len(failures) - 5} more" if len(failures) > 5 else ""
    return EngineError(
        f"{title}: {len(failures)} could not be done\n  {shown}{more}\n{remedy}"
        "What was done is kept; the same command tries the rest again"
    )


def failed_on_data(title: str, failures: Sequence[Failure]) -> CellsemiError:
    """The same where data that cannot be used is the cause: then it is an error of the data, as where it was found."""
    kind, _, said = failures[0].error.partition(": ")
    return DataError(said) if kind == DataError.__name__ else failed(title, failures)
