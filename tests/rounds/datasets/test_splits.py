"""Splits: groups stay whole, draws are stable, leaks are found and named."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from cellsemi.configs.errors import DataError
from cellsemi.rounds.datasets.splits import (
    draw_labelled,
    duplicates,
    folds,
    grouped_split,
    leak_check,
    placed_table,
    units,
)
from cellsemi.rounds.store.schemas import ImageRecord

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
# A busy machine is not a fault of the code: no deadline, no complaint about slow draws.
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.one_of(st.none(), st.sampled_from("abcdefgh"))


def row(image_id: str, split: str, group: str | None = None, sha256: str = "") -> ImageRecord:
    return ImageRecord(image_id, 1, 1, split, group=group, sha256=sha256 or image_id)


def test_no_leak_where_training_shares_groups_and_a_split_repeats_a_picture() -> None:
    rows = [
        row("a", "labelled", "well1"),
        row("b", "unlabelled", "well1"),
        row("c", "unlabelled", sha256="same"),
        row("d", "unlabelled", sha256="same"),
        row("e", "val", "well2"),
        row("f", "test", None),
        row("g", "val", None),
    ]
    leak_check(placed_table(rows))
    assert duplicates(placed_table(rows)) == {"labelled": 0, "unlabelled": 1, "val": 0, "test": 0}


@pytest.mark.parametrize("splits", [("labelled", "test"), ("unlabelled", "val"), ("val", "test")])
def test_a_group_on_two_sides_is_a_leak(splits: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"group 'w 7': 'one\[1\]' in .* and 'two' in"):
        leak_check(
            placed_table([row("one[1]", splits[0], "w 7"), row("x", splits[0], "w 7"), row("two", splits[1], "w 7")])
        )


@pytest.mark.parametrize("splits", [("unlabelled", "test"), ("labelled", "unlabelled"), ("val", "test")])
def test_the_same_picture_in_two_splits_is_a_leak(splits: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=rf"same pixels: 'one' in {splits[0]} and 'two' in {splits[1]}"):
        leak_check(placed_table([row("one", splits[0], sha256="f00"), row("two", splits[1], sha256="f00")]))


def test_many_leaks_are_counted_not_dropped() -> None:
    rows = [row(f"{split}{i}", split, f"g{i}") for i in range(12) for split in ("val", "test")]
    with pytest.raises(DataError, match="and 7 more"):
        leak_check(placed_table(rows))


@patient
@given(st.lists(st.text(min_size=1), unique=True, min_size=1), st.integers(0, 5), st.data())
def test_smaller_draws_are_part_of_larger_ones_whatever_the_order(
    ids: list[str], seed: int, data: st.DataObject
) -> None:
    few, many = sorted(data.draw(st.tuples(*[st.integers(1, len(ids))] * 2)))
    strata = data.draw(st.sampled_from([None, [str(len(i) % 3) for i in ids]]))
    small, large = (draw_labelled(ids, limit, seed, strata) for limit in (few, many))
    assert len(small) == few and set(small) <= set(large) <= set(ids)
    backwards = draw_labelled(ids[::-1], few, seed, strata and strata[::-1])
    assert backwards == small == sorted(small)


def test_draws_differ_by_seed_and_every_image_is_drawn_by_some() -> None:
    ids = [f"im{i}" for i in range(20)]
    drawn = Counter(i for seed in range(200) for i in draw_labelled(ids, 4, seed))
    assert set(drawn) == set(ids)
    assert min(drawn.values()) > 15 and max(drawn.values()) < 70  # 40 expected, standard deviation 5.7


def test_strata_take_turns() -> None:
    ids = [f"im{i:02d}" for i in range(20)]
    strata = ["astro" if i < 2 else "cort" if i < 5 else "shsy5y" for i in range(20)]
    by_id = dict(zip(ids, strata, strict=True))
    for seed in range(5):
        counts = [Counter(by_id[i] for i in draw_labelled(ids, n, seed, strata)) for n in (3, 9)]
        assert counts == [
            {"astro": 1, "cort": 1, "shsy5y": 1},
            {"astro": 2, "cort": 3, "shsy5y": 4},
        ]


def test_a_limit_above_what_is_there_is_refused() -> None:
    assert draw_labelled(["b", "a"], None, 0) == ["a", "b"]
    with pytest.raises(DataError, match="labelled_limit is 3, but there are 2"):
        draw_labelled(["b", "a"], 3, 0)


@patient
@given(st.lists(names, min_size=10, max_size=60), st.integers(0, 3))
def test_splits_keep_groups_whole_and_leave_none_empty(groups: list[str | None], seed: int) -> None:
    if len({g for g in groups if g} | {i for i, g in enumerate(groups) if g is None}) < 3:
        with pytest.raises(DataError, match="cannot fill 3 splits"):
            grouped_split(groups, FRACTIONS, seed)
        return
    found = grouped_split(groups, FRACTIONS, seed)
    assert len(found) == len(groups) and set(found) == set(FRACTIONS)
    assert len({(g, s) for g, s in zip(groups, found, strict=True) if g}) == len({g for g in groups if g})
    assert found == grouped_split(groups, FRACTIONS, seed)


def test_splits_come_near_their_shares_and_depend_on_the_seed() -> None:
    groups = [f"well{i // 4}" for i in range(400)]
    found = grouped_split(groups, FRACTIONS, 0)
    assert Counter(found) == {"train": 280, "val": 60, "test": 60}
    assert found != grouped_split(groups, FRACTIONS, 1)


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5, "b": 0.4}, {"a": 1.0, "b": 0.0}])
def test_shares_must_make_a_whole(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        grouped_split(["x", "y"], fractions, 0)


classed = st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from("xyz")), min_size=1, max_size=60)


@patient
@given(classed, st.integers(2, 4), st.integers(0, 3))
def test_folds_keep_groups_whole_and_are_near_in_size(images: list[tuple[str, str]], k: int, seed: int) -> None:
    keys, classes = [key for key, _ in images], [kind for _, kind in images]
    sizes = Counter(keys)
    if len(sizes) < k:
        with pytest.raises(DataError, match=f"cannot fill {k} folds"):
            folds(keys, k, seed, classes)
        return
    found = folds(keys, k, seed, classes)
    assert set(found.tolist()) == set(range(k)), "no fold is empty"
    assert len(set(zip(keys, found.tolist(), strict=True))) == len(sizes)
    alone = Counter(folds(keys, k, seed).tolist())
    assert max(alone.values()) - min(alone.values()) <= max(sizes.values())


@patient
@given(st.lists(st.sampled_from("xyz"), min_size=4, max_size=60), st.integers(2, 4), st.integers(0, 3))
def test_folds_of_single_images_have_each_class_in_equal_parts(classes: list[str], k: int, seed: int) -> None:
    found = folds([f"image {i}" for i in range(len(classes))], k, seed, classes)
    filled = Counter(found.tolist())
    assert max(filled.values()) - min(filled.values()) <= 1
    for kind in set(classes):
        there = Counter(fold for fold, other in zip(found.tolist(), classes, strict=True) if other == kind)
        counts = [there[fold] for fold in range(k)]
        assert max(counts) - min(counts) <= 1


def test_every_class_of_enough_groups_stands_in_every_fold() -> None:
    """Three wells of each class, one of them large: by size alone the fold of the large one would get nothing else."""
    sizes = {"a1": 6, "a2": 1, "a3": 1, "b1": 2, "b2": 2, "b3": 2}
    keys = [name for name, count in sizes.items() for _ in range(count)]
    for seed in range(20):
        found = folds(keys, 3, seed, [key[0] for key in keys])
        for kind in "ab":
            assert {fold for key, fold in zip(keys, found.tolist(), strict=True) if key[0] == kind} == {0, 1, 2}


def test_folds_are_drawn_by_the_seed() -> None:
    keys = [f"image {i}" for i in range(11)]
    assert folds(keys, 3, 0).tolist() != folds(keys, 3, 1).tolist()
    assert sorted(Counter(folds(keys, 3, 0).tolist()).values()) == [3, 4, 4]
    with pytest.raises(ValueError, match="k >= 2"):
        folds(keys, 1, 0)


placed = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 9)), st.one_of(st.just(""), st.integers(0, 9).map(str))), max_size=25
)


@patient
@given(placed, st.randoms(use_true_random=False))
def test_units_are_the_connected_components_of_groups_and_pixels(images, random) -> None:  # type: ignore[no-untyped-def]
    """Against scipy's components of the graph in which two images with a group or pixels in common are joined."""
    rows = [
        ImageRecord(f"i{n}", 1, 1, "labelled", group=None if g is None else f"g{g}", sha256=p)
        for n, (g, p) in enumerate(images)
    ]
    if not rows:
        assert units(rows) == []
        return
    joined = [
        [(a.group is not None and a.group == b.group) or (bool(a.sha256) and a.sha256 == b.sha256) for b in rows]
        for a in rows
    ]
    _, expected = connected_components(np.array(joined), directed=False)
    found = units(rows)
    assert len(set(zip(found, expected.tolist(), strict=True))) == len(set(found)) == len(set(expected.tolist()))
    shuffled = random.sample(rows, len(rows))
    again = dict(zip((row.image_id for row in shuffled), units(shuffled), strict=True))
    assert found == [again[row.image_id] for row in rows], "whatever the order"


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), min_size=3, max_size=60), st.integers(0, 3))
def test_every_class_of_enough_groups_stands_in_every_split(images: list[tuple[int, str]], seed: int) -> None:
    """The class is that of the group, as with wells of one cell type."""
    groups = [f"{kind}{number}" for number, kind in images]
    classes = [kind for _, kind in images]
    if len(set(groups)) < 3:
        return
    found = grouped_split(groups, {"labelled": 0.7, "val": 0.15, "test": 0.15}, seed, classes)
    assert len({(group, split) for group, split in zip(groups, found, strict=True)}) == len(set(groups))
    assert len(set(found)) == 3
    for kind in set(classes):
        if len({group for group in groups if group[0] == kind}) >= 3:
            assert len({split for split, other in zip(found, classes, strict=True) if other == kind}) == 3
