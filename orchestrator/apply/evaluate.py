"""Scores models, and masks that other tools wrote, on a labelled data set: the same images for all, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.orchestrator.apply.asked_cutoffs import parse_cutoffs
from cellsemi.orchestrator.apply.choose_model import ChosenModel
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.mask_folder import Find, FoundMasks, open_masks
from cellsemi.rounds.datasets.open import list_data
from cellsemi.rounds.datasets.read_shards import read_record
from cellsemi.rounds.evaluation.comparison import Scored, Standing, common_classes, compare, renumbered, score_in
from cellsemi.rounds.evaluation.seen import USES, SeenImages
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.schemas import ImageRecord

Count = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who predicts: its name, and what gives its cells of an image (None: it has none of this image)."""

    name: str
    find: Find
    seen: SeenImages | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The figures of each contestant on `images` images with `cells` human cells, and what was left out, counted."""

    data: str
    images: int
    cells: int
    classes: tuple[str, ...]
    standings: tuple[Standing, ...]
    left_out: Mapping[str, int]
    unusable: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "data": self.data,
            "images": self.images,
            "cells": self.cells,
            "classes": list(self.classes),
            "models": [standing.to_json() for standing in self.standings],
            "left_out": dict(self.left_out),
            "unusable": list(self.unusable),
            "warnings": list(self.warnings),
        }


@dataclass(slots=True)
class _Table:
    """What is gathered image by image."""

    truth: list[tuple[str, FoundMasks]] = field(default_factory=list)
    found: dict[str, list[FoundMasks]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    unusable: list[str] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)


def of_model(chosen: ChosenModel, name: str, scores: Sequence[str], areas: Sequence[str], device: str) -> Contestant:
    """A trained model as a contestant: what it predicts, from its cutoffs on."""
    recipe = chosen.model.recipe
    keep = parse_cutoffs(scores, areas, recipe.cutoffs, recipe.classes)
    predictor = EnsemblePredictor(chosen.model, device)

    def find(record: ImageRecord) -> FoundMasks:
        assert record.image is not None, "a reader gives the encoded image"
        pixels = decode_image(record.image, record.source or record.image_id, recipe.max_pixels)
        return FoundMasks(keep.kept(predictor.predict([pixels])[0]), recipe.classes)

    return Contestant(name, find, chosen.seen)


def judge(
    title: str,
    data: DataConfig,
    contestants: Callable[[Sequence[str]], Sequence[Contestant]],
    *,
    split: str | None = None,
    include_seen: bool = False,
    count: Count = lambda what, done, of: None,
) -> Judgement:
    """Score contestants on the annotated images of a data set (of one split of it, if named).

    `contestants` is called with the ids of the images. Left out and counted are images that cannot be read, images
    that a contestant lacks, and, unless `include_seen`, images whose pixels a model was trained or chosen on.
    DataError when no image is left.
    """
    items = [item for item in list_data(data, 0, must_draw=False).items if item.split != "unlabelled"]
    items = [item for item in items if split is None or item.split == split]
    if not items:
        raise DataError(f"{title}: no annotated images" + (f" of the split {split!r}" if split else ""))
    players = contestants([item.image_id for item in items])
    table = _Table(found={player.name: [] for player in players})
    names, report = ClassNames(data), IngestReport()
    for done, item in enumerate(items, start=1):
        try:
            _score_image(read_record(item, names, report), players, include_seen, data.classes, table)
        except ImageError as error:
            table.unusable.append(str(error))
        count("score images", done, len(items))
    if not table.truth:
        reasons = "; ".join([f"{number} {reason}" for reason, number in table.left_out.items()] + table.unusable[:3])
        raise DataError(f"{title}: no image is left to be scored: {reasons}")
    return _judgement(title, data, table)


def mask_contestant(name: str, path: Path, ids: Sequence[str], recognise: Callable[[Path], DataConfig]) -> Contestant:
    """Masks of another tool as a contestant."""
    return Contestant(name, open_masks(path, ids, recognise))


def _score_image(
    record: ImageRecord, players: Sequence[Contestant], include_seen: bool, classes: tuple[str, ...], table: _Table
) -> None:
    """Add one image to the table, or count why it is left out."""
    if record.instances is None:
        table.left_out["not annotated"] += 1
        return
    for player in players:
        use = player.seen.use_of(record) if player.seen else None
        if use is not None and not include_seen:
            table.left_out[f"{USES[use]} by {player.name}"] += 1
            return
        if player.seen and record.group in player.seen.groups:
            table.groups[f"{record.group} ({player.seen.groups[record.group]} images of {player.name})"] += 1
    found = {}
    for player in players:
        masks = player.find(record)
        if masks is None:
            table.left_out[f"not in {player.name}"] += 1
            return
        found[player.name] = masks
    table.truth.append((record.image_id, FoundMasks(record.instances, classes)))
    for name, masks in found.items():
        table.found[name].append(masks)


def _judgement(title: str, data: DataConfig, table: _Table) -> Judgement:
    truth = [found for _, found in table.truth]
    warnings = []
    if table.groups:
        shown = ", ".join(sorted(table.groups)[:5])
        warnings.append(
            f"{sum(table.groups.values())} images stand in groups that a model has used: {shown}. Images of one group "
            "look alike, so the score is better than on new ones"
        )
    return Judgement(
        data=title,
        images=len(truth),
        cells=sum(len(found.cells.in_state("human")) for found in truth),
        classes=data.classes,
        standings=tuple(compare([_scored(name, found, table) for name, found in table.found.items()])),
        left_out=table.left_out,
        unusable=tuple(table.unusable),
        warnings=tuple(warnings),
    )


def _scored(name: str, found: Sequence[FoundMasks], table: _Table) -> Scored:
    """The scores of one contestant, class by class where it names classes that the human labels name, too."""
    own = tuple(dict.fromkeys(each for masks in found if len(masks.cells) for each in masks.classes))
    common = common_classes(table.truth[0][1].classes, own)
    scores = (
        score_in(image_id, _in(common, predicted), _in(common, known))
        for (image_id, known), predicted in zip(table.truth, found, strict=True)
    )
    return Scored(name, tuple(scores), common)


def _in(common: Sequence[str], found: FoundMasks) -> Instances:
    return renumbered(found.cells, found.classes, common)
