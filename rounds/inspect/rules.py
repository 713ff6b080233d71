"""The rules by which a data set is recognised from names and heads of files, most telling first.

Each takes a glance at a folder and gives what it found, with the evidence in a sentence, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cellsemi.configs.data import Source, Split
from cellsemi.rounds.formats.shards import IMPORT_FILE
from cellsemi.rounds.formats.shared.folder import split_extension
from cellsemi.rounds.inspect.folder_scan import (
    Glance,
    Seen,
    below,
    common_folder,
    json_strings,
    parent,
    table_head,
    top_level_keys,
)
from cellsemi.rounds.inspect.pairs import MASK_FOLDERS, Pairs, find_pairs
from cellsemi.rounds.store.image_codec import EXTENSIONS

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "labelled"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
POOL_WORDS = ("semi", "unlabel")  # in the name of a folder of images without labels
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "data")
IDS = ("id", "imageid", "image_id")
RUN_LENGTHS = ("annotation", "encodedpixels", "predicted", "rle")
CLASS_COLUMNS = ("cell_type", "class", "kind")
GROUP_COLUMNS = ("sample_id", "well", "plate", "group")
SAMPLE = 6  # files that are looked for where a listing names them


@dataclass(frozen=True, slots=True)
class Detected:
    """A data set as recognised. `settings` are those of DataConfig that differ from its defaults.

    `why` is the evidence, a sentence; `others` are files or folders that could have been meant as well.
    """

    source: Source
    settings: dict[str, Any]
    why: str
    others: tuple[str, ...] = ()


# --- folders and manifest -----------------------------------------------------------------------------


def csv_file(glance: Glance, paths: list[str]) -> Detected | None:
    """A manifest or run lengths, whichever the first of these CSV files holds."""
    return _manifest(glance, paths) or _run_lengths(glance, paths)


def _manifest(glance: Glance, paths: list[str]) -> Detected | None:
    for path in paths:
        columns, rows = table_head(glance.head(path))
        if not {"id", "split"} <= set(columns) or _column(columns, RUN_LENGTHS):
            continue
        settings: dict[str, Any] = {"root": str(glance.root)}
        settings |= {"manifest": path} if path != "manifest.csv" else {}
        named = [row["id"] for row in rows[:SAMPLE]]
        settings |= _folder_setting(glance, "images", IMAGE_FOLDERS, named)
        settings |= _folder_setting(glance, "masks", MASK_FOLDERS, named)
        return Detected("label-maps", settings | _columns(columns), f"{path} has the columns id and split")
    return None


def _folder_setting(glance: Glance, default: str, names: tuple[str, ...], ids: list[str]) -> dict[str, str]:
    """`{default: folder}` when the folder is called otherwise: a known name, or one whose files have the ids."""
    if default in glance.top.folders:
        return {}
    known = [name for name in names if name in glance.top.folders]
    holding = [seen.path for seen in glance.with_images() if seen.stems() & set(ids)]
    found = [folder for folder in (*known, *(holding if default == "images" else ())) if folder != "."]
    return {default: found[0]} if found else {}


def _columns(columns: list[str]) -> dict[str, str]:
    """The settings that name the columns of class and group, where there are any."""
    found = {"class_column": _column(columns, CLASS_COLUMNS), "group_column": _column(columns, GROUP_COLUMNS)}
    return {name: column for name, column in found.items() if column}


def _column(columns: list[str], names: tuple[str, ...]) -> str | None:
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


# --- COCO and run lengths -----------------------------------------------------------------------------


def coco(glance: Glance, paths: list[str]) -> Detected | None:
    """The COCO files among these JSON files: one for all splits, or one for each that a name speaks of."""
    found = [path for path in paths if _is_coco(glance.head(path))]
    if not found:
        return None
    by_split = _by_split(found)
    folders = {split: _folder_of(glance, _file_names(glance, path)) for split, path in by_split.items()}
    settings: dict[str, Any] = {"root": str(glance.root)}
    settings |= {"annotations": _one_or_all(dict(by_split)), "images": _one_or_all(dict(folders))}
    settings |= _with_pool(glance, settings["images"])
    why = f"{found[0]} has the keys of COCO ({', '.join(top_level_keys(glance.head(found[0]))[:4])})"
    return Detected("coco", settings, why, tuple(path for path in found if path not in by_split.values()))


def _is_coco(head: str) -> bool:
    keys = set(top_level_keys(head))
    return bool(keys & {"images", "annotations"}) and not keys & {"shapes", "features"}


def _file_names(glance: Glance, path: str) -> list[str]:
    """Some file names of a COCO file, from its start and its end."""
    found = json_strings(glance.head(path), "file_name") + json_strings(glance.tail(path), "file_name")
    return [name.replace("\\", "/") for name in dict.fromkeys((*found[:SAMPLE], *found[-SAMPLE:]))]


def _run_lengths(glance: Glance, paths: list[str]) -> Detected | None:
    found: dict[str, tuple[list[str], list[dict[str, str]]]] = {}
    for path in sorted(paths, key=lambda path: ("sample" in path.lower(), "train" not in path.lower())):
        columns, rows = table_head(glance.head(path))
        if _column(columns, IDS) and _column(columns, RUN_LENGTHS):
            found[path] = columns, rows
    if not found:
        return None
    path, (columns, rows) = next(iter(found.items()))
    key, runs = _column(columns, IDS), _column(columns, RUN_LENGTHS)
    assert key is not None
    folder = _folder_of(glance, list(dict.fromkeys(row[key] for row in rows))[:SAMPLE])
    settings: dict[str, Any] = {"root": str(glance.root), "annotations": path, "images": folder}
    settings |= _with_pool(glance, folder) | _columns(columns)
    return Detected("rle-csv", settings, f"{path} has the columns {key} and {runs}", tuple(list(found)[1:]))


def _by_split(paths: list[str]) -> dict[Split, str]:
    """The files that are for train, val and test by their names; the first one is for all when none says train."""
    named: dict[Split, str] = {}
    for path in paths:
        split = _split_word(path)
        if split:
            named.setdefault(split, path)
    rest = [path for path in paths if path not in named.values()]
    if "labelled" not in named and rest:
        named["labelled"] = rest[0]
    return named if "labelled" in named else {"labelled": paths[0]}


def _one_or_all(places: dict[Any, str]) -> Any:
    """One place when all splits have the same, else one per split."""
    return places["labelled"] if len(set(places.values())) == 1 else places


def _folder_of(glance: Glance, names: list[str]) -> str:
    """The folder that holds the files of these names (or ids), as high up as the names stay distinct.

    "images" when none of them is found: the reader then says what is missing.
    """
    holding = []
    for name in names:
        base, stem = name.rpartition("/")[2], split_extension(name.rpartition("/")[2])[0]
        exact = [seen.path for seen in glance if base in seen.files]
        holding += exact or [seen.path for seen in glance.with_images() if stem in seen.stems()]
    if not holding:
        return "images"
    folder = common_folder(holding)
    while folder != "." and parent(folder) != "." and _continues(glance, folder):
        folder = parent(folder)
    return folder


def _continues(glance: Glance, folder: str) -> bool:
    """Whether the folders beside this one hold other images of the same kind (LIVECell: one per cell type)."""
    beside = [seen for seen in glance.within(parent(folder)) if seen.path != folder and seen.images]
    names = set(glance.folders[folder].images)
    return bool(beside) and not any(names & set(seen.images) or _split_word(seen.path) for seen in beside)


def _split_word(path: str) -> Split | None:
    """The split that the last part of a path speaks of: "instances_val2017.json", "train"."""
    words = re.findall("[a-z]+", path.rpartition("/")[2].lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def _with_pool(glance: Glance, images: Any) -> dict[str, Any]:
    """The images setting with the folder of unlabelled images, when one of the upper folders is called so."""
    pool = [
        seen.path
        for seen in (*glance.within("."), *(s for top in glance.within(".") for s in glance.within(top.path)))
        if any(word in seen.path.rpartition("/")[2].lower() for word in POOL_WORDS) and _holds_images(glance, seen)
    ]
    if not pool:
        return {}
    places = images if isinstance(images, dict) else {"labelled": images}
    return {"images": {**places, "unlabelled": pool[0]}}


def _holds_images(glance: Glance, seen: Seen) -> bool:
    return bool(seen.images) or any(inside.images for inside in glance.within(seen.path))


# --- one folder an image ------------------------------------------------------------------------------


def _dsb2018(glance: Glance) -> Detected | None:
    def has(seen: Seen, *folders: str) -> bool:
        inside = [each for each in glance.within(seen.path) if set(folders) <= set(each.folders)]
        return any(_holds_images(glance, each) for each in inside)

    annotated = [seen for seen in glance if has(seen, "images", "masks")]
    if not annotated:
        return None
    top = annotated[0].path
    plain = [seen.path for seen in glance if seen.path != top and has(seen, "images") and seen not in annotated]
    images: Any = {"labelled": top, "unlabelled": plain[0]} if plain else top
    why = f"the folders in {top if top != '.' else glance.root.name} hold images/ and masks/"
    others = tuple(seen.path for seen in annotated[1:])
    return Detected("dsb2018", {"root": str(glance.root), "images": images}, why, others)


def _class_files(glance: Glance) -> Detected | None:
    def is_class(name: str) -> bool:
        stem, extension = split_extension(name)
        return extension in EXTENSIONS and stem.startswith("class") and stem[5:].isdigit()

    holding = [seen for seen in glance if seen.path != "." and any(map(is_class, seen.files))]
    if not holding:
        return None
    tops = list(dict.fromkeys(parent(seen.path) for seen in holding))
    by_split = {split: top for top in reversed(tops) if (split := _split_word(top))}
    images: Any = dict(by_split) if len(by_split) > 1 and "labelled" in by_split else tops[0]
    settings = {"root": str(glance.root), "images": images} | _with_pool(glance, images)
    used = images.values() if isinstance(images, dict) else [images]
    example = below(holding[0].path, next(name for name in holding[0].files if is_class(name)))
    return Detected("class-files", settings, f"{example} stands beside its image", tuple(set(tops) - set(used)))


# --- pairs --------------------------------------------------------------------------------------------


def _paired(glance: Glance) -> Detected | None:
    found = find_pairs(glance)
    if not found:
        return None
    best = found[0]
    alike = [pairs for pairs in found if pairs.suffixes == best.suffixes]
    by_split: dict[Split, Pairs] = {}
    for pairs in alike:
        split = _split_word(pairs.images) or _split_word(parent(pairs.images))
        if split:
            by_split.setdefault(split, pairs)
    used = by_split if len(by_split) > 1 and "labelled" in by_split else {"labelled": best}
    images = _one_or_all({split: pairs.images for split, pairs in used.items()})
    settings: dict[str, Any] = {"root": str(glance.root), "images": images}
    settings["masks"] = _one_or_all({split: pairs.masks for split, pairs in used.items()})
    settings |= {"mask_suffix": best.mask_suffix}
    settings |= {"image_suffix": best.image_suffix} if best.image_suffix else {}
    settings |= _with_pool(glance, images)
    others = tuple(pairs.example for pairs in found if pairs not in used.values())
    return Detected("paired", settings, f"{best.example[0]} has {best.example[1]}", _told(others))


def _told(examples: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(f"{image} with {mask}" for image, mask in examples)


def _any_manifest(glance: Glance) -> Detected | None:
    return _manifest(glance, sorted(glance.top.named(".csv"), key=lambda path: path != "manifest.csv"))


def _any_coco(glance: Glance) -> Detected | None:
    return coco(glance, glance.find(".json"))


def _any_run_lengths(glance: Glance) -> Detected | None:
    return _run_lengths(glance, glance.find(".csv"))


RULES: tuple[Callable[[Glance], Detected | None], ...] = (
    _any_manifest,
    _any_coco,
    _any_run_lengths,
    _dsb2018,
    _class_files,
    _paired,
)
LOOKED_FOR = (
    f"{IMPORT_FILE} of an import",
    "a manifest.csv with the columns id and split",
    "a COCO JSON",
    "a CSV with run lengths (id and annotation, EncodedPixels, predicted or rle)",
    "folders ID/images and ID/masks",
    "class1.tif beside an image",
    "images with X_masks, X_label, X_cp_masks, X_seg.npy, X.zip or X.geojson",
)
