"""The runs of rounds.py: the settings of each line, the parts that are switched, and the command of every run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regimes import REGIMES, Regime, of_ceiling

Settings = Mapping[str, Any]
PER_CLASS = "*"  # key of a value that stands for every class of the regime

TOTAL = 4  # round 0 and the students after it have so many times --steps together; (b) and (e) have them alone

# The settings of every line, by the ceiling of the regime. One model a round: then it is the ensemble, and the
# control, a copy of the first model, is its counterpart.
_ALL: Settings = {"inference.precision": "bfloat16"}
# The labels of `classes` cover the unlabelled images, other than those of the demo: no search, and its own batches.
OF_CLASSES: Settings = {"unlabelled_inference.scale_search": None, "training.batch": 6, "training.crop_px": 128}
COMMON: dict[str, tuple[str, Settings]] = {
    "fluorescence": ("dsb2018", {**_ALL, "data.where": {}}),  # the manifest of the regime says it all
    "mixed": ("dsb2018", {**_ALL, "data.where": {}}),
    "classes": ("demo", {**_ALL, "data.source": "shards", **OF_CLASSES}),
}
AUGMENT: dict[str, Settings] = {"classes": {"augment": {"scale_min": 0.75, "scale_max": 1.35}}}
NO_CALIBRATION: Settings = {"filter.min_samples": 10**9}  # fewer predictions than this leave the scores as they are
# (a), (b), (d), (e) and the ablations: what differs from the preset.
OURS: Settings = {}
# (c): every part of ours off. Scores are taken as they are, what is below .5 is background, and every round teaches.
PLAIN: Settings = {
    "training.human_fraction": 0.5,
    "training.human_last": 0.0,
    "inference.cell_probability": 0.5,
    "unlabelled_inference.scale_search": None,
    "filter.thresholds": {PER_CLASS: {"accept": 0.5, "reject": 0.5}},
    **NO_CALIBRATION,
    "filter.weight_by_quality": False,
    "rounds.promotion.min_probability": 0.0,
    "rounds.promotion.class_margin": 1.0,
    "rounds.promotion.unlabelled_sizes": False,
    "rounds.stop_after": None,
    "rounds.control": False,
}


@dataclass(frozen=True, slots=True)
class Off:
    """Ours with one part off: the settings that do it, and rounds or teachers beyond those of ours.

    Whatever there is more of, all models together have as many steps as those of ours.
    """

    settings: Settings
    more_rounds: int = 0
    more_teachers: int = 0

    def words(self, n: int, classes: Sequence[str]) -> str:
        """As it is given on the command line, where ours has `n` rounds."""
        rounds = [f"--n {n + self.more_rounds}"] if self.more_rounds else []
        teachers = [f"models: {1 + self.more_teachers} teachers of round 0"] if self.more_teachers else []
        return " ".join([*as_sets(self.settings, classes), *rounds, *teachers])


# By regime; the control is that of ours.
ABLATIONS: dict[str, dict[str, Off]] = {
    "uncovered": {
        "cell probability chosen on val": Off({"inference.cell_probability": 0.5}),
        "scale search": Off({"unlabelled_inference.scale_search": None}),
        "calibration": Off(NO_CALIBRATION),
        "limits chosen on val": Off({"filter.thresholds": {PER_CLASS: {"accept": 0.5, "reject": 0.1}}}),
        "area limits only where they pay": Off({"filter.areas": "always"}),
        "one teacher, not two fused": Off({}, more_teachers=1),
        "ignore band": Off({"filter.reject_below": 1.0}),
        "weights": Off({"filter.weight_by_quality": False}),
        "a quarter of human crops, not half": Off({"training.human_fraction": 0.5}),
        "last phase on human labels": Off({"training.human_last": 0.0}),
        "averaged weights (EMA)": Off({"training.ema": 0.0}),
        "default augmentation, not strong": Off({"models.1.augment": "strong"}),
        "no copy-paste": Off({"models.1.augment.copy_paste.probability": 0.5}),
        "one round, not two of as many steps": Off({}, more_rounds=1),
    },
    # Parts that need more predictions on validation images than three images hold.
    "enough": {
        "calibration": Off(NO_CALIBRATION),
        "quality from the score, not regressed": Off({"filter.quality": "regressed"}),
    },
}
NOTHING_OFF = Off({})


@dataclass(frozen=True, slots=True)
class Job:
    """One run: its name, the data below OUT/data, the round to reach, its preset and settings."""

    name: str
    data: str
    n: int
    preset: str
    settings: tuple[str, ...]

    def command(self, out: Path) -> list[str]:
        pairs = [f"data.root={out / 'data' / self.data}", f"run.root={out}", *self.settings]
        sets = [part for pair in pairs for part in ("--set", pair)]
        options = ["--config", self.preset, "--run", self.name, "--engine", "inline"]
        return ["cellsemi", "round", "--n", str(self.n), *options, *sets]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line."""

    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    n: int
    steps: int
    root: Path
    out: Path
    settings: tuple[str, ...]
    ablate: bool
    images: int | None
    development: bool = False

    @property
    def most_steps(self) -> int:
        """Those of line (e): as many as a control can have."""
        return self.steps * TOTAL

    @property
    def drawn(self) -> set[str]:
        """The regimes whose data the runs need: those asked for, and those of the ablations."""
        return {*self.regimes, *(ABLATIONS if self.ablate else ())}

    def jobs(self) -> list[Job]:
        """Every run once, lines (e) that regimes share too."""
        # One seed of everything first: what is finished can be tabulated.
        found = [job for seed in self.seeds for name in self.regimes for job in self._lines(name, seed)]
        if self.ablate:
            every = [(name, part) for name, parts in ABLATIONS.items() for part in parts]
            found += [self._ablation(name, part, seed) for seed in self.seeds for name, part in every]
            found += [self._rounds(name, "ours", seed, OURS) for seed in self.seeds for name in ABLATIONS]
        return list({job.name: job for job in found}.values())

    def _lines(self, name: str, seed: int) -> Iterator[Job]:
        yield self._rounds(name, "ours", seed, OURS)
        yield self._rounds(name, "plain", seed, PLAIN)
        if self.development:
            return
        ceiling = REGIMES[name].ceiling
        data = f"{ceiling}-all-s{seed}"
        yield Job(data, data, 0, *self._settings(of_ceiling(ceiling), seed, self.n, self.most_steps, OURS))

    def _rounds(self, name: str, line: str, seed: int, settings: Settings, off: Off = NOTHING_OFF) -> Job:
        n = self.n + off.more_rounds
        common = self._settings(REGIMES[name], seed, n, self.steps, {**settings, **off.settings}, off.more_teachers)
        return Job(f"{name}-{line}-s{seed}", f"{name}-s{seed}", n, *common)

    def _ablation(self, name: str, part: str, seed: int) -> Job:
        settings = {**OURS, "rounds.control": False}
        return self._rounds(name, f"without-{slug(part)}", seed, settings, ABLATIONS[name][part])

    def _settings(
        self, regime: Regime, seed: int, n: int, steps: int, own: Settings, more_teachers: int = 0
    ) -> tuple[str, tuple[str, ...]]:
        preset, common = COMMON[regime.ceiling]
        model = {"kind": "flow-unet", **AUGMENT.get(regime.ceiling, {})}
        models = [{**model, "name": "unet", "last_round": n - 1}]
        models += [{**model, "name": f"unet-{i}", "last_round": 0} for i in range(2, 2 + more_teachers)]
        last = (TOTAL - n - more_teachers) * self.steps
        models.append({**model, "name": "unet-long", "first_round": n, "training": {"steps": last}})
        values = {**common, "models": models, "training.steps": steps, "run.seed": seed, **own}
        return preset, (*as_sets(values, regime.classes), *self.settings)

    def command(self) -> str:
        """The command that was given, with placeholders for the folders."""
        words = [f"--regime {name}" for name in self.regimes] + [f"--seed {seed}" for seed in self.seeds]
        words += [f"--n {self.n} --steps {self.steps}", *(f"--set '{setting}'" for setting in self.settings)]
        words += ["--ablate"] * self.ablate + ([] if self.images is None else [f"--images {self.images}"])
        return f"python benchmarks/rounds.py {' '.join(words)}"


def slug(part: str) -> str:
    """The name of a part as part of a run's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in part)


def as_sets(settings: Settings, classes: Sequence[str]) -> list[str]:
    """`key=value` as `--set` takes it; a value of PER_CLASS is given to every class."""
    found = []
    for key, value in settings.items():
        spread = isinstance(value, dict) and PER_CLASS in value
        found.append(f"{key}={json.dumps(dict.fromkeys(classes, value[PER_CLASS]) if spread else value)}")
    return found
