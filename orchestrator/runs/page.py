"""Writes report.html, the page of a run, from the run's folder alone.

A part that cannot be drawn says so and why; the others are there all the same. What is gathered, drawn and written
lies in rounds/page; here is where it lies in a run.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cellsemi.configs.errors import CellsemiError, RunError
from cellsemi.configs.schema import Config
from cellsemi.models.model_files import LOSS_FILE, MODEL_FILE, VALIDATION_FILE, read_usage
from cellsemi.orchestrator.runs import report
from cellsemi.orchestrator.runs.label_issues import judge
from cellsemi.orchestrator.runs.page_provenance import provenance
from cellsemi.orchestrator.runs.progress_on_disk import models_of, stages
from cellsemi.rounds.duration import duration
from cellsemi.rounds.evaluation.evaluation_table import find, read_evaluations
from cellsemi.rounds.evaluation.history import RoundManifest, delivered_by, read_manifests, standing_round, standings
from cellsemi.rounds.page import galleries, sections
from cellsemi.rounds.page.blocks import Block, Page, Section, Text
from cellsemi.rounds.page.cells import agreement, sizes
from cellsemi.rounds.page.confidence import precision_recall
from cellsemi.rounds.page.curves import read_curves
from cellsemi.rounds.page.lookup import Lookup
from cellsemi.rounds.page.render import render
from cellsemi.rounds.page.scores import scores
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.pseudo_labels.quality import Quality
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds
from cellsemi.rounds.report.round_report import Facts
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.prediction_pairs import cells_of, scored_pairs
from cellsemi.rounds.store.predictions import UNLABELLED, as_unlabelled, evaluated_sets, pairs_of
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths

NAME = "report.html"
KINDS = {
    "train": "training",
    "take": "training",
    "predict": "predicting",
    "fuse": "fusing",
    "calibrate": "calibrating",
    "filter": "filtering",
    "evaluate": "evaluating",
}
OTHER_KIND = "other"
# What a file of a run that was altered or removed, or a library that is missing, may raise while a part is drawn.
CANNOT_DRAW = (
    *(CellsemiError, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError),
)


@dataclass(frozen=True, slots=True)
class Written:
    """The page that was written, its size, and how long it took."""

    path: Path
    bytes: int
    seconds: float

    def sentence(self) -> str:
        """Where it is, and what it took."""
        return f"{self.path} ({self.bytes / 1e6:.1f} MB, written in {self.seconds:.1f} s)"


def write_page(config: Config, paths: RunPaths, out: Path | None = None) -> Written:
    """Write the page of a run with a finished round into its folder, or into `out`.

    The same run folder gives the same bytes. RunError when no round is finished, or run.yaml or the manifest of a round
    is damaged.
    """
    started = time.monotonic()
    content = render(collect(config, paths)).encode()
    path = (paths.root if out is None else out) / NAME
    files.write_bytes(path, content)
    return Written(path, len(content), time.monotonic() - started)


def collect(config: Config, paths: RunPaths) -> Page:
    """The page of a run; RunError as `write_page`."""
    rounds = paths.finished_rounds()
    if not rounds:
        raise RunError(f"{paths.root}: no round is finished yet; `cellsemi status {paths.name}` says how far it is")
    run = _Run(config, paths, read_manifests(paths))
    parts: dict[tuple[str, str], Callable[[], Iterable[Block]]] = {
        ("use", "What to use"): run.use,
        ("leaderboard", "Leaderboard"): run.leaderboard,
        ("scores", "Score by round"): run.scores,
        ("learned", "What the students learned from"): run.learned,
        ("trust", "Can the scores be trusted?"): run.trust,
        ("sizes", "Cell sizes"): run.sizes,
        ("agreement", "Agreement and drift"): run.agreement,
        ("images", "Validation images"): run.images,
        ("reasons", "Pseudo-labels by reason"): run.reasons,
        ("changes", "What changed between rounds"): run.changes,
        ("training", "Training"): run.training,
        ("time", "Where the time went"): run.time,
        ("issues", "Labels to check"): run.label_issues,
        ("provenance", "Provenance"): lambda: provenance(config, paths),
    }
    last = rounds[-1]
    subtitle = f"Report after round {last}. {_count(len(rounds) - 1)} of pseudo-labelling finished."
    return Page(paths.name, subtitle, [_section(name, title, make) for (name, title), make in parts.items()])


def _count(rounds: int) -> str:
    return "No round" if rounds == 0 else "1 round" if rounds == 1 else f"{rounds} rounds"


def _section(name: str, title: str, make: Callable[[], Iterable[Block]]) -> Section:
    """A section; where it cannot be drawn, what there is of it, and why there is no more."""
    blocks: list[Block] = []
    try:
        blocks.extend(make())
    except CANNOT_DRAW as error:
        why = " ".join(str(error).split()) or "no reason given"
        blocks.append(Text(f"This part could not be drawn ({type(error).__name__}: {why}).", "missing"))
    return Section(name, title, blocks)


@dataclass(frozen=True)
class _Run:
    """Where the sections of the page find what they show."""

    config: Config
    paths: RunPaths
    manifests: Mapping[int, RoundManifest]
    _kept: dict[str, Lookup] = field(default_factory=dict)

    @cached_property
    def facts(self) -> list[Facts]:
        """What the files say of each finished round."""
        return [report.collect(self.config, self.paths, round) for round in self.paths.finished_rounds()]

    @property
    def folds(self) -> tuple[Fold, ...]:
        return folds_of(self.config)

    @property
    def taught(self) -> list[int]:
        """The finished rounds with pseudo-labels."""
        return [each.round for each in self.facts if each.teachers_round is not None]

    # --- sections -------------------------------------------------------------------------------------

    def use(self) -> Iterator[Block]:
        run = shlex.quote(self.paths.name)
        commands = [
            (f"cellsemi predict IMAGES --run {run} --out DIR", "the cells of other images"),
            (f"cellsemi model export {run} --out DIR", "the model as a folder, with its card"),
        ]
        if self.taught and len(self.folds) == 1:
            export = f"cellsemi data export {run} --pseudo --format coco --out pseudo.json"
            commands.append((export, "the pseudo-labels of the last round"))
        return sections.use(self.facts[-1], commands)

    def leaderboard(self) -> Iterator[Block]:
        rows, _ = standings(self.manifests, self.paths.name)
        return sections.leaderboard(rows)

    def scores(self) -> Iterator[Block]:
        config, classes = self.config, self.config.data.classes
        rounds = self.paths.finished_rounds()
        found = {round: read_evaluations(self.paths.evaluation(round), classes) for round in rounds}
        return sections.score_by_round(scores(found, classes, config.rounds.promotion, config.run.seed), classes)

    def learned(self) -> Iterator[Block]:
        return sections.learned(self.facts, {round: self._reasons(round) for round in self.taught})

    def _reasons(self, round: int) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for fold in self.folds:
            for shard in read_manifest(self.paths.pseudo(round, fold.suffix)).shards:
                total += Counter(shard.reasons)
        return total

    def trust(self) -> Iterator[Block]:
        if not self.taught:
            last = self.facts[-1]
            return sections.trust(last.scored, None, [], last.round)
        facts = next(each for each in self.facts if each.round == self.taught[-1])
        assert facts.thresholds is not None and facts.teachers_round is not None, "it has pseudo-labels"
        chosen = FilterFile.read(self.paths.filter(facts.round))
        quality = Quality.from_json(chosen.model_dump(), self.config.data.classes)
        sets = evaluated_sets(self.config, facts.teachers_round, ENSEMBLE, as_unlabelled(self.config))
        pairs = (pair for each in pairs_of(self.paths, sets) for pair in scored_pairs(*each))
        judged = ((quality.apply(cells), truth) for cells, truth in pairs)
        found = precision_recall(judged, self.config.data.classes, facts.thresholds)
        return sections.trust(facts.scored, facts.thresholds, found, facts.round)

    def sizes(self) -> Iterator[Block]:
        round = self.taught[-1] if self.taught else None
        thresholds: Thresholds | None = (
            None if round is None else next(f for f in self.facts if f.round == round).thresholds
        )
        human = cells_of(*(self.paths.split(name) for name in self.folds[0].human))
        pseudo = cells_of(*(self.paths.pseudo(round, fold.suffix) for fold in self.folds)) if round else iter(())
        return sections.cell_sizes(sizes(human, pseudo, self.config.data.classes, thresholds), round)

    def agreement(self) -> Iterator[Block]:
        folders = {round: [self.paths.pseudo(round, fold.suffix) for fold in self.folds] for round in self.taught}
        found = [each for round, places in folders.items() for each in agreement(round, cells_of(*places))]
        drift = {
            round: files.read_json(self.paths.drift(round))
            for round in self.taught
            if self.paths.drift(round).is_file()
        }
        return sections.agreement_and_drift(found, drift, self.config.rounds.drift_alarms)

    def images(self) -> Iterator[Block]:
        round, model = delivered_by(self.manifests) or (standing_round(self.paths), ENSEMBLE)
        evaluation = find(read_evaluations(self.paths.evaluation(round), self.config.data.classes), model, "val")
        pairs = pairs_of(self.paths, evaluated_sets(self.config, round, model, "val"))
        predicted, images = (Lookup(folders) for folders in zip(*pairs, strict=True))
        seed = derive_seed(self.config.run.seed, "report")
        return galleries.validation_images(
            evaluation, f"the {model} of round {round}", predicted, images, self.config.data.classes, seed
        )

    def reasons(self) -> Iterator[Block]:
        if not self.taught:
            yield Text("No round has pseudo-labels yet.")
            return
        yield from self._of_first_fold()
        round = self.taught[-1]
        seed = derive_seed(self.config.run.seed, "report", round)
        yield from galleries.reasons(self._pseudo(round), self._unlabelled(), self.config.data.classes, round, seed)

    def changes(self) -> Iterator[Block]:
        if len(self.taught) < 2:
            yield Text("Nothing can be compared yet: fewer than two rounds have pseudo-labels.")
            return
        yield from self._of_first_fold()
        steps = list(zip(self.taught, self.taught[1:], strict=False))
        if len(steps) > galleries.TRANSITIONS:
            yield Text(f"The last {galleries.TRANSITIONS} of {len(steps)} changes are shown.")
        for before, after in reversed(steps[-galleries.TRANSITIONS :]):
            yield from galleries.changes(self._pseudo(before), self._pseudo(after), self._unlabelled(), (before, after))

    def training(self) -> Iterator[Block]:
        found = []
        for round in self.paths.finished_rounds():
            for model in models_of(self.paths, round):
                folder = self.paths.model(round, model)
                if (folder / MODEL_FILE).is_file() and (folder / LOSS_FILE).is_file():
                    usage = read_usage(folder)
                    found.append(read_curves(round, model, folder / LOSS_FILE, folder / VALIDATION_FILE, usage))
        return sections.training(found)

    def time(self) -> Iterator[Block]:
        by_round: dict[int, Counter[str]] = {}
        rows = []
        for stage in stages(self.paths):
            if stage.seconds is None:
                continue
            kind = KINDS.get(stage.name.split()[0], OTHER_KIND)
            by_round.setdefault(stage.round, Counter())[kind] += stage.seconds  # type: ignore[assignment]
            done = "" if stage.done is None else f"{stage.done:,} {stage.unit}"
            rows.append([stage.name, str(stage.round), done, duration(stage.seconds)])
        used = {each.round: each.used for each in self.facts if each.used is not None}
        return sections.time_spent(by_round, rows, used)

    def label_issues(self) -> Iterator[Block]:
        found = judge(self.paths, "val")
        images = Lookup([folder for _, folder in found.judges.folders])
        command = f"cellsemi data label-issues {shlex.quote(self.paths.name)} --split val"
        return galleries.label_issues(found.findings, found.judges.by, images, command)

    # --- parts ----------------------------------------------------------------------------------------

    def _of_first_fold(self) -> Iterator[Block]:
        if len(self.folds) > 1:
            yield Text(f"Each fold has pseudo-labels of its own; these are of {self.folds[0].suffix.lstrip('.')}.")

    def _pseudo(self, round: int) -> Lookup:
        return self._lookup(self.paths.pseudo(round, self.folds[0].suffix))

    def _unlabelled(self) -> Lookup:
        return self._lookup(self.paths.split(UNLABELLED))

    def _lookup(self, folder: Path) -> Lookup:
        key = str(folder)
        if key not in self._kept:
            self._kept[key] = Lookup([folder])
        return self._kept[key]
