"""Reads masks that another tool wrote, for images that are known: a folder of annotation files, or a data set.

FOLDER/NAME.tif, NAME_masks.png, NAME_cp_masks.png, NAME_seg.npy, NAME.zip, NAME.geojson .. where NAME is the id of
an image; or any data set that `cellsemi data inspect` recognises (a COCO file, run lengths in a CSV, an import). An
image that is not found by its id is looked for by its pixels, among the images that lie beside the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.formats import ANNOTATION_EXTENSIONS
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.open import list_data
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.formats.paired.annotation import read_annotation_file
from cellsemi.rounds.formats.paired.detect import MASK_SUFFIXES
from cellsemi.rounds.formats.shared.folder import Folder, check_fits, composed, split_extension
from cellsemi.rounds.store.image_codec import EXTENSIONS
from cellsemi.rounds.store.schemas import ImageRecord

SETTING = "the masks"  # what a message about the folder calls it
PLAIN = DataConfig()  # how the images beside masks are read
AS_AN_IMAGE = 2  # the rank of a file that is named as an image: its masks, where it has no others
ENDINGS = ("_cp_masks", *sorted(set(MASK_SUFFIXES) - {"", "_cp_masks"}, key=len, reverse=True))


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """The cells of an image in a set of masks; `classes` names what `class_id` counts, () where no class is stated.

    `regions` are those of `FileCells`.
    """

    cells: Instances
    classes: tuple[str, ...]
    regions: Instances | None = None


Find = Callable[[ImageRecord], FoundMasks | None]


class MaskFiles:
    """The annotation files of a folder by the id of their image."""

    def __init__(self, folder: Path) -> None:
        self._folder = Folder(folder, ".", SETTING, (*EXTENSIONS, *ANNOTATION_EXTENSIONS))
        self._by_id: dict[str, dict[int, list[str]]] = {}
        self._by_pixels: dict[str, str] | None = None
        for path in self._folder.paths:
            image_id, rank = _belongs_to(path)
            self._by_id.setdefault(image_id, {}).setdefault(rank, []).append(path)

    def __contains__(self, image_id: str) -> bool:
        return composed(image_id) in self._by_id

    def find(self, record: ImageRecord) -> FoundMasks | None:
        """The cells of an image, None when no file but itself has its name and no image beside masks has its pixels.

        ImageError when its file is damaged or foreign.
        """
        ranked = self._by_id.get(composed(record.image_id)) or self._of_the_same_pixels(record)
        if ranked is None:
            return None
        paths = ranked[min(ranked)]
        if len(paths) > 1:
            raise ImageError(paths[0], f"several files of masks fit: {', '.join(paths)}", "keep one")
        if min(ranked) == AS_AN_IMAGE and self._is_image(paths[0], record):
            return None
        found = read_annotation_file(self._folder, paths[0], record, record.height * record.width)
        return FoundMasks(found.cells, found.classes, found.regions)

    def _is_image(self, path: str, record: ImageRecord) -> bool:
        """Whether a file that is called as an image is that image, whose masks were taken away."""
        with suppress(ImageError):
            return bool(record.sha256) and self._folder.record(path, record.image_id, PLAIN).sha256 == record.sha256
        return False

    def _of_the_same_pixels(self, record: ImageRecord) -> dict[int, list[str]] | None:
        """The files of the image here that has the pixels of a record; each image is decoded once, when first asked."""
        if self._by_pixels is None:
            self._by_pixels = {}
            for image_id, ranked in self._by_id.items():
                if min(ranked) < AS_AN_IMAGE and AS_AN_IMAGE in ranked:
                    with suppress(ImageError):  # what is no image is nobody's image
                        image = self._folder.record(ranked[AS_AN_IMAGE][0], image_id, PLAIN)
                        self._by_pixels[image.sha256] = image_id
        found = self._by_pixels.get(record.sha256)
        return None if found is None else self._by_id[found]


class MaskDataset:
    """The annotated images of a data set, by id, then by their pixels."""

    def __init__(self, data: DataConfig, ids: Iterable[str]) -> None:
        self._by_id = {composed(item.image_id): item for item in _annotated(data)}
        asked = {composed(image_id) for image_id in ids}
        self._others = [item for image_id, item in self._by_id.items() if image_id not in asked]

    def find(self, record: ImageRecord) -> FoundMasks | None:
        """The cells of an image, None when the data set does not hold it; ImageError as from its reader."""
        item = self._by_id.get(composed(record.image_id)) or self._by_pixels.get(record.sha256)
        if item is None:
            return None
        loaded = item.load()
        cells = loaded.record.instances
        if cells is None:
            return None
        check_fits(item.place or item.image_id, "the mask", cells.height, cells.width, record)
        return FoundMasks(cells, _classes(loaded, item), loaded.regions)

    @cached_property
    def _by_pixels(self) -> dict[str, Item]:
        """The items that no id asks for; each is read once, when first needed."""
        found = {}
        for item in self._others:
            with suppress(ImageError):  # an image that cannot be read is nobody's image
                found[item.load().record.sha256] = item
        return found


def open_masks(path: Path, ids: Sequence[str], recognise: Callable[[Path], DataConfig]) -> Find:
    """What finds the masks of an image in a folder or file; `recognise` gives the data section of a data set.

    DataError when no image of `ids` has masks there: names that do not fit would look like images without cells.
    """
    return masks_in(path, mask_source(path, ids, recognise), ids)


def masks_in(path: Path, source: DataConfig | None, ids: Sequence[str]) -> Find:
    """The same where `mask_source` has said what the path is."""
    return MaskFiles(path).find if source is None else MaskDataset(source, ids).find


def mask_source(path: Path, ids: Sequence[str], recognise: Callable[[Path], DataConfig]) -> DataConfig | None:
    """What holds the masks: None for a folder of files that are named after the images of `ids`, else a data set.

    DataError when it is neither.
    """
    if path.is_dir():
        found = MaskFiles(path)
        if any(image_id in found for image_id in ids):
            return None
    try:
        source = recognise(path)
        _annotated(source)
    except DataError as error:
        raise DataError(
            f"{path}: no masks of these images: no file is called as one of them ({', '.join(ids[:3])} ..), with or "
            f"without {', '.join(ENDINGS)}; and as a data set: {error}"
        ) from None
    return source


def _annotated(data: DataConfig) -> list[Item]:
    """The annotated images of a data set; a folder of images without labels beside them may be listed in it, too."""
    if isinstance(data.images, dict):
        images = {split: place for split, place in data.images.items() if split != "unlabelled"}
        data = data.model_copy(update={"images": images or "."})
    return [item for item in list_data(data, 0, must_draw=False).items if item.split != "unlabelled"]


def _belongs_to(path: str) -> tuple[str, int]:
    """The image id of an annotation file, and its rank among several: named as masks, as an annotation, as an image."""
    stem, extension = split_extension(composed(PurePosixPath(path).name))
    for ending in ENDINGS:
        if stem.endswith(ending) and stem != ending:
            return stem.removesuffix(ending), 0
    return stem, 1 if extension in ANNOTATION_EXTENSIONS else AS_AN_IMAGE


def _classes(loaded: Loaded, item: Item) -> tuple[str, ...]:
    return loaded.classes or ((item.cell_type,) if item.cell_type else ())
