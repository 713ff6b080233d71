"""Selects the cells of a run, or of a folder of image shards, to export, and the score threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.orchestrator.runs.find_run import find_run
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import State
from cellsemi.rounds.datasets.export import EXPORTED, Cells, Source, of_folder
from cellsemi.rounds.evaluation.evaluation_table import find, read_evaluations
from cellsemi.rounds.evaluation.history import delivered_model, standing_round
from cellsemi.rounds.formats.shards import IMPORT_FILE
from cellsemi.rounds.pseudo_labels.training_set import with_images
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.run import ENSEMBLE, SPLITS, RunPaths, read_config
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.unaltered import MANIFEST

HUMAN = "labelled"  # the split of a run whose cells are people's, not predictions


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What the command line asks for; None is left to what there is."""

    split: str | None = None
    model: str | None = None
    round: int | None = None
    min_score: float | None = None
    states: tuple[State, ...] = ()
    pseudo: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the cells of a run come from: the split of their images, and the folders of shards that are read.

    `round` and `model` made them; without a model they are the pseudo-labels of the round, without a round what people
    drew.
    """

    paths: RunPaths
    split: str
    folders: tuple[Path, ...]
    round: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ExportChoice:
    """What is exported, with a sentence for a person; `origin` is that of a run's cells, None for loose shards."""

    source: Source
    cells: Cells
    sentence: str
    origin: Origin | None = None


def choose(name: str, request: ExportRequest) -> ExportChoice:
    """The records of a run (its name or folder) or of a folder of shards; UsageError when it is neither."""
    folder = files.place(name)
    if (folder / IMPORT_FILE).is_file() or shards.shard_paths(folder):
        return _of_shards(folder, request)
    return _of_run(find_run(name), request)


def _of_shards(folder: Path, request: ExportRequest) -> ExportChoice:
    if request.model is not None or request.round is not None or request.pseudo:
        raise UsageError(f"{folder}: image shards, not a run: --model, --round and --pseudo do not apply")
    states, least = request.states or EXPORTED, request.min_score

    def chosen(source: Source, of: str = "") -> ExportChoice:
        cells = Cells(states, _same(least, source.classes))
        return ExportChoice(source, cells, f"the cells of {folder}{of}{_from(least)}")

    if not (folder / IMPORT_FILE).is_file():
        if request.split is not None:
            raise UsageError(f"{folder}: the shards of one split; --split is for an import or a run")
        return chosen(of_folder(folder))
    splits = [request.split] if request.split else [split for split in SPLITS if split != "unlabelled"]
    return chosen(of_folder(folder, splits), f", {', '.join(splits)}")


def _of_run(paths: RunPaths, request: ExportRequest) -> ExportChoice:
    classes = read_config(paths).data.classes
    if request.pseudo:
        return _pseudo(paths, classes, request)
    split = request.split or "test"
    cells = Cells(request.states or EXPORTED, _same(request.min_score, classes), unseen_as_empty=True)
    if split == HUMAN:
        if request.model is not None or request.round is not None:
            raise UsageError(f"--split {HUMAN} is what people drew: --model and --round do not apply")
        labels = _finished(paths.split(HUMAN), "the run has not read its images")
        sentence = f"the human labels of {paths.name}, {split}"
        source = Source(shards.read_folder(labels), classes)
        return ExportChoice(source, replace(cells, unseen_as_empty=False), sentence, Origin(paths, split, (labels,)))
    round = finished_round(paths, request.round)
    model = request.model or ENSEMBLE
    if request.round is None and request.model is None:
        round, model = delivered_model(paths)
    folder = paths.predictions(round, model, split)
    _finished(folder, f"{model} of round {round} has not predicted the {split} images; {_known(paths, round, split)}")
    sentence = f"{model} of round {round} of {paths.name} on {split}"
    if request.min_score is None:
        cutoffs = find(read_evaluations(paths.evaluation(round), classes), model, "val").cutoffs
        cells = replace(cells, cutoffs=cutoffs)
        sentence += f", {cutoffs.sentence(classes)} (chosen on val; --min-score takes another)"
    else:
        sentence += _from(request.min_score)
    images = paths.split(split)
    origin = Origin(paths, split, (folder, images), round, model)
    return ExportChoice(Source(_with_images(folder, images), classes), cells, sentence, origin)


def _pseudo(paths: RunPaths, classes: tuple[str, ...], request: ExportRequest) -> ExportChoice:
    """The filtered pseudo-labels of a round: those that train, and those that are ignored."""
    if request.model is not None or request.split not in (None, "unlabelled"):
        raise UsageError("--pseudo takes the unlabelled images as all teachers saw them: no --model, no other --split")
    if read_config(paths).rounds.folds is not None:
        raise UsageError(
            f"{paths.name} has folds, each with pseudo-labels of its own (round-NN/pseudo.fold-K); they train models "
            "that judge each other's images, so there is no one set to export"
        )
    done = [number for number in range(1, 1000) if (paths.pseudo(number) / MANIFEST).is_file()]
    round = request.round if request.round is not None else max(done, default=0)
    rounds = ", ".join(map(str, done)) or "none"
    folder = _finished(paths.pseudo(round), f"round {round} has no pseudo-labels; rounds that have: {rounds}")
    cells = Cells(request.states or ("accepted", "ignored"), _same(request.min_score, classes))
    sentence = f"the pseudo-labels of round {round} of {paths.name}{_from(request.min_score)}"
    images = paths.split("unlabelled")
    origin = Origin(paths, "unlabelled", (folder, images), round)
    return ExportChoice(Source(_with_images(folder, images), classes), cells, sentence, origin)


def finished_round(paths: RunPaths, asked: int | None) -> int:
    """The round asked for, else the last that was promoted."""
    if not paths.finished_rounds():
        raise RunError(f"{paths.root}: no round is finished yet; `cellsemi status {paths.name}` says how far it is")
    if asked is None:
        return standing_round(paths)
    if asked not in paths.finished_rounds():
        raise UsageError(f"round {asked} is not finished; those that are: {_numbers(paths.finished_rounds())}")
    return asked


def _known(paths: RunPaths, round: int, split: str) -> str:
    """Which models have, and in which rounds the unlabelled images were predicted."""
    folders = sorted((paths.round(round) / "students").glob("*"))
    models = [path.name for path in folders if (paths.predictions(round, path.name, split) / MANIFEST).is_file()]
    if models:
        return f"there are: {', '.join(models)}"
    rounds = [n for n in paths.finished_rounds() if (paths.predictions(n, ENSEMBLE, split) / MANIFEST).is_file()]
    return f"rounds whose ensemble has: {_numbers(rounds)} (unlabelled images are predicted when the next round starts)"


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _finished(folder: Path, otherwise: str) -> Path:
    if not (folder / MANIFEST).is_file():
        raise RunError(f"{folder}: {otherwise}")
    return folder


def _with_images(labels: Path, images: Path) -> Iterator[ImageRecord]:
    """Predictions with the encoded images of the run's own data; RunError when the two do not fit."""
    try:
        yield from with_images(shards.read_folder(labels), shards.read_folder(images))
    except ValueError as error:
        raise RunError(f"{labels}: not of the images in {images} ({error}); the run was altered by hand") from None


def _same(min_score: float | None, classes: Sequence[str]) -> Cutoffs | None:
    return None if min_score is None else Cutoffs.same(min_score, len(classes))


def _from(score: float | None) -> str:
    return f", cells with a score from {score:g} on" if score else ""
