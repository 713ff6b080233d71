"""Opens the data set of a config: the images of all its parts, in splits, each with a way to load it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, cast

from cellsemi.configs.data import GENERATED, DataConfig, Split
from cellsemi.configs.errors import DataError
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets import synthetic
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.splits import grouped_split
from cellsemi.rounds.formats.base import Item, Loaded, Part, Reader, at, parts_of, root_of
from cellsemi.rounds.formats.registry import reader_of
from cellsemi.rounds.formats.shared.distinct_ids import distinct_ids
from cellsemi.rounds.formats.shared.folder import Folder, check_id, searched
from cellsemi.rounds.formats.shared.partly_labelled import cells_alone, mark_not_labelled
from cellsemi.rounds.store.run import SPLITS


@dataclass(frozen=True, slots=True)
class Opened:
    """A data set as listed. `classes` are its own class names, None when only the files know them.

    `readers` opened its parts, and left annotations out; `pool` are the paths of the images of data.images.unlabelled
    by their ids; `drawn` are the splits that the data does not say.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]
    readers: tuple[Reader, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    pool: Mapping[str, str] = field(default_factory=dict)
    drawn: frozenset[str] = frozenset()


def open_data(config: Config) -> Opened:
    """List the images of a config's data set, each with its split and the class that its image states.

    DataError when a listing is wrong, an id stands twice, or a class is not one of the run's.
    """
    data = config.data
    opened = list_data(data, config.run.seed)
    names = ClassNames(data)
    for item in opened.items:
        names.image_class(item)
    names.check_listing(opened.classes or (), str(data.root))
    return opened


def annotated_items(config: Config) -> tuple[Item, ...]:
    """The items of `open_data` without those of data.images.unlabelled, whose folder is not listed."""
    return list_data(config.data, config.run.seed, pool=False).items


def list_data(data: DataConfig, seed: int, must_draw: bool = True, pool: bool = True) -> Opened:
    """`open_data` without looking at `data.classes`: what there is, before anyone chose what it is called.

    Without `pool` the images of data.images.unlabelled are left out. Where val and test cannot be drawn, because there
    are too few images or groups, DataError; with `must_draw` false all annotated images are then "labelled", and a note
    says so.
    """
    if data.source == GENERATED:
        return Opened(tuple(mark_not_labelled(list(_generated(data, seed)), data.partial)), data.classes, ())
    open_part, parts = reader_of(data.source), parts_of(data)
    readers = tuple(open_part(part) for part in parts)
    listed_items = [list(reader.items()) for reader in readers]
    unlabelled = list(_unlabelled(data, parts, readers)) if pool else []
    items = distinct_ids([part.images for part in parts], listed_items, at(data.images, "unlabelled"), unlabelled)
    _check_ids(items)
    plain = {item.image_id: item.place for item in items[len(items) - len(unlabelled) :]}
    free = {item.image_id for item in items if item.split is None}
    try:
        drawn, notes = _draw_splits(items, data)
    except DataError as error:
        if must_draw:
            raise
        drawn = [item if item.split else replace(item, split="labelled") for item in items]
        notes = [str(error)]
    listed = [reader.classes for reader in readers]
    classes = None if None in listed else tuple(sorted({name for names in listed for name in names or ()}))
    classes = None if classes is None else cells_alone(classes, data.partial)
    notes = [*(note for reader in readers for note in reader.notes), *notes]
    splits = frozenset(item.split for item in drawn if item.split and item.image_id in free)
    left_out = sum((Counter(reader.left_out) for reader in readers), Counter[str]())
    return Opened(
        tuple(mark_not_labelled(drawn, data.partial)), classes, tuple(notes), readers, left_out, plain, splits
    )


def _generated(data: DataConfig, seed: int) -> Iterator[Item]:
    for split in SPLITS:
        for index, image_id in enumerate(synthetic.image_ids(data.generated, split)):
            load = partial(_generate, data, seed, split, index)
            group = synthetic.well(data.classes, split, index)
            yield Item(image_id, cast(Split, split), "", load, synthetic.cell_type(data.classes, index), group)


def _generate(data: DataConfig, seed: int, split: str, index: int) -> Loaded:
    return Loaded(synthetic.make(data.generated, data.classes, seed, split, index), data.classes)


def _unlabelled(data: DataConfig, parts: Sequence[Part], readers: Sequence[Reader]) -> Iterator[Item]:
    """The images of the folder `data.images.unlabelled`, if there is one; not what the readers know of it."""
    name = at(data.images, "unlabelled") if isinstance(data.images, dict) else None
    if name is None:
        return
    folder = Folder(root_of(data), name, "data.images.unlabelled")
    if not folder.paths:
        raise DataError(f"{folder.root / name}: no images; data.images.unlabelled names their folder below data.root")
    taken = _taken(name, folder, parts, readers)
    if not set(folder.paths) - taken:
        raise DataError(f"{folder.root / name}: all images in it are annotated; data.images.unlabelled has no other")
    for image_id, path in folder.ids().items():
        if path in taken:
            continue
        load = partial(_load_plain, folder, path, image_id, data)
        cell_type, group = searched(data.class_pattern, path), searched(data.group_pattern, path)
        yield Item(image_id, "unlabelled", path, load, cell_type, group)


def _taken(name: str, folder: Folder, parts: Sequence[Part], readers: Sequence[Reader]) -> set[str]:
    """Files of the folder of unlabelled images that are annotated images or masks, where one lies in the other.

    Of a folder of annotated images it is what the readers know; a folder of masks is taken whole.
    """
    pool = PurePosixPath(name)
    images, masks = {PurePosixPath(part.images) for part in parts}, {PurePosixPath(part.masks) for part in parts}
    if not any(place.is_relative_to(pool) for place in images | masks):
        return set()
    taken = {path for reader in readers for path in reader.files()}
    inside = [place for place in masks - images if place.is_relative_to(pool) and place != pool]
    return taken | {path for path in folder.paths if any(PurePosixPath(path).is_relative_to(own) for own in inside)}


def _load_plain(folder: Folder, path: str, image_id: str, data: DataConfig) -> Loaded:
    return Loaded(folder.record(path, image_id, data))


def _check_ids(items: Iterable[Item]) -> None:
    places: dict[str, str] = {}
    for item in items:
        check_id(item.image_id, item.place)
        first = places.setdefault(item.image_id, item.place)
        if first is not item.place:
            raise DataError(f"id {item.image_id!r} stands in {first} and in {item.place}; give each image its own")


def _draw_splits(items: list[Item], data: DataConfig) -> tuple[list[Item], list[str]]:
    """Items whose split the data does not say are drawn by group, within classes, the same for every `run.seed`."""
    free = sorted((item for item in items if item.split is None), key=lambda item: item.image_id)
    if not free:
        return items, []
    there = {item.split for item in items}
    shares: dict[Any, float] = {"val": data.val_fraction, "test": data.test_fraction}
    shares = {split: share for split, share in shares.items() if split not in there}
    shares = {"labelled": 1 - sum(shares.values()), **shares}
    try:
        classes = [item.cell_type for item in free]
        splits = grouped_split([item.group for item in free], shares, data.split_seed, classes)
    except DataError as error:
        raise DataError(
            f"{data.root}: {len(free)} annotated images cannot be drawn into {', '.join(shares)}: {error}; "
            "data.images can name val and test folders, data.group_column and data.group_pattern say the groups"
        ) from None
    placed = dict(zip((item.image_id for item in free), splits, strict=True))
    drawn = [replace(item, split=cast(Split, placed[item.image_id])) if item.split is None else item for item in items]
    groups = len({item.group for item in free if item.group is not None})
    by = f"by {groups} groups" if groups else "image by image, since no group is stated"
    counts = ", ".join(f"{splits.count(split)} {split}" for split in shares)
    return drawn, [f"{len(free)} annotated images were drawn into {counts}, {by} (data.split_seed {data.split_seed})"]
