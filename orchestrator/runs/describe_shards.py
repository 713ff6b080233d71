"""Describes a folder of a run's image shards: the states, reasons and scores of its cells, with a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.inspect.shard_figures import ShardFigures, kinds_of_states, shard_figures
from cellsemi.rounds.inspect.statistics import IGNORED, examples
from cellsemi.rounds.report.contact_sheet import Panel, contact_sheet, windows
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import read_folder, shard_paths

PLACES = ("unlabelled", "labelled", "val", "test")  # folders of a run's own images, where pixels are looked for

Count = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class ShardLook:
    """The figures of a folder of shards, and the picture; None where no pixels of its images were found."""

    figures: ShardFigures
    picture: Path | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {**self.figures.to_json(), "picture": None if self.picture is None else str(self.picture)}


def look_at_shards(folder: Path, picture: Path | None, count: Count) -> ShardLook:
    """Count the cells of a folder of shards, and draw some of its images; RunError when a shard cannot be read."""
    figures, classes = shard_figures(folder, lambda done: count("read images", done, None))
    panels = list(_panels(folder, classes)) if picture is not None else []
    if picture is not None and panels:
        files.write_bytes(picture, contact_sheet(panels))
    return ShardLook(figures, picture if panels else None)


def _panels(folder: Path, classes: tuple[str, ...]) -> Iterator[Panel]:
    """Images that show cells of each class and state together; those whose pixels are not found are left out."""
    kinds_of: dict[str, Counter[str]] = {}
    items: list[Item] = []
    for record in read_folder(folder):
        kinds_of[record.image_id] = Counter(kinds_of_states(record, classes))
        items.append(Item(record.image_id, None, record.image_id, partial(Loaded, record)))
    chosen = set(examples(items, kinds_of))
    names = tuple(sorted({kind for image_id in chosen for kind in kinds_of[image_id]} - {IGNORED})) or (IGNORED,)
    pixels = _pixels(folder, chosen)
    shown: set[str] = set()
    for record in read_folder(folder):
        image = record.image or pixels.get(record.image_id)
        if record.image_id not in chosen or image is None or record.instances is None:
            continue
        kinds = kinds_of_states(record, classes)
        class_id = [names.index(kind) if kind in names else 0 for kind in kinds]  # ignored cells are grey
        cells = record.instances.with_(class_id=class_id)
        for window in windows(cells, kinds, set(kinds) - shown):
            yield Panel(record.with_(image=image), cells, names, record.split, window)
        shown |= set(kinds)


def _pixels(folder: Path, ids: set[str]) -> dict[str, bytes]:
    """The encoded images of these ids, from the data of the run that the folder lies in."""
    found: dict[str, bytes] = {}
    for around in folder.resolve().parents[:4]:
        for place in PLACES if RunPaths(around).config.is_file() else ():
            path = RunPaths(around).data / place
            records: Iterator[ImageRecord] = read_folder(path) if shard_paths(path) else iter(())
            found |= {each.image_id: each.image for each in records if each.image_id in ids and each.image is not None}
    return found


def print_shards(look: ShardLook) -> None:
    """What lies in the folder: images, and for each state its cells, classes, scores and reasons."""
    figures = look.figures
    splits = ", ".join(f"{count} {split}" for split, count in figures.by_split.items())
    click.echo(f"{figures.folder}: image shards of {figures.images} images ({splits})")
    for count, what in (
        (figures.without_cells, "without cells"),
        (figures.without_pixels, "without pixels of their own"),
    ):
        if count:
            click.echo(f"  {count} images {what}")
    for state, found in figures.states.items():
        classes = ", ".join(f"{count} {name}" for name, count in found.classes.items())
        scores = " ".join(f"{value:.2f}" for value in found.score.values())
        click.echo(f"{state}: {found.cells} cells ({classes}); score {scores} (5, 25, 50, 75, 95 %)")
        for reason, count in found.reasons.items():
            click.echo(f"  {count} {reason}")
    if look.picture is not None:
        click.echo(f"picture: {look.picture}")
