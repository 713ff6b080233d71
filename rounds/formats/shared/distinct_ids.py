"""Makes the ids of images distinct where the same file names stand in several folders of a data set.

Tools start every folder anew (frame_000000). Inside one folder the reader tells such images apart by their
sub-folders; here the folders of splits and that of the unlabelled images are told apart in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.formats.shared.folder import composed


def distinct_ids(
    folders: Sequence[str], annotated: Sequence[Sequence[Item]], pool: str | None, unlabelled: Sequence[Item]
) -> list[Item]:
    """The items of all parts, then the unlabelled ones; what shares its id with another folder gets FOLDER__ID.

    `folders` are those of the images of each part, `pool` is that of the unlabelled images. Of an annotated and an
    unlabelled image the annotated one keeps its id. Items of one folder are left as they are.
    """
    holders: defaultdict[str, set[str]] = defaultdict(set)
    for folder, items in zip(folders, annotated, strict=True):
        for item in items:
            holders[item.image_id].add(folder)
    found = [
        _renamed(item, folder) if len(holders[item.image_id]) > 1 else item
        for folder, items in zip(folders, annotated, strict=True)
        for item in items
    ]
    taken = {item.image_id for item in found}
    return found + [_renamed(item, pool or "") if item.image_id in taken else item for item in unlabelled]


def _renamed(item: Item, folder: str) -> Item:
    prefix = composed("__".join(part for part in PurePosixPath(folder).parts))
    if not prefix:
        return item
    image_id = f"{prefix}__{item.image_id}"
    return replace(item, image_id=image_id, load=partial(_load, item, image_id))


def _load(item: Item, image_id: str) -> Loaded:
    loaded = item.load()
    return replace(loaded, record=loaded.record.with_(image_id=image_id))
