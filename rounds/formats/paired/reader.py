"""Reads images that each have an annotation file: X.tif and X_masks.tif, in one folder or in two.

    IMAGES/NAME + image_suffix + .png .tif .tiff .jpg .jpeg
                               .ome.tif counts as .tif, before or after the suffix
    MASKS/NAME + mask_suffix + .png .tif .tiff    label map: 0 background, 1..N cells
                               .npy               Cellpose's _seg.npy (mask_suffix "_seg"), or a plain array
                               .zip .roi          ImageJ regions of interest
                               .json              labelme
                               .geojson .json     QuPath, also compressed (.geojson.gz, .zip)

The annotation lies in the sub-folder of the same name as the image's; else its name must be the only one of its
kind. An image without an annotation file is not an empty image: it is an ImageError.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import PurePosixPath
from typing import NamedTuple

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.formats import ANNOTATION_EXTENSIONS
from cellsemi.rounds.formats.base import NOTHING, Item, Loaded, Part
from cellsemi.rounds.formats.label_map.label_map import LabelMapRules
from cellsemi.rounds.formats.paired.annotation import read_annotation_file
from cellsemi.rounds.formats.registry import specs_of_extension
from cellsemi.rounds.formats.shared.folder import Folder, composed, plain_stem, searched, split_extension
from cellsemi.rounds.store.image_codec import EXTENSIONS

MODEL_OUTPUT = "_cp_masks"  # what a model of Cellpose found
# Ends of the names of images that Cellpose makes of its input.
CELLPOSE_OUTPUT = ("_masks", MODEL_OUTPUT, "_flows", "_outlines", "_cp_output")
BY_A_MODEL = "annotation files were written by a model of Cellpose (labels only if they were corrected)"
NO_ANNOTATION = "no annotation file"
SHOWN_NAMES = 3  # names that a note gives


class FilePlace(NamedTuple):
    """A file below its folder: the sub-folder, and the name without extension, in composed Unicode."""

    folder: str
    stem: str


@dataclass(frozen=True, slots=True)
class Pair:
    """An image, the annotation files that fit it, and `same_file`: the other images that those fit as well."""

    image: str
    wanted: str
    annotations: tuple[str, ...]
    same_file: tuple[str, ...]


def _elsewhere(part: Part, path: str) -> bool:
    """Whether an image lies in a folder of another split, which lies in the folder of this one."""
    images = part.data.images
    places = {PurePosixPath(place) for place in images.values()} if isinstance(images, dict) else set()
    own = PurePosixPath(part.images)
    inside = (place for place in places if place != own and place.is_relative_to(own))
    return any(PurePosixPath(path).is_relative_to(place) for place in inside)


def _in_pool(part: Part, path: str) -> bool:
    """Whether an image without annotation file lies where the unlabelled images are said to lie."""
    pool = part.data.images.get("unlabelled") if isinstance(part.data.images, dict) else None
    return pool is not None and PurePosixPath(path).is_relative_to(PurePosixPath(pool))


class Paired:
    """An opened folder of images and its annotation files.

    Raises DataError when a folder is missing or no image is in it; ImageError out of `load` for an image with no
    annotation file or several, and for one that is damaged or does not fit.
    """

    left_out = NOTHING

    def __init__(self, part: Part) -> None:
        self._part = part
        self._images = Folder(part.root, part.images, "data.images")
        self._masks = Folder(part.root, part.masks, "data.masks", (*EXTENSIONS, *ANNOTATION_EXTENSIONS))
        masks = _mask_paths(self._images, self._masks, part.data.mask_suffix)
        own = [path for path in self._images.paths if path not in masks and not _elsewhere(part, path)]
        pictures, unnamed, output = _pictures(self._images, own, part.data.image_suffix)
        if not pictures:
            raise DataError(_no_images(part, len(self._images.paths)))
        annotations = [path for path in self._masks.paths if path not in set(own)]
        matched = self._matched(pictures, annotations)
        self._pairs = [pair for pair in matched if pair.annotations or not _in_pool(part, pair.image)]
        used = {path for pair in self._pairs for path in pair.annotations}
        unused = [path for path in annotations if path not in used]
        read = {split_extension(path)[1] for path in used} & set(ANNOTATION_EXTENSIONS)
        self._files = {
            **dict.fromkeys(unused, "annotation files that belong to no image"),
            **dict.fromkeys(unnamed, "images without the ending data.image_suffix"),
            **dict.fromkeys(output, "output of Cellpose for an image beside it"),
            **dict.fromkeys((*used, *(pair.image for pair in self._pairs)), ""),
        }
        self.classes = None if any(map(_has_classes, read)) else ()
        self.notes = (
            *_note(_of_a_model(used), BY_A_MODEL),
            *_note(unused, "annotation files belong to no image and are not used"),
            *_note(unnamed, f"images do not end in {part.data.image_suffix!r} (data.image_suffix) and are not used"),
            *_note(output, "files are Cellpose's output for an image beside them and are not read as images"),
        )

    def files(self) -> dict[str, str]:
        """The images and their annotation files, and what lies beside them."""
        return self._files

    def items(self) -> Iterator[Item]:
        """Every image, sorted by id; class and group are searched for in its path."""
        data = self._part.data
        by_id = sorted(((self._images.id_of(pair.image), pair) for pair in self._pairs), key=itemgetter(0))
        for image_id, pair in by_id:
            cell_type, group = searched(data.class_pattern, pair.image), searched(data.group_pattern, pair.image)
            yield Item(image_id, self._part.split, pair.image, partial(self.load, image_id, pair), cell_type, group)

    def load(self, image_id: str, pair: Pair) -> Loaded:
        """An image with the cells of its annotation file; ImageError when there is not exactly one that fits."""
        if not pair.annotations:
            endings = " ".join((".png .tif .tiff", *ANNOTATION_EXTENSIONS))
            remedy = (
                f"expected {pair.wanted} with one of {endings}; name its folder data.images.unlabelled, which takes "
                "such images, or save an empty label map where there is no cell"
            )
            raise ImageError(pair.image, NO_ANNOTATION, remedy)
        if len(pair.annotations) > 1:
            raise ImageError(pair.image, f"several annotation files fit: {', '.join(pair.annotations)}", "keep one")
        if pair.same_file:
            problem = f"{pair.annotations[0]} fits {', '.join(pair.same_file)} as well"
            raise ImageError(pair.image, problem, "keep the image that was annotated")
        record = self._images.record(pair.image, image_id, self._part.data)
        data = self._part.data
        found = read_annotation_file(self._masks, pair.annotations[0], record, data.max_pixels, LabelMapRules.of(data))
        return Loaded(
            record.with_(instances=found.cells), found.classes, left_out=found.left_out, regions=found.regions
        )

    def _matched(self, pictures: Sequence[str], annotations: Iterable[str]) -> list[Pair]:
        exact: defaultdict[FilePlace, list[str]] = defaultdict(list)
        named: defaultdict[str, list[str]] = defaultdict(list)
        for path in annotations:
            place = _place(self._masks, path)
            exact[place].append(path)
            named[place.stem].append(path)
        wanted = {path: self._wanted(path) for path in pictures}
        sharing: defaultdict[str, list[str]] = defaultdict(list)
        for path, place in wanted.items():
            sharing[place.stem].append(path)
        pairs = []
        for path, place in wanted.items():
            alike = [other for other in sharing[place.stem] if other != path]
            same_file = tuple(other for other in alike if wanted[other] == place)
            found = exact.get(place) or ([] if len(alike) > len(same_file) else named.get(place.stem, []))
            expected = str(PurePosixPath(self._masks.name) / place.folder / place.stem)
            pairs.append(Pair(path, expected, tuple(found), same_file))
        return pairs

    def _wanted(self, path: str) -> FilePlace:
        """Where the annotation of an image is looked for."""
        place, data = _place(self._images, path), self._part.data
        return place._replace(stem=place.stem.removesuffix(composed(data.image_suffix)) + composed(data.mask_suffix))


def _place(folder: Folder, path: str) -> FilePlace:
    below = PurePosixPath(composed(path)).relative_to(PurePosixPath(composed(folder.name)))
    return FilePlace(str(below.parent), plain_stem(below.name))


def _mask_paths(images: Folder, masks: Folder, suffix: str) -> set[str]:
    """The files of the folder of images that are masks: all in a folder of masks inside it, else by their suffix."""
    both = set(images.paths) & set(masks.paths)
    inside = PurePosixPath(images.name) in PurePosixPath(masks.name).parents
    if inside:
        return both
    return {path for path in both if suffix and _place(images, path).stem.endswith(composed(suffix))}


def _pictures(folder: Folder, paths: Sequence[str], suffix: str) -> tuple[list[str], list[str], list[str]]:
    """The images among `paths`, those without the suffix, and what Cellpose wrote about another one of them."""
    places = {path: _place(folder, path) for path in paths}
    named = {path: place for path, place in places.items() if place.stem.endswith(composed(suffix))}
    stems = {place.stem for place in named.values()}
    output = {path for path, place in named.items() if _inputs_of(place.stem) & stems}
    return (
        [path for path in named if path not in output],
        [path for path in paths if path not in named],
        sorted(output),
    )


def _has_classes(extension: str) -> bool:
    return any(spec.has_classes for spec in specs_of_extension(extension))


def _inputs_of(stem: str) -> set[str]:
    """The names that an output of Cellpose may be made of: "a" of "a_outlines_cp_masks", whatever folder it lies in."""
    found = {stem}
    for _ in range(2):
        found |= {each.removesuffix(end) for each in found for end in CELLPOSE_OUTPUT}
    return found - {stem}


def _of_a_model(annotations: Iterable[str]) -> list[str]:
    """The files that Cellpose's command line and `Save masks as PNG` write."""
    return sorted(path for path in annotations if split_extension(path)[0].endswith(MODEL_OUTPUT))


def _no_images(part: Part, files: int) -> str:
    data = part.data
    where = part.root / part.images
    if not files:
        return f"{where}: no images; data.images names their folder below data.root"
    return (
        f"{where}: none of the {files} image files is an image to be paired: their names must end in "
        f"data.image_suffix {data.image_suffix!r}, and those in data.mask_suffix {data.mask_suffix!r} are masks"
    )


def _note(paths: Sequence[str], what: str) -> tuple[str, ...]:
    if not paths:
        return ()
    more = ", .." if len(paths) > SHOWN_NAMES else ""
    return (f"{len(paths)} {what}: {', '.join(paths[:SHOWN_NAMES])}{more}",)
