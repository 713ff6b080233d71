"""Recognises images that each have an annotation file, from names alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cellsemi.configs.data import Split
from cellsemi.configs.errors import DataError
from cellsemi.configs.formats import ANNOTATION_EXTENSIONS
from cellsemi.rounds.formats.paired.reader import MODEL_OUTPUT
from cellsemi.rounds.formats.shared.detection import (
    MASK_FOLDERS,
    Detected,
    Settings,
    one_or_all,
    split_of,
    with_unlabelled,
)
from cellsemi.rounds.formats.shared.folder import plain_stem, split_extension
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, ScannedFolder, below, parent
from cellsemi.rounds.store.image_codec import EXTENSIONS

# Each suffix before those that people correct less: _seg.npy is what the GUI of Cellpose saves.
MASK_SUFFIXES = ("_masks", "_mask", "_labels", "_label", "_seg", "_rois", "", MODEL_OUTPUT)
OUTPUTS = ("_flows", "_outlines", "_cp_output", "_overlay")  # pictures that tools write beside their input
IMAGE_SUFFIXES = ("_img", "_image", "_raw", "")
LOSSY = (".jpg", ".jpeg")  # never a label map


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images of one folder with their annotation files in the same or in another one."""

    images: str
    masks: str
    image_suffix: str
    mask_suffix: str
    count: int
    example: tuple[str, str]

    @property
    def suffixes(self) -> tuple[str, str]:
        """Ends of the names of image and mask."""
        return self.image_suffix, self.mask_suffix


def detect_pairs(scan: FolderScan, file: str | None) -> Detected | None:
    """The folders with most pairs; those of val and test with the same suffixes, where the names say so."""
    found = find_pairs(scan) if file is None else []
    if not found:
        return None
    best = found[0]
    by_split: dict[Split, Pairs] = {}
    for pairs in found:
        split = split_of(pairs.images)
        if split and pairs.suffixes == best.suffixes:
            by_split.setdefault(split, pairs)
    used: dict[Split, Pairs] = by_split if len(by_split) > 1 and "labelled" in by_split else {"labelled": best}
    images = one_or_all({split: pairs.images for split, pairs in used.items()})
    settings: Settings = {"root": str(scan.root), "images": images}
    settings["masks"] = one_or_all({split: pairs.masks for split, pairs in used.items()})
    settings |= {"mask_suffix": best.mask_suffix}
    settings |= {"image_suffix": best.image_suffix} if best.image_suffix else {}
    settings |= with_unlabelled(scan, images)
    _check_whose_output(scan, list(used.values()))
    own = settings["images"]
    plain = own.get("unlabelled") if isinstance(own, dict) else None
    others = (pairs.example for pairs in found if pairs not in used.values() and pairs.images != plain)
    why = f"{best.example[0]} has {best.example[1]}"
    return Detected("paired", settings, why, tuple(f"{image} with {mask}" for image, mask in others))


def find_pairs(scan: FolderScan) -> list[Pairs]:
    """The best pairs of every folder of images, the folder with most of them first."""
    found = []
    for seen in scan.with_images():
        tried = [pairs for masks in _mask_folders(scan, seen) for pairs in _tried(seen, masks)]
        if tried:
            found.append(max(tried, key=lambda pairs: (pairs.mask_suffix != MODEL_OUTPUT, pairs.count)))
    return sorted(found, key=lambda pairs: -pairs.count)


def _check_whose_output(scan: FolderScan, used: Sequence[Pairs]) -> None:
    """DataError when masks of a model would be learnt as labels, though some were corrected in Cellpose's GUI."""
    for pairs in used:
        folders = {scan.folders[pairs.masks], scan.folders[pairs.images]}
        corrected = [name for folder in folders for name in folder.files if name.endswith("_seg.npy")]
        if pairs.mask_suffix == MODEL_OUTPUT and corrected:
            raise DataError(
                f"{scan.root / pairs.masks}: {pairs.count} images have {MODEL_OUTPUT} files, which a model wrote, and "
                f"{len(corrected)} have _seg.npy files, which a person may have corrected; say which are the labels: "
                f"--set data.source=paired --set data.images={pairs.images} --set data.masks={pairs.masks} --set "
                f"data.mask_suffix=_seg (or {MODEL_OUTPUT})"
            )


def _mask_folders(scan: FolderScan, seen: ScannedFolder) -> Iterator[ScannedFolder]:
    """The folder itself, and folders of masks beside it or in it."""
    yield seen
    name = seen.path.rpartition("/")[2].lower()
    if name in MASK_FOLDERS:
        return
    for around in dict.fromkeys((parent(seen.path), seen.path)):
        for other in scan.within(around):
            if other.path != seen.path and other.path.rpartition("/")[2].lower() in MASK_FOLDERS:
                yield other


def _tried(seen: ScannedFolder, masks: ScannedFolder) -> Iterator[Pairs]:
    """Every way to read the names that pairs at least half of the images that are no masks themselves."""
    alone = seen.path != masks.path
    inputs = _inputs(seen.images)
    annotations = {plain_stem(name): name for name in masks.files if _may_annotate(name, alone)}
    for mask_suffix in MASK_SUFFIXES:
        pictures = [name for name in inputs if alone or not mask_suffix or not _ends(name, mask_suffix)]
        for image_suffix in IMAGE_SUFFIXES:
            matched = _matched(pictures, annotations, image_suffix, mask_suffix)
            pairs = [(picture, mask) for picture, mask in matched if alone or picture != mask]
            if len(pairs) * 2 >= max(len(pictures), 1):
                image, mask = pairs[0]
                example = below(seen.path, image), below(masks.path, mask)
                yield Pairs(seen.path, masks.path, image_suffix, mask_suffix, len(pairs), example)


def _inputs(names: Sequence[str]) -> list[str]:
    """The images that are not made from another one of them: im1.png, not im1_flows.tif or im1_cp_masks.png."""
    stems = {plain_stem(name) for name in names}

    def is_made(stem: str) -> bool:
        return any(stem.endswith(end) and stem.removesuffix(end) in stems for end in (*MASK_SUFFIXES, *OUTPUTS) if end)

    return [name for name in names if not is_made(plain_stem(name))]


def _matched(
    pictures: list[str], annotations: dict[str, str], image_suffix: str, mask_suffix: str
) -> Iterator[tuple[str, str]]:
    for picture in pictures:
        stem = plain_stem(picture)
        if not stem.endswith(image_suffix):
            continue
        mask = annotations.get(stem[: len(stem) - len(image_suffix)] + mask_suffix)
        if mask is not None:
            yield picture, mask


def _may_annotate(name: str, alone: bool) -> bool:
    """Whether a file can hold masks; a plain image beside other images must say so by its suffix."""
    stem, extension = plain_stem(name), split_extension(name)[1]
    if extension in ANNOTATION_EXTENSIONS:
        return True
    named = any(suffix and stem.endswith(suffix) for suffix in MASK_SUFFIXES)
    return extension in EXTENSIONS and extension not in LOSSY and (alone or named)


def _ends(name: str, suffix: str) -> bool:
    return plain_stem(name).endswith(suffix)
