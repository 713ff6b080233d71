"""Reads folders that hold an image and a label map for each class of its cells.

    IMAGES/NAME/image.tif     or the only image in it that is no class file
    IMAGES/NAME/class1.tif    0 background, 1..N cells of the first class; ids repeat from file to file
    IMAGES/NAME/class2.tif    may be all zero, or missing: no cell of that class

The classes are called class1, class2 ..; `data.class_map` names them. Cells of two classes may overlap.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from cellsemi.configs.data import Place
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import NOTHING, Item, Loaded, Part
from cellsemi.rounds.formats.label_map.label_map import LabelMapRules, cells_of_label_map
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.detection import Detected, split_word, with_unlabelled
from cellsemi.rounds.formats.shared.folder import Folder, composed, searched, split_extension
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, below, parent
from cellsemi.rounds.store.image_codec import EXTENSIONS

CLASS_FILE = re.compile(r"class([0-9]{1,9})", re.IGNORECASE)
IMAGE_STEM = "image"


@dataclass(frozen=True, slots=True)
class Annotated:
    """The files of one folder: those that may be its image, the class files (name, path), and the others."""

    images: tuple[str, ...]
    class_files: tuple[tuple[str, str], ...]
    others: tuple[str, ...]


class ClassFiles:
    """An opened folder of image folders; a folder's path, with `/` as `__`, is the id.

    Raises DataError when there are none; ImageError out of `load` for one without exactly one image, without a
    class file, with two for one class, or with one that does not fit.
    """

    left_out = NOTHING

    def __init__(self, part: Part) -> None:
        self._part = part
        self._folder = Folder(part.root, part.images, "data.images")
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._folder.paths:
            found[str(PurePosixPath(path).parent)].append(path)
        beside = found.pop(str(PurePosixPath(part.images)), [])
        self._folders = {name: _sorted_out(paths) for name, paths in found.items()}
        names = {name for folder in self._folders.values() for name, _ in folder.class_files}
        if not names:
            raise DataError(
                f"{part.root / part.images}: no folder with a class file (class1.tif, class2.tif ..) beside an image; "
                "data.images names the folder that holds them"
            )
        self.classes = tuple(sorted(names, key=lambda name: (int(name.removeprefix("class")), name)))
        self.notes = tuple(self._noted(beside))

    def files(self) -> dict[str, str]:
        """All files of the image folders; those that are neither image nor class file are not read."""
        found: dict[str, str] = {}
        for folder in self._folders.values():
            found |= dict.fromkeys((*folder.images, *(path for _, path in folder.class_files)), "")
            found |= dict.fromkeys(folder.others, "neither image nor class file")
        return found

    def items(self) -> Iterator[Item]:
        """Every folder, sorted by id; class and group are searched for in its path."""
        data, root = self._part.data, PurePosixPath(self._part.images)
        for path, files in sorted(self._folders.items()):
            image_id = composed(str(PurePosixPath(path).relative_to(root))).replace("/", "__")
            cell_type, group = searched(data.class_pattern, path), searched(data.group_pattern, path)
            load = partial(self.load, image_id, path, files)
            yield Item(image_id, self._part.split, path, load, cell_type, group)

    def load(self, image_id: str, path: str, files: Annotated) -> Loaded:
        """An image with the cells of all its class files; ImageError when they cannot be used."""
        if len(files.images) != 1:
            names = f": {', '.join(files.images)}" if files.images else ""
            problem = f"{len(files.images)} images beside the class files, expected one{names}"
            raise ImageError(path, problem, f"call the image {IMAGE_STEM}.tif, and keep one")
        if not files.class_files:
            remedy = "move the image to the folder data.images.unlabelled, or save an all-zero class1.tif"
            raise ImageError(path, "no class file (class1.tif ..): the image is not annotated", remedy)
        record = self._folder.record(files.images[0], image_id, self._part.data)
        by_name = dict(files.class_files)
        if len(by_name) < len(files.class_files):
            names = ", ".join(file for _, file in files.class_files)
            raise ImageError(path, f"several files for one class: {names}", "keep one")
        cells = []
        for name, file in by_name.items():
            content = self._folder.read(file)
            rules = LabelMapRules.of(self._part.data)
            own = cells_of_label_map(content, file, record, self._part.data.max_pixels, rules)
            cells.append(own.with_(class_id=self.classes.index(name)))
        together = Instances.concat(record.height, record.width, cells)
        return Loaded(record.with_(instances=together), self.classes)

    def _noted(self, beside: Sequence[str]) -> Iterator[str]:
        """What a person should know: class files that are missing here and there, and files that are not used."""
        annotated = [{name for name, _ in folder.class_files} for folder in self._folders.values()]
        for name in self.classes:
            missing = sum(bool(there) and name not in there for there in annotated)
            if missing:
                yield f"{missing} annotated folders have no {name} file: taken as no cell of that class"
        others = [path for folder in self._folders.values() for path in folder.others]
        for paths, where in ((others, "neither image nor class file"), (list(beside), "outside the image folders")):
            if paths:
                yield f"{len(paths)} files {where} are not used, the first is {paths[0]}"


def detect_class_files(scan: FolderScan, file: str | None) -> Detected | None:
    """The folders of images with class files beside them, by split where their names say so."""

    def is_class(name: str) -> bool:
        stem, extension = split_extension(name)
        return extension in EXTENSIONS and stem.startswith("class") and stem[5:].isdigit()

    holding = [seen for seen in scan if seen.path != "." and any(map(is_class, seen.files))] if file is None else []
    if not holding:
        return None
    tops = list(dict.fromkeys(parent(seen.path) for seen in holding))
    by_split = {split: top for top in reversed(tops) if (split := split_word(top))}
    images: Place = by_split if len(by_split) > 1 and "labelled" in by_split else tops[0]
    used = by_split.values() if images is by_split else tops[:1]
    example = below(holding[0].path, next(name for name in holding[0].files if is_class(name)))
    settings = {"root": str(scan.root), "images": images} | with_unlabelled(scan, images)
    return Detected("class-files", settings, f"{example} stands beside its image", tuple(set(tops) - set(used)))


CLASS_FILES = FormatSpec(
    "class-files", detect=detect_class_files, evidence="class1.tif beside an image", reader=ClassFiles
)


def _sorted_out(paths: Sequence[str]) -> Annotated:
    stems = {path: split_extension(PurePosixPath(path).name)[0].lower() for path in paths}
    of_class = [(stem, path) for path, stem in stems.items() if CLASS_FILE.fullmatch(stem)]
    rest = [path for path, stem in stems.items() if not CLASS_FILE.fullmatch(stem)]
    images = [path for path in rest if stems[path] == IMAGE_STEM] or rest
    return Annotated(tuple(images), tuple(sorted(of_class)), tuple(path for path in rest if path not in images))
