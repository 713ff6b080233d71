"""Reads the folders of the Data Science Bowl 2018 (BBBC038): one per image, with a mask file for each cell.

    ROOT/stage1_train/ID/images/ID.png   data.images: stage1_train
    ROOT/stage1_train/ID/masks/*.png     0 and one other value, of the size of the image; they may overlap

An empty folder `masks` says that the image has no cell; without the folder it is not annotated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from cellsemi.configs.data import Place
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import NOTHING, Item, Loaded, Part
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.detection import Detected, holds_images, split_word
from cellsemi.rounds.formats.shared.folder import JUNK, Folder, check_fits, check_id, searched
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, ScannedFolder, below
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import EXTENSIONS, decode_label_map
from cellsemi.rounds.store.schemas import ImageRecord

ANY = ("",)  # the extension of every file
LEFT_BEHIND = (".", "Thumbs.db", *JUNK)  # by file browsers and archives


class Dsb2018:
    """An opened folder of image folders; their names are the ids.

    Raises DataError when the folder is missing or holds no other; ImageError out of `load` for an image
    folder without exactly one image, without masks, or with a file that is no mask of it.
    """

    classes: tuple[str, ...] = ()
    left_out = NOTHING

    def __init__(self, part: Part) -> None:
        self._part = part
        self._ids, others = _listed(part)
        self.notes: tuple[str, ...] = ()
        if others:
            self.notes = (f"{part.images}: {others} files beside the folders of images are not used",)

    def files(self) -> dict[str, str]:
        """All files in the folders images and masks of the image folders."""
        everything = Folder(self._part.root, self._part.images, "data.images", ANY).paths
        own = PurePosixPath(self._part.images)
        inside = {path: PurePosixPath(path).relative_to(own).parts for path in everything}
        return {path: "" for path, parts in inside.items() if len(parts) > 2 and parts[1] in ("images", "masks")}

    def items(self) -> Iterator[Item]:
        """Every image folder, sorted; class and group are searched for in its path."""
        data, split = self._part.data, self._part.split
        for image_id in self._ids:
            path = f"{self._part.images}/{image_id}"
            cell_type, group = searched(data.class_pattern, path), searched(data.group_pattern, path)
            yield Item(image_id, split, path, partial(self.load, image_id), cell_type, group)

    def load(self, image_id: str) -> Loaded:
        """An image with a cell for each of its mask files; ImageError when one of them cannot be used."""
        images = self._folder(image_id, "images", EXTENSIONS, "expected one image in it")
        if len(images.paths) != 1:
            problem = f"{len(images.paths)} images, expected one"
            raise ImageError(images.name, problem, "keep one PNG, TIFF or JPEG file in it")
        record = images.record(images.paths[0], image_id, self._part.data)
        remedy = "the image is not annotated: put its folder of images into data.images.unlabelled"
        return Loaded(record.with_(instances=self._cells(self._folder(image_id, "masks", ANY, remedy), record)))

    def _folder(self, image_id: str, name: str, extensions: tuple[str, ...], remedy: str) -> Folder:
        path = f"{self._part.images}/{image_id}/{name}"
        if not (self._part.root / path).is_dir():
            raise ImageError(path, "there is no such folder", remedy)
        try:
            return Folder(self._part.root, path, "data.images", extensions)
        except DataError as error:
            raise ImageError(path, str(error), "check the folder and its permissions") from None

    def _cells(self, folder: Folder, record: ImageRecord) -> Instances:
        paths = [path for path in folder.paths if not path.rpartition("/")[2].startswith(LEFT_BEHIND)]
        cells = [self._cell(folder, path, record) for path in paths]
        return Instances.concat(record.height, record.width, cells)

    def _cell(self, folder: Folder, path: str, record: ImageRecord) -> Instances:
        """The one cell of a mask file."""
        if not path.lower().endswith(EXTENSIONS):
            raise ImageError(path, "not an image, but it stands among the masks", "convert it to PNG, or take it out")
        mask = decode_label_map(folder.read(path), path, self._part.data.max_pixels)
        check_fits(path, "the mask", mask.shape[0], mask.shape[1], record)
        value = int(mask.max())
        if not value:
            raise ImageError(path, "the mask is empty", "take the file out, or draw the cell")
        other = mask[(mask != 0) & (mask != value)]
        if len(other):
            problem = f"the mask holds {value} and {int(other[0])}, expected 0 and one other value"
            raise ImageError(path, problem, "save each cell as a file of its own, without smoothing")
        return masks.from_crops(record.height, record.width, [(mask != 0, 0, 0)], state="human")


def detect_dsb2018(scan: FolderScan, file: str | None) -> Detected | None:
    """The folder whose folders hold images/ and masks/; one with images/ alone is that of unlabelled images."""

    def has(seen: ScannedFolder, *folders: str) -> bool:
        inside = [each for each in scan.within(seen.path) if set(folders) <= set(each.folders)]
        return any(holds_images(scan, each) and not _is_a_data_set(scan, each) for each in inside)

    annotated = [seen for seen in scan if has(seen, "images", "masks")] if file is None else []
    if not annotated:
        return None
    top = annotated[0].path
    plain = [seen.path for seen in scan if seen.path != top and has(seen, "images") and seen not in annotated]
    images: Place = {"labelled": top, "unlabelled": plain[0]} if plain else top
    why = f"the folders in {top if top != '.' else scan.root.name} hold images/ and masks/"
    others = tuple(seen.path for seen in annotated[1:])
    return Detected("dsb2018", {"root": str(scan.root), "images": images}, why, others)


def _is_a_data_set(scan: FolderScan, seen: ScannedFolder) -> bool:
    """Whether a folder with images/ in it holds many images, as train/ and test/ do, and not one with its masks."""
    inside = scan.folders.get(below(seen.path, "images"))
    return split_word(seen.path) is not None or (inside is not None and len(inside.images) > 1)


DSB2018 = FormatSpec("dsb2018", detect=detect_dsb2018, evidence="folders ID/images and ID/masks", reader=Dsb2018)


def _listed(part: Part) -> tuple[list[str], int]:
    """The names of the image folders, sorted, and how many files stand beside them."""
    path = part.root / part.images
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; data.images names it below data.root")
    try:
        found = files.list_names(path)
        found = [(name, is_folder) for name, is_folder in found if not name.startswith(LEFT_BEHIND)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    ids = sorted(name for name, is_folder in found if is_folder)
    if not ids:
        raise DataError(f"{path}: there are no folders in it; each image has one, with images/ and masks/ inside")
    for image_id in ids:
        check_id(image_id, f"{part.images}/{image_id}")
    return ids, len(found) - len(ids)
