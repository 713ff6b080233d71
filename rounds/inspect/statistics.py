"""Computes the figures of a data set: one pass over its images, one of them in memory at a time.

Nothing is mended, mapped or drawn here; the figures are those of the data as their reader gives them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.shape import parts
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.cleaning import holes
from cellsemi.rounds.datasets.ingest_report import Quarantined, is_crowded
from cellsemi.rounds.datasets.open import Opened, list_data
from cellsemi.rounds.datasets.read_shards import check_no_regions
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.formats.shared.partly_labelled import not_labelled
from cellsemi.rounds.inspect.passed_over import PassedOver, passed_over
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.run import SPLITS

IGNORED = "to be ignored"
ONLY_CLASS = "cell"  # what cells are called when nothing says what they are
QUANTILES = (5, 25, 50, 75, 95)  # per cent, of the areas of a class

Range = tuple[float, float, float]  # minimum, median, maximum


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """The cells of one class. `per_image` counts over the images that hold it; areas are in pixels."""

    images: int
    cells: int
    ignored: int
    per_image: Range
    area: dict[str, float]  # quantile in per cent -> pixels


@dataclass(frozen=True, slots=True)
class MaskFigures:
    """What is odd about the masks, over all cells that are not ignored."""

    overlap_mean: float  # pixels in more than one mask, per annotated image
    overlap_max: int
    overlapping: int  # cells that share a pixel with another
    with_holes: int
    hole_pixels: int
    several_parts: int
    single_pixel: int
    duplicates: int  # cells whose very mask stands in the image already
    repeated: int  # cells left out by the reader: the same image is listed twice


@dataclass(frozen=True, slots=True)
class Inspection:
    """The figures of a data set. `listed` counts its images by split; the rest is of the `seen` ones.

    `classes` are the names of the data set, sorted; `sampled` says that not every image was read.
    """

    listed: dict[str, int]
    notes: tuple[str, ...]
    groups: int
    group_images: Range | None
    seen: int
    sampled: bool
    classes: tuple[str, ...]
    by_class: dict[str, ClassFigures]
    masks: MaskFigures
    empty: int
    never_annotated: int
    height: Range | None
    width: Range | None
    sizes: int
    pixels: dict[str, int]  # "uint8 grey" -> images
    low: Range | None
    high: Range | None
    left_out: dict[str, int]  # annotations that are no cells, by the reason
    crowds: int  # ignored cells that are COCO's crowds
    crowded: int  # images of which a large share of the annotations are crowds
    copies: int  # unlabelled images with the pixels of an annotated one; an import leaves them out
    partly_labelled: int  # images of which a part was not labelled (data.partial)
    same_pixels: int  # images that repeat the pixels of an earlier one
    quarantined: tuple[Quarantined, ...]
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def cells(self) -> int:
        """All cells that are not ignored."""
        return sum(figures.cells for figures in self.by_class.values())

    @property
    def annotated(self) -> int:
        """Images with cells, or annotated as empty."""
        return self.seen - self.never_annotated - self.copies - len(self.quarantined)

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "cells": self.cells, "annotated": self.annotated}


def discover_classes(data: DataConfig, seed: int = 0, on_image: Callable[[int, int], None] | None = None) -> list[str]:
    """The class names of a data set, sorted: of its listing, or of a pass over its files when only they know.

    `["cell"]` when there are none. Images that cannot be used are passed over: an import will name them.
    """
    opened = list_data(data, seed, must_draw=False)
    names = _listed_classes(opened)
    for done, item in enumerate(opened.items if opened.classes is None else (), start=1):
        try:
            names |= set(item.load().classes)
        except ImageError:
            continue
        finally:
            if on_image:
                on_image(done, len(opened.items))
    return sorted(names) or [ONLY_CLASS]


def inspect(
    opened: Opened, data: DataConfig, limit: int | None, on_image: Callable[[int, int], None]
) -> tuple[Inspection, list[str]]:
    """The figures of a data set, and the ids of images to draw as examples.

    `limit` reads so many images, evenly over the listing; `on_image(done, of)` is called after each.
    Images that cannot be used are counted with the reason, never raised.
    """
    items = spread(opened.items, limit)
    tally, names = Tally(opened), ClassNames(data)
    for done, item in enumerate(items, start=1):
        assert item.split is not None
        try:
            loaded = item.load()
            if item.split != "unlabelled":
                check_no_regions(loaded, item, names)
            tally.add(item, loaded)
        except ImageError as error:
            tally.quarantined.append(Quarantined(item.image_id, item.split, error.path, error.described))
        on_image(done, len(items))
    found = replace(tally.result(len(items)), passed_over=passed_over(data, opened))
    return found, examples(items, tally.kinds_of)


def kinds(cells: Instances, classes: Sequence[str]) -> list[str]:
    """The class of each cell, IGNORED for one that is to be ignored."""
    names = zip(cells.class_id.tolist(), cells.state, strict=True)
    return [IGNORED if state == "ignored" else classes[i] for i, state in names]


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, evenly over the sequence."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, limit).round()]


def examples(items: Iterable[Item], kinds_of: Mapping[str, Counter[str]], count: int = 6) -> list[str]:
    """Ids of `count` images with cells, first those that show every kind, then such that splits and classes take turns.

    `kinds_of` counts the cells of each image by class, and those to be ignored as IGNORED; images of middling numbers
    of cells come first. There are more than `count` where fewer do not show every kind.
    """
    strata: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for item in items:
        if kinds_of.get(item.image_id):
            strata[item.cell_type or "", item.split or ""].append(item.image_id)
    for ids in strata.values():
        middle = float(np.median([kinds_of[image_id].total() for image_id in ids]))
        ids.sort(key=lambda image_id: (abs(kinds_of[image_id].total() - middle), image_id))
    turns = sorted((rank, name, image_id) for name, ids in strata.items() for rank, image_id in enumerate(ids))
    in_turn = [image_id for _, _, image_id in turns]
    needed: list[str] = []
    missing = {kind for image_id in in_turn for kind in kinds_of[image_id]}
    while missing:
        needed.append(max(in_turn, key=lambda image_id: len(missing & set(kinds_of[image_id]))))
        missing -= set(kinds_of[needed[-1]])
    others = [image_id for image_id in in_turn if image_id not in needed]
    return sorted([*needed, *others[: max(0, count - len(needed))]], key=in_turn.index)


@dataclass(slots=True)
class Tally:
    """Counts of the images read so far."""

    opened: Opened
    annotated: set[str] = field(default_factory=set)  # hashes of the pixels of images that the pool may repeat
    kinds_of: dict[str, Counter[str]] = field(default_factory=dict)  # of annotated images, for `examples`
    empty: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)
    areas: defaultdict[str, list[NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))
    ignored: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pixels: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[float, float]] = field(default_factory=list)
    hashes: Counter[str] = field(default_factory=Counter)
    overlaps: list[int] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    never_annotated: int = 0

    def add(self, item: Item, loaded: Loaded) -> None:
        """Count one image; ImageError when its bytes cannot be decoded."""
        record = loaded.record
        if item.image_id in self.opened.pool and record.sha256 in self.annotated:
            self.odd["copies"] += 1
            return
        if item.split == "labelled" or item.split in self.opened.drawn:
            self.annotated.add(record.sha256)
        assert record.image is not None, "a reader gives the encoded image"
        channels = (
            "colour" if decode_image(record.image, record.source, record.height * record.width).ndim == 3 else "grey"
        )
        self.pixels[f"{record.dtype} {channels}"] += 1
        self.sizes.append((record.height, record.width))
        self.hashes[record.sha256] += 1
        if record.low is not None and record.high is not None:
            self.ranges.append((record.low, record.high))
        self.odd["repeated"] += loaded.repeated
        self.odd["crowds"] += loaded.crowds
        self.odd["crowded"] += is_crowded(loaded)
        self.left_out.update(loaded.left_out)
        if item.split == "unlabelled" or record.instances is None:
            self.never_annotated += 1
        else:
            self._add_cells(item, loaded.classes, record.instances)

    def _add_cells(self, item: Item, classes: tuple[str, ...], cells: Instances) -> None:
        self.odd["partly_labelled"] += bool(not_labelled(cells).any())
        cells = cells.select(~not_labelled(cells))
        kept = cells.in_state("human")
        self.empty += not len(kept)
        table = np.array(classes or (item.cell_type or ONLY_CLASS,))
        self.kinds_of[item.image_id] = Counter(kinds(cells, table.tolist()))
        for name in np.unique(table[kept.class_id]):
            self.areas[str(name)].append(kept.area[table[kept.class_id] == name])
        self.ignored.update(table[cells.in_state("ignored").class_id].tolist())
        once, twice = np.zeros((2, cells.height, cells.width), bool)
        crops = masks.crops(kept)
        for crop, x0, y0 in crops:
            box = np.s_[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]]
            twice[box] |= once[box] & crop
            once[box] |= crop
            self._add_mask(crop)
        self.overlaps.append(int(twice.sum()))
        if self.overlaps[-1]:
            self.odd["overlapping"] += sum(
                bool(twice[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]][crop].any()) for crop, x0, y0 in crops
            )
        self.odd["duplicates"] += len(kept) - len(set(kept.rle))

    def _add_mask(self, crop: rle.Bitmap) -> None:
        if crop.all():  # a full box has neither holes nor parts
            self.odd["single_pixel"] += crop.size == 1
            return
        inside = holes(crop)
        self.odd["with_holes"] += inside > 0
        self.odd["hole_pixels"] += inside
        self.odd["several_parts"] += int(parts(crop).max()) > 1

    def result(self, seen: int) -> Inspection:
        """The figures, with those of the listing."""
        opened = self.opened
        groups = Counter(item.group for item in opened.items if item.group is not None)
        classes = _listed_classes(opened) | set(self.areas) | set(self.ignored)
        by_split = Counter(item.split for item in opened.items)
        by_split["unlabelled"] -= self.odd["copies"]
        names = ("overlapping", "with_holes", "hole_pixels", "several_parts", "single_pixel", "duplicates", "repeated")
        return Inspection(
            listed={split: by_split[split] for split in SPLITS},  # type: ignore[index]
            notes=opened.notes,
            groups=len(groups),
            group_images=_range(list(groups.values())),
            seen=seen,
            sampled=seen < len(opened.items),
            classes=tuple(sorted(classes)) or (ONLY_CLASS,),
            by_class={name: self._figures(name) for name in sorted(set(self.areas) | set(self.ignored))},
            masks=MaskFigures(
                float(np.mean(self.overlaps)) if self.overlaps else 0.0,
                max(self.overlaps, default=0),
                **{name: int(self.odd[name]) for name in names},
            ),
            empty=self.empty,
            never_annotated=self.never_annotated,
            height=_range([height for height, _ in self.sizes]),
            width=_range([width for _, width in self.sizes]),
            sizes=len(set(self.sizes)),
            pixels=dict(self.pixels.most_common()),
            low=_range([low for low, _ in self.ranges]),
            high=_range([high for _, high in self.ranges]),
            left_out=dict(self.left_out + Counter(opened.left_out)),
            crowds=self.odd["crowds"],
            crowded=self.odd["crowded"],
            copies=self.odd["copies"],
            partly_labelled=self.odd["partly_labelled"],
            same_pixels=sum(times - 1 for times in self.hashes.values()),
            quarantined=tuple(self.quarantined),
        )

    def _figures(self, name: str) -> ClassFigures:
        found = self.areas.get(name, [])
        areas = np.concatenate(found) if found else np.zeros(0, np.int64)
        quantiles = np.percentile(areas, QUANTILES).tolist() if len(areas) else []
        return ClassFigures(
            images=len(found),
            cells=len(areas),
            ignored=self.ignored[name],
            per_image=_range([len(each) for each in found]) or (0, 0, 0),
            area=dict(zip(map(str, QUANTILES), quantiles, strict=False)),
        )


def _listed_classes(opened: Opened) -> set[str]:
    return {*(opened.classes or ()), *(item.cell_type for item in opened.items if item.cell_type)}


def _range(values: Sequence[float]) -> Range | None:
    return (float(min(values)), float(np.median(values)), float(max(values))) if values else None
