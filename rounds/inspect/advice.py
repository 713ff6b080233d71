"""Derives hints from the figures of a data set, each with the setting that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cellsemi.configs.data import DataConfig
from cellsemi.rounds.datasets.ingest_report import crowds_sentence
from cellsemi.rounds.evaluation.bootstrap import who_decides
from cellsemi.rounds.formats.paired.reader import NO_ANNOTATION
from cellsemi.rounds.inspect.statistics import Inspection

MANY = 0.02  # share of the cells from which an oddity of masks is mentioned
FEW_GROUPS = 3  # training, validation and test need one each
SMALL_PX = 20  # a cell of this median area (pixels) is near the limit of what can be separated
LARGE_PX = 2048  # a side from which images are predicted in many tiles


class Hint(NamedTuple):
    """A sentence, and where a setting is recommended its path, its value and the reason for it."""

    text: str
    setting: str = ""
    value: object = None
    reason: str = ""


def hints(found: Inspection, data: DataConfig, folds: int | None = None) -> list[Hint]:
    """What to consider before a run. `folds` is the setting `rounds.folds`."""
    return [*_of_listing(found, data, folds), *_of_masks(found, data), *_of_images(found)]


def _of_listing(found: Inspection, data: DataConfig, folds: int | None) -> Iterator[Hint]:
    missing = [split for split in ("labelled", "val", "test") if not found.listed[split]]
    if missing:
        yield Hint(f"there are no {' and no '.join(missing)} images; a run needs labelled, val and test")
    else:
        yield Hint(who_decides(found.listed["labelled"], found.listed["val"], folds, found.groups or None))
    if not found.listed["unlabelled"]:
        yield Hint(
            "there are no unlabelled images: the rounds have nothing to label (data.images.unlabelled names a folder)"
        )
    if not found.groups:
        setting = "data.group_column or data.group_pattern"
        yield Hint(
            f"no group (sample, plate, well) is stated: neighbouring images may leak between splits; {setting} say it"
        )
    elif found.groups < FEW_GROUPS:
        yield Hint(f"there are only {found.groups} groups; training, val and test need one each")
    stated = data.class_column or ("data.class_pattern" if data.class_pattern else None)
    if stated and len(found.classes) > 1 and not data.one_class_per_image:
        why = f"{stated} states one class for each image"
        setting = "data.one_class_per_image"
        yield Hint(f"{why}: --set {setting}=true gives it to all cells of the image", setting, True, why)
    if found.same_pixels:
        yield Hint(f"{found.same_pixels} images repeat the pixels of another one: an import refuses them in two splits")
    plain = sum(row.problem.startswith(NO_ANNOTATION) for row in found.quarantined)
    if plain and isinstance(data.images, str):
        places = f"'data.images={{labelled: {data.images}, unlabelled: {data.images}}}'"
        yield Hint(f"{plain} images have no annotation file: --set {places} takes them as unlabelled images")
    if found.quarantined and len(found.quarantined) > data.max_quarantined * found.seen:
        share = len(found.quarantined) / found.seen
        yield Hint(f"{share:.0%} of the images cannot be used; an import stops at {data.max_quarantined:.0%}")


def _of_masks(found: Inspection, data: DataConfig) -> Iterator[Hint]:
    odd, cells = found.masks, max(found.cells, 1)

    def many(count: int) -> bool:
        return count / cells >= MANY

    def mend(name: str, value: object, why: str, then: str) -> Hint:
        shown = str(value).lower() if isinstance(value, bool) else value
        return Hint(f"{why}: --set data.clean.{name}={shown} {then}", f"data.clean.{name}", value, why)

    if many(odd.with_holes) and not data.clean.fill_holes:
        yield mend("fill_holes", True, f"{odd.with_holes / cells:.0%} of the masks have holes", "fills them")
    if many(odd.several_parts) and data.clean.parts == "keep":
        why = f"{odd.several_parts / cells:.0%} of the masks are in several parts"
        yield mend("parts", "largest", why, "keeps the largest (or split)")
    if odd.duplicates and not data.clean.drop_duplicates:
        yield mend("drop_duplicates", True, f"{odd.duplicates} masks stand in their image twice", "keeps one")
    if odd.single_pixel and data.clean.min_area_px < 2:
        yield mend("min_area_px", 2, f"{odd.single_pixel} cells are a single pixel", "drops what is smaller")
    if found.crowded:
        yield Hint(f"{crowds_sentence(found.crowds, found.crowded)} (--set data.crowds=cells)")
    if many(odd.overlapping):
        yield Hint(
            f"{odd.overlapping / cells:.0%} of the cells overlap another; training gives shared pixels to one of them"
        )
    for name, figures in found.by_class.items():
        if figures.cells and figures.area["50"] < SMALL_PX:
            yield Hint(
                f"half of the cells of {name} are smaller than {SMALL_PX} px, near the limit of what can be separated"
            )
    if found.annotated and not found.cells:
        yield Hint("no image holds a cell: look at data.masks or data.annotations")


def _of_images(found: Inspection) -> Iterator[Hint]:
    if len(found.pixels) > 1:
        yield Hint(f"the images are of several kinds ({', '.join(found.pixels)}); each is scaled by its own range")
    if any("uint16" in kind for kind in found.pixels):
        yield Hint("16-bit images are scaled by their own percentiles; nothing has to be converted")
    if found.height and found.width and max(found.height[2], found.width[2]) > LARGE_PX:
        yield Hint("large images are predicted in tiles (inference.tile_px), and fill memory one at a time")
