"""Describes what a step wrote: the commit of each shard, and the manifest of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import Field, JsonValue

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.shards import Shard, part_name, shard_paths
from cellsemi.rounds.store.unaltered import MANIFEST, missing, stated_shards

COMMITS = "_commits"


class ImageShard(OnDisk):
    """The shard that holds the images of some labels: its path below the run's folder, and its hex sha256."""

    file: str
    sha256: str


class CommittedShard(Shard):
    """One shard of a step's output.

    `image_shard` holds the images of a shard of a training set, which has their labels.
    `warnings` counts what the model of a prediction reported, `scales` the images by the scale that a search kept,
    `inverted` those of them that it kept inverted, by scale, `reasons` the pseudo-labels by state and reason.
    `lost` says by image id why an image could not be predicted.
    """

    warnings: dict[str, int] = Field(default_factory=dict)
    scales: dict[str, int] = Field(default_factory=dict)
    inverted: dict[str, int] = Field(default_factory=dict)
    reasons: dict[str, int] = Field(default_factory=dict)
    lost: dict[str, str] = Field(default_factory=dict)
    image_shard: ImageShard | None = None


class TrainingCounts(OnDisk):
    """What went into a training set, and what was left out by reason (of the pseudo-labelled images)."""

    human_images: int = 0
    human_cells: int = 0
    pseudo_images: int = 0
    cells: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def sum(cls, counts: Iterable[TrainingCounts]) -> TrainingCounts:
        """All of some parts of a training set."""
        total: dict[str, Counter[str]] = {"human_images": Counter(), "cells": Counter(), "left_out": Counter()}
        for each in counts:
            total["human_images"] += Counter(
                human_images=each.human_images, human_cells=each.human_cells, pseudo_images=each.pseudo_images
            )
            total["cells"] += Counter(each.cells)
            total["left_out"] += Counter(each.left_out)
        named = {name: dict(sorted(total[name].items())) for name in ("cells", "left_out")}
        return cls(**total["human_images"], **named)


class Commit(CommittedShard):
    """The mark of a shard that is written, while its step goes on.

    `counts` is of a shard of a training set, `ingested` what an ingest counted in the images of a shard.
    """

    item: int
    fingerprint: str
    counts: TrainingCounts | None = None
    ingested: dict[str, JsonValue] | None = None

    def shard(self) -> CommittedShard:
        """What the manifest keeps of it."""
        return CommittedShard.model_validate(self.model_dump(include=set(CommittedShard.model_fields)))


C = TypeVar("C", bound=Commit)


class TrainingShards(NamedTuple):
    """A training set as a list: the shards of its labels, those of their images, rows and the hashes of both."""

    labels: tuple[Path, ...]
    images: tuple[Path, ...]
    rows: tuple[int, ...]
    hashes: tuple[str, ...]


class Manifest(OnDisk):
    """What a step left in a folder of shards: they, their rows and cells in all."""

    fingerprint: str
    seconds: float
    rows: int = 0
    cells: int = 0
    shards: tuple[CommittedShard, ...] = ()
    merged: TrainingCounts | None = None  # of a training set


NO_SHARDS = TrainingShards((), (), (), ())


class DataManifest(OnDisk):
    """What was read from the data set: the counts of the ingest."""

    fingerprint: str
    seconds: float
    report: dict[str, JsonValue]


class ChosenProbability(OnDisk):
    """The cell probability that was chosen for a flow model, and the score of each that was tried."""

    chosen: float
    scores: dict[str, float]


class FoundSteps(OnDisk):
    """The steps after which longer training no longer helped, and the validation mAP after each number tried.

    `left_out` says by id why an image could not be used.
    """

    steps: int
    scores: dict[str, float]
    left_out: dict[str, str] = Field(default_factory=dict)

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(steps, score), by rising steps."""
        return sorted((int(steps), score) for steps, score in self.scores.items())


class FitRecord(OnDisk):
    """A trained model, or why there is none: `diverged` says at which step.

    `found_steps` is there for a fit that was to find how long it takes. `left_out` says by id why a validation image
    could not be used to choose the probabilities.
    """

    fingerprint: str
    seconds: float
    parameters: int = 0
    steps: int = 0
    loss: float | None = None
    cell_probability: ChosenProbability | None = None
    found_steps: FoundSteps | None = None
    background_probability: float | None = None  # a flow model is sure that pixels below it are no cell
    left_out: dict[str, str] = Field(default_factory=dict)
    diverged: str | None = None

    @property
    def unused(self) -> dict[str, str]:
        """Why a validation image had no say in the training: by id."""
        return {**(self.found_steps.left_out if self.found_steps else {}), **self.left_out}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards; RunError when there is none."""
    return Manifest.read(folder / MANIFEST)


