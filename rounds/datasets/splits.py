"""Draws grouped splits, folds and labelled images, and checks the splits for leaks.

Neighbouring images of one well look alike, so a well on both sides of a split makes a score too good.
The sides are training (labelled and unlabelled together), validation and test.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError
from cellsemi.rounds.seeds import derive_seed

SIDES = {"labelled": "training", "unlabelled": "training", "val": "validation", "test": "test"}
SHOWN_LEAKS = 5  # leaks that a message names; it says how many there are


class Placed(Protocol):
    """What the leak check needs of an image; ImageRecord has it."""

    @property
    def image_id(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def group(self) -> str | None: ...
    @property
    def sha256(self) -> str: ...


PLACED = ("image_id", "split", "group", "sha256")  # the columns of a table of placed images


def placed_table(rows: Iterable[Placed]) -> pa.Table:
    """A table of images as `leak_check` and `duplicates` take it."""
    listed = list(rows)
    return pa.table({name: pa.array([getattr(row, name) for row in listed], pa.string()) for name in PLACED})


def leak_check(images: pa.Table) -> None:
    """DataError when a group stands on two sides, or the same pixels in two splits; the message names images.

    Of the `images` only the columns PLACED are read. Equal pixels count across all four splits: an image that is both
    labelled and unlabelled would be learnt twice, with two answers. An image without group or without sha256 is not
    compared by it.
    """
    own = {split: split for split in SIDES}
    grouped, hashed = images.filter(pc.is_valid(images["group"])), _hashed(images)
    problems = [f"group {name!r}: {_places(found)}" for name, found in _shared(grouped, "group", SIDES).items()]
    problems += [f"the same pixels: {_places(found)}" for found in _shared(hashed, "sha256", own).values()]
    if problems:
        shown = "\n  ".join(problems[:SHOWN_LEAKS])
        more = f"\n  and {len(problems) - SHOWN_LEAKS} more" if len(problems) > SHOWN_LEAKS else ""
        raise DataError(
            f"the splits leak into each other:\n  {shown}{more}\n"
            "Give each group one side, and each picture one split, in the manifest"
        )


def _shared(images: pa.Table, column: str, place_of: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Of each value of a column that stands in two places: the first image in each, by the order of the rows."""
    splits = images["split"].combine_chunks().dictionary_encode()
    places = pa.array([place_of[name] for name in splits.dictionary.to_pylist()], pa.string()).take(splits.indices)
    table = pa.table({"value": images[column], "place": places, "image_id": images["image_id"]})
    counts = table.group_by("value").aggregate([("place", "count_distinct")])
    several = counts.filter(pc.greater(counts["place_count_distinct"], 1))["value"]
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in table.filter(pc.is_in(table["value"], several)).to_pylist():
        found[row["value"]].setdefault(row["place"], row["image_id"])
    return found


def _hashed(images: pa.Table) -> pa.Table:
    """The images whose pixels are known by their hash."""
    return images.filter(pc.not_equal(pc.fill_null(images["sha256"], ""), ""))


def duplicates(images: pa.Table) -> dict[str, int]:
    """Per split, how many images repeat the pixels of another one in it; legal, but a person should know."""
    counts = _hashed(images).group_by(["split", "sha256"]).aggregate([("image_id", "count")])
    again = counts.group_by("split").aggregate([("image_id_count", "sum"), ("sha256", "count")])
    return {
        row["split"]: row["image_id_count_sum"] - row["sha256_count"]
        for row in sorted(again.to_pylist(), key=lambda row: str(row["split"]))
    }


def draw_labelled(
    ids: Sequence[str], limit: int | None, seed: int, strata: Sequence[str | None] | None = None
) -> list[str]:
    """`limit` of the ids, sorted; None takes all. With `strata` (such as classes) the strata take turns.

    The draw depends on the seed and the set of ids, not on their order, and a smaller draw is part of a
    larger one. Raises DataError when there are fewer ids than `limit`.
    """
    if limit is None:
        return sorted(ids)
    if limit > len(ids):
        raise DataError(
            f"data.labelled_limit is {limit}, but there are {len(ids)} labelled images; "
            "lower it, or take all with `--set data.labelled_limit=null`"
        )
    stratum = dict(zip(ids, strata or [None] * len(ids), strict=True))
    turns: Counter[str | None] = Counter()
    places = []
    for image_id in sorted(ids, key=lambda i: (derive_seed(seed, "labelled", i), i)):
        places.append((turns[stratum[image_id]], image_id))
        turns[stratum[image_id]] += 1
    return sorted(image_id for _, image_id in sorted(places, key=lambda place: place[0])[:limit])


