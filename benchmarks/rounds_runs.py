"""The finished runs of rounds.py, read from their files: the lines of a regime and seed, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cellsemi.configs.schema import Config
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.bootstrap import bootstrap_interval
from cellsemi.rounds.evaluation.ensemble_selection import stop_reason
from cellsemi.rounds.evaluation.evaluation_table import find, read_evaluations
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.metrics import ImageScore, paired_values
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, is_control, read_config

SMALL_GAP = 0.01  # a gap from (b) to (e) below this is none that could be closed
RESAMPLES, CONFIDENCE = 2000, 0.95
LETTERS = "abcde"

Value = float | None


@dataclass(frozen=True, slots=True)
class Line:
    """A finished run: its leaderboard rows, of them `ensemble` by round, and `control`, the last one there is."""

    paths: RunPaths
    config: Config
    rows: Sequence[Row]
    ensemble: Mapping[int, Row]
    control: Row | None

    @classmethod
    def read(cls, folder: Path, n: int) -> Self | None:
        """The run in a folder; None when it is not there or has neither reached round `n` nor stopped early."""
        paths = RunPaths(folder)
        if not paths.leaderboard.with_suffix(".parquet").is_file():
            return None
        config = read_config(paths)
        rows = [row for row in leaderboard.read(paths.leaderboard) if row.round <= n]
        ensemble = {row.round: row for row in rows if row.model == ENSEMBLE}
        ended = stop_reason([row.promoted for row in ensemble.values()], config)
        if max(ensemble) < n and not ended:
            return None
        controls = [row for row in rows if is_control(row.model)]
        # Of the last round, and of several seeds the one that is best on val, the first of equal ones.
        control = max(controls, key=lambda row: (row.round, row.val_map.value), default=None)
        return cls(paths, config, rows, ensemble, control)

    @property
    def last(self) -> int:
        return max(self.ensemble)

    @property
    def promoted(self) -> int:
        """The round whose ensemble stands in the end; 0 when none was promoted."""
        return max(number for number, row in self.ensemble.items() if number == 0 or row.promoted)

    @property
    def delivered(self) -> Row:
        """What the run recommends: the promoted ensemble, or the control where it beat that on validation images."""
        if self.control is not None and self.control.recommended:
            return self.control
        return self.ensemble[self.promoted]

    def map_of(self, round: int) -> Value:
        """Test mAP of the ensemble of a round; None when the run stopped before it."""
        return self.ensemble[round].test_map.value if round in self.ensemble else None

    def scores(self, round: int, model: str) -> tuple[ImageScore, ...]:
        """The test scores of a model, image by image."""
        found = read_evaluations(self.paths.evaluation(round), self.config.data.classes)
        return find(found, model, "test").scores


@dataclass(frozen=True, slots=True)
class Seed:
    """The lines of one regime and seed; None for what is not finished."""

    seed: int
    ours: Line | None
    plain: Line | None
    every: Line | None

    @property
    def complete(self) -> bool:
        """Whether every line is finished."""
        return all((self.ours, self.plain, self.every))

    def row(self, letter: str) -> Row | None:
        """The leaderboard row that line `a` to `e` is judged by: (c) its last round, (d) what is delivered."""
        ours, plain, every = self.ours, self.plain, self.every
        if letter == "c":
            return plain.ensemble[plain.last] if plain else None
        if letter == "e":
            return every.ensemble[0] if every else None
        if ours is None:
            return None
        return {"a": ours.ensemble[0], "b": ours.control, "d": ours.delivered}[letter]

    def value(self, letter: str) -> Value:
        """Test mAP of a line."""
        row = self.row(letter)
        return row.test_map.value if row else None

    @property
    def b_steps(self) -> int | None:
        if not self.ours or not self.ours.control:
            return None
        folder = self.ours.paths.model(self.ours.control.round, self.ours.control.model)
        return read_fit(folder).steps

    @property
    def change(self) -> Value:
        """Test mAP of the worst model of ours that was promoted or delivered, less that of round 0."""
        if not self.ours:
            return None
        promoted = [row for row in self.ours.ensemble.values() if row.promoted]
        worst = min(row.test_map.value for row in [*promoted, self.ours.delivered])
        return worst - self.ours.ensemble[0].test_map.value

    def over_b(self) -> tuple[float, float] | None:
        """Paired-bootstrap interval of (d) delivered - (b) over the test images."""
        if not self.ours or not self.ours.control:
            return None
        ours = self.ours.scores(self.ours.delivered.round, self.ours.delivered.model)
        mine, control = paired_values(ours, self.ours.scores(self.ours.control.round, self.ours.control.model))
        seed = derive_seed(self.seed, "benchmark", "rounds")
        return bootstrap_interval(mine - control, RESAMPLES, CONFIDENCE, seed)


def finished(seeds: Iterable[Seed]) -> list[Seed]:
    """The seeds of which every line is finished: those that count in means."""
    return [seed for seed in seeds if seed.complete]


def mean(values: Iterable[Value]) -> Value:
    """The mean; None when one is missing, for a mean over fewer seeds is another figure."""
    known = list(values)
    present = [value for value in known if value is not None]
    return sum(present) / len(present) if present and len(present) == len(known) else None


def less(left: Value, right: Value) -> Value:
    """left - right; None when one is missing."""
    return None if left is None or right is None else left - right


def gap_closed(b: Value, d: Value, e: Value) -> Value:
    """(d - b) / (e - b); None when one is missing or the gap is below SMALL_GAP."""
    if b is None or d is None or e is None or e - b < SMALL_GAP:
        return None
    return (d - b) / (e - b)


@dataclass(frozen=True, slots=True)
class Means:
    """The means over the seeds of a regime."""

    a: Value
    b: Value
    c: Value
    d: Value
    e: Value

    @classmethod
    def of(cls, seeds: Sequence[Seed]) -> Self:
        return cls(*(mean(seed.value(letter) for seed in seeds) for letter in LETTERS))

    @property
    def d_b(self) -> Value:
        return less(self.d, self.b)

    @property
    def d_c(self) -> Value:
        return less(self.d, self.c)
