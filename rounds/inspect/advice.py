"""Derives hints from the figures of a data set, each with the setting that follows from it."""

from __future__ import annotations

from collections.abc import Iterator

from cellsemi.configs.data import DataConfig
from cellsemi.rounds.inspect.statistics import Inspection

MANY = 0.02  # share of the cells from which an oddity of masks is mentioned
FEW_GROUPS = 3  # training, validation and test need one each
SMALL_PX = 20  # a cell of this median area (pixels) is near the limit of what can be separated
LARGE_PX = 2048  # a side from which images are predicted in many tiles


def hints(found: Inspection, data: DataConfig) -> list[str]:
    """A sentence for each thing to consider before an import."""
    return [*_of_listing(found, data), *_of_masks(found, data), *_of_images(found)]


def _of_listing(found: Inspection, data: DataConfig) -> Iterator[str]:
    missing = [split for split in ("labelled", "val", "test") if not found.listed[split]]
    if missing:
        yield f"there are no {' and no '.join(missing)} images; a run needs labelled, val and test"
    if not found.listed["unlabelled"]:
        yield "there are no unlabelled images: the rounds have nothing to label (data.images.unlabelled names a folder)"
    if not found.groups:
        setting = "data.group_column or data.group_pattern"
        yield f"no group (sample, plate, well) is stated: neighbouring images may leak between splits; {setting} say it"
    elif found.groups < FEW_GROUPS:
        yield f"there are only {found.groups} groups; training, val and test need one each"
    if found.same_pixels:
        yield f"{found.same_pixels} images repeat the pixels of another one: an import refuses them in two splits"
    if found.quarantined and len(found.quarantined) > data.max_quarantined * found.seen:
        share = len(found.quarantined) / found.seen
        yield f"{share:.0%} of the images cannot be used; an import stops at {data.max_quarantined:.0%}"


def _of_masks(found: Inspection, data: DataConfig) -> Iterator[str]:
    odd, cells = found.masks, max(found.cells, 1)

    def many(count: int) -> bool:
        return count / cells >= MANY

    if many(odd.with_holes) and not data.clean.fill_holes:
        yield f"{odd.with_holes / cells:.0%} of the masks have holes: --set data.clean.fill_holes=true fills them"
    if many(odd.several_parts) and data.clean.parts == "keep":
        share = odd.several_parts / cells
        yield f"{share:.0%} of the masks are in several parts: --set data.clean.parts=largest (or split)"
    if odd.duplicates and not data.clean.drop_duplicates:
        yield f"{odd.duplicates} masks stand in their image twice: --set data.clean.drop_duplicates=true"
    if odd.single_pixel:
        yield f"{odd.single_pixel} cells are a single pixel: --set data.clean.min_area_px=N drops what is smaller"
    if many(odd.overlapping):
        yield f"{odd.overlapping / cells:.0%} of the cells overlap another; training gives shared pixels to one of them"
    for name, figures in found.by_class.items():
        if figures.cells and figures.area["50"] < SMALL_PX:
            yield f"half of the cells of {name} are smaller than {SMALL_PX} px, near the limit of what can be separated"
    if found.annotated and not found.cells:
        yield "no image holds a cell: look at data.masks or data.annotations"


def _of_images(found: Inspection) -> Iterator[str]:
    if len(found.pixels) > 1:
        yield f"the images are of several kinds ({', '.join(found.pixels)}); each is scaled by its own range"
    if any("uint16" in kind for kind in found.pixels):
        yield "16-bit images are scaled by their own percentiles; nothing has to be converted"
    if found.height and found.width and max(found.height[2], found.width[2]) > LARGE_PX:
        yield "large images are predicted in tiles (inference.tile_px), and fill memory one at a time"