def grouped_split(
    groups: Sequence[str | None],
    fractions: Mapping[str, float],
    seed: int,
    strata: Sequence[str | None] | None = None,
) -> list[str]:
    """The split of every image, such that no group is divided; None is a group of its own.

    `fractions` maps split names to shares that sum to 1. Groups come in an order drawn by the seed, each to
    the split that lacks most images; no split stays empty. With `strata` (such as classes) each stratum of
    enough groups is split by itself, so that every split has of every class; a group is of the stratum that
    most of its images have. Raises DataError when there are fewer groups than splits, ValueError when the
    shares are not positive or do not sum to 1.
    """
    if not fractions or min(fractions.values()) <= 0 or not math.isclose(sum(fractions.values()), 1):
        raise ValueError(f"expected positive shares that sum to 1, got {dict(fractions)}")
    keys, sizes = _sizes(groups)
    if len(sizes) < len(fractions):
        raise DataError(f"{len(sizes)} groups cannot fill {len(fractions)} splits; name groups more finely")
    placed: dict[str, str] = {}
    for part in _by_stratum(keys, strata or [None] * len(keys), len(fractions)):
        _place({key: sizes[key] for key in part}, fractions, seed, placed)
    return [placed[key] for key in keys]


def _by_stratum(keys: Sequence[str], strata: Sequence[str | None], enough: int) -> list[list[str]]:
    """The groups of each stratum that has `enough` of them, then those of the others together."""
    members = _members(keys, strata)
    large = [each for each in members if len(each) >= enough]
    rest = [key for each in members if len(each) < enough for key in each]
    return [*large, *([rest] if rest else [])]


def _members(keys: Sequence[str], strata: Sequence[str | None]) -> list[list[str]]:
    """The groups of each stratum, by its name; a group is of the stratum that most of its images have."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, stratum in zip(keys, strata, strict=True):
        votes[key][stratum or ""] += 1
    members: defaultdict[str, list[str]] = defaultdict(list)
    for key, counted in votes.items():
        members[min(counted, key=lambda name: (-counted[name], name))].append(key)
    return [members[name] for name in sorted(members)]


def _place(sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int, placed: dict[str, str]) -> None:
    """Place the groups of one stratum; no split stays empty if there are enough of them."""
    lacking = {split: share * sum(sizes.values()) for split, share in fractions.items()}
    order = sorted(sizes, key=lambda key: (derive_seed(seed, "split", key), key))
    empty = dict.fromkeys(fractions)
    for position, key in enumerate(order):
        choice = empty if empty and len(order) - position <= len(empty) <= len(order) else fractions
        placed[key] = max(choice, key=lambda split: lacking[split])
        lacking[placed[key]] -= sizes[key]
        empty.pop(placed[key], None)


def units(rows: Sequence[Placed]) -> list[str]:
    """A key for every image; two images have one key when a chain of equal groups and equal pixels joins them.

    What a model learns of one of them it knows of the others. An image without group or without sha256 is joined by
    the other of the two, or stands alone. The key is the first name of its chain, whatever the order of `rows`.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:  # union-find with path halving (Tarjan and van Leeuwen 1984)
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    own = [f"image {row.image_id}" for row in rows]
    for name, row in zip(own, rows, strict=True):
        for other in _shared_names(row):
            low, high = sorted((root(name), root(other)))
            parent[high] = low
    return [root(name) for name in own]


def _shared_names(row: Placed) -> Iterator[str]:
    """What an image may have in common with others."""
    if row.group is not None:
        yield f"group {row.group}"
    if row.sha256:
        yield f"pixels {row.sha256}"


def folds(keys: Sequence[str], k: int, seed: int, strata: Sequence[str | None] | None = None) -> NDArray[np.int64]:
    """The fold in 0..k-1 of every image, int64 (N,), such that images of one key (see `units`) stand in one fold.

    Stratified by `strata` (such as classes): one stratum after another, the largest group of images first, each to the
    fold with the fewest images of the stratum, of these to the smallest. So every stratum of k groups or more stands
    in every fold. A group is of the stratum that most of its images have.
    Raises DataError when there are fewer groups than folds, ValueError when k < 2.
    """
    if k < 2:
        raise ValueError(f"expected k >= 2, got {k}")
    sizes = Counter(keys)
    if len(sizes) < k:
        raise DataError(
            f"{len(sizes)} groups of images cannot fill {k} folds (images of equal pixels are one group); "
            "name groups more finely or lower rounds.folds"
        )
    filled = [0] * k
    placed: dict[str, int] = {}
    for members in sorted(_members(keys, strata or [None] * len(keys)), key=lambda m: -sum(sizes[key] for key in m)):
        of_stratum = [0] * k
        for key in sorted(members, key=lambda key: (-sizes[key], derive_seed(seed, "fold", key), key)):
            fold = min(range(k), key=lambda fold: (of_stratum[fold], filled[fold]))
            placed[key] = fold
            of_stratum[fold] += sizes[key]
            filled[fold] += sizes[key]
    return np.array([placed[key] for key in keys], dtype=np.int64)


def _sizes(groups: Sequence[str | None]) -> tuple[list[str], Counter[str]]:
    """A key for every image, and the images of each key; images without a group have a key of their own."""
    keys = [f"image {i}" if group is None else f"group {group}" for i, group in enumerate(groups)]
    return keys, Counter(keys)


def _places(found: Mapping[str, str]) -> str:
    return " and ".join(f"{image_id!r} in {place}" for place, image_id in found.items())