def training_shards(folder: Path, run: Path) -> TrainingShards:
    """The shards of a training set that teach, as its manifest lists them; no shard is opened."""
    listed = [(shard, shard.image_shard) for shard in read_manifest(folder).shards if shard.rows]
    pairs = [(shard, images) for shard, images in listed if images is not None]
    if len(pairs) < len(listed):
        raise RunError(f"{folder / MANIFEST}: lists shards without their images; make the run anew")
    return TrainingShards(
        tuple(folder / shard.file for shard, _ in pairs),
        tuple(run / images.file for _, images in pairs),
        tuple(shard.rows for shard, _ in pairs),
        tuple(f"{shard.sha256} {images.sha256}" for shard, images in pairs),
    )


def read_fit(folder: Path) -> FitRecord:
    """The record of a trained model's folder; RunError when there is none."""
    return FitRecord.read(folder / MANIFEST)


def write_manifest(
    folder: Path,
    fingerprint: str,
    seconds: float,
    shards: Iterable[Shard],
    merged: TrainingCounts | None = None,
) -> None:
    """Write the manifest of a folder of shards."""
    listed = tuple(each if isinstance(each, CommittedShard) else CommittedShard(**each.model_dump()) for each in shards)
    rows, cells = sum(each.rows for each in listed), sum(each.cells for each in listed)
    content = Manifest(
        fingerprint=fingerprint, seconds=round(seconds, 2), rows=rows, cells=cells, shards=listed, merged=merged
    )
    content.write(folder / MANIFEST)


def outputs_fingerprint(path: Path) -> str:
    """What a finished step hands on: of a folder the hashes in its manifest, without times; of a file its hash.

    RunError when it is not there.
    """
    if path.is_file():
        return files.sha256_bytes(path.read_bytes())
    if not (path / MANIFEST).is_file():
        raise missing(path)
    content: Mapping[str, JsonValue] = files.read_json(path / MANIFEST)
    return files.sha256_json({key: value for key, value in content.items() if key != "seconds"})


def write_commit(folder: Path, commit: Commit) -> None:
    """Mark a shard of a step as written; the shard file itself must be there already."""
    commit.write(_commit_path(folder, commit.item))


def _commit_path(folder: Path, item: int) -> Path:
    return folder / COMMITS / f"{item:06d}.json"


def read_commits(folder: Path, kind: type[C], fingerprint: Callable[[int], str]) -> dict[int, C]:
    """Commits of a step, of one kind, by item; those made from other inputs than `fingerprint` names do not count."""
    found = (kind.read(path) for path in sorted((folder / COMMITS).glob("*.json")))
    return {commit.item: commit for commit in found if commit.fingerprint == fingerprint(commit.item)}


def read_commit(folder: Path, item: int, fingerprint: str) -> Commit | None:
    """The commit of one shard, if it is made from these inputs."""
    path = _commit_path(folder, item)
    commit = Commit.read(path) if path.is_file() else None
    return commit if commit is not None and commit.fingerprint == fingerprint else None


def shard_fingerprint(of_all: str, folders: Sequence[Path], item: int) -> str:
    """What shard `item` of a step is made from: what all its shards depend on, and the same shard of other folders."""
    return files.sha256_json([of_all, [_shard_sha256(folder, item) for folder in folders]])


def _shard_sha256(folder: Path, item: int) -> str:
    """The sha256 of a shard: of a finished folder as its manifest states it, else as the commit does."""
    if (folder / MANIFEST).is_file():
        return stated_shards(folder)[part_name(item)]
    return Commit.read(_commit_path(folder, item)).sha256


def shard_items(folder: Path) -> list[int]:
    """Indices of the shards of a folder, checked to be 0..K-1."""
    paths = shard_paths(folder)
    if [path.name for path in paths] != [part_name(i) for i in range(len(paths))]:
        raise RunError(f"{folder}: shards are missing or foreign: {[path.name for path in paths]}")
    return list(range(len(paths)))
