"""A data section as a list of images: parts, drawn splits, the pool, ids that stand twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.loading import load_config
from cellsemi.configs.presets.preset_files import preset_names
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets import open
from cellsemi.rounds.formats import registry
from cellsemi.rounds.formats.base import at, parts_of
from cellsemi.rounds.store.image_codec import to_png


def write_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_png(np.full((6, 8), number, np.uint8)))


def paired(root: Path, **options: Any) -> DataConfig:
    options.setdefault("images", "images")
    return DataConfig(source="paired", root=str(root), **options)


def test_one_place_stands_for_every_split(tmp_path: Path) -> None:
    data = paired(tmp_path, images="i", masks={"labelled": "m1", "val": "m2"})
    assert [(part.split, part.images, part.masks) for part in parts_of(data)] == [(None, "i", "m1"), ("val", "i", "m2")]
    assert at({"labelled": "a"}, "test") == "a" and at({"labelled": "a"}, "unlabelled") is None


def test_a_split_is_drawn_unless_val_and_test_are_both_named(tmp_path: Path) -> None:
    folders = {"labelled": "a", "val": "b", "test": "c", "unlabelled": "d"}
    assert [part.split for part in parts_of(paired(tmp_path, images=folders))] == ["labelled", "val", "test"]
    assert [part.split for part in parts_of(paired(tmp_path, images="a"))] == [None]


def make_pairs(root: Path, count: int) -> None:
    names = [f"well{i // 3}_{i:02d}.png" for i in range(count)]
    write_images(root / "images", *names)
    for name in names:
        (root / "masks").mkdir(exist_ok=True)
        labels = np.zeros((6, 8), np.uint8)
        labels[1:3, 1:4] = 1
        (root / "masks" / name.replace(".png", "_masks.png")).write_bytes(to_png(labels))


def test_splits_are_drawn_by_group_and_do_not_hang_on_the_seed_of_the_run(tmp_path: Path) -> None:
    make_pairs(tmp_path, 30)
    data = paired(tmp_path, group_pattern="(well[0-9]+)_")
    first, second = (open.list_data(data, seed).items for seed in (0, 7))
    assert [(i.image_id, i.split) for i in first] == [(i.image_id, i.split) for i in second]
    sides = {item.group: {other.split for other in first if other.group == item.group} for item in first}
    assert all(len(splits) == 1 for splits in sides.values()) and len(sides) == 10
    assert {item.split for item in first} == {"labelled", "val", "test"}
    other = open.list_data(paired(tmp_path, group_pattern="(well[0-9]+)_", split_seed=1), 0).items
    assert [i.split for i in other] != [i.split for i in first]
    (note,) = open.list_data(data, 0).notes
    assert "30 annotated images were drawn into" in note and "by 10 groups" in note


def test_the_pool_comes_from_its_own_folder_with_class_and_group_from_the_names(tmp_path: Path) -> None:
    make_pairs(tmp_path, 6)
    write_images(tmp_path / "pool", "astro[x]_w1_0.png", "sub/cort_w2_0.png")
    data = paired(
        tmp_path,
        images={"labelled": "images", "unlabelled": "pool"},
        class_pattern="(astro|cort)",
        group_pattern="_(w[0-9])_",
        classes=("astro", "cort"),
    )
    pool = [item for item in open.list_data(data, 0).items if item.split == "unlabelled"]
    assert [(i.image_id, i.cell_type, i.group) for i in pool] == [
        ("astro[x]_w1_0", "astro", "w1"),
        ("cort_w2_0", "cort", "w2"),
    ]
    assert pool[0].load().record.image == (tmp_path / "pool" / "astro[x]_w1_0.png").read_bytes()


def test_an_empty_pool_is_refused_and_its_ids_are_told_from_annotated_ones(tmp_path: Path) -> None:
    make_pairs(tmp_path, 6)
    (tmp_path / "pool").mkdir()
    data = paired(tmp_path, images={"labelled": "images", "unlabelled": "pool"})
    with pytest.raises(DataError, match=r"pool: no images"):
        open.list_data(data, 0)
    write_images(tmp_path / "pool", "well0_00.png")
    opened = open.list_data(data, 0)
    assert opened.pool == {"pool__well0_00": "pool/well0_00.png"}
    record = next(item for item in opened.items if item.split == "unlabelled").load().record
    assert record.image_id == "pool__well0_00" and "well0_00" in {item.image_id for item in opened.items}


def test_names_that_repeat_in_sub_folders_become_distinct_ids(tmp_path: Path) -> None:
    make_pairs(tmp_path, 6)
    write_images(tmp_path / "pool", "p1/001.png", "p2/001.png", "p2/002.png")
    data = paired(tmp_path, images={"labelled": "images", "unlabelled": "pool"})
    pool = [item.image_id for item in open.list_data(data, 0).items if item.split == "unlabelled"]
    assert sorted(pool) == ["002", "p1__001", "p2__001"]


@pytest.mark.parametrize("name", [name for name in preset_names() if name != "demo"])
def test_every_preset_loads_once_its_folder_is_named(name: str, tmp_path: Path) -> None:
    config = load_config(name, [f"data.root={tmp_path}"]).config
    assert isinstance(config, Config) and config.run.name == name
    assert registry.reader_of(config.data.source)


def test_too_few_images_to_draw_from_are_refused_or_only_looked_at(tmp_path: Path) -> None:
    make_pairs(tmp_path, 2)
    data = paired(tmp_path)
    with pytest.raises(DataError, match=r"2 annotated images cannot be drawn into labelled, val, test.*data\.images"):
        open.list_data(data, 0)
    opened = open.list_data(data, 0, must_draw=False)
    assert [item.split for item in opened.items] == ["labelled", "labelled"] and "cannot be drawn" in opened.notes[0]


def test_linked_folders_are_followed_once_and_none_outside_is_named(tmp_path: Path) -> None:
    make_pairs(tmp_path / "data", 6)
    write_images(tmp_path / "disk", "x.png")
    (tmp_path / "data" / "pool").mkdir()
    (tmp_path / "data" / "pool" / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "data" / "pool" / "y.png").symlink_to(tmp_path / "disk" / "x.png")  # a linked file is read too
    data = paired(tmp_path / "data", images={"labelled": "images", "unlabelled": "pool"})
    assert [i.image_id for i in open.list_data(data, 0).items if i.split == "unlabelled"] == ["x", "y"]
    for name in ("../disk", str(tmp_path / "disk")):
        data = paired(tmp_path / "data", images={"labelled": "images", "unlabelled": name})
        with pytest.raises(DataError, match=r"data\.images\.unlabelled: .* leads out of"):
            open.list_data(data, 0)


def test_a_pattern_that_tries_without_end_is_refused(tmp_path: Path) -> None:
    make_pairs(tmp_path, 6)
    write_images(tmp_path / "pool", "a" * 40 + ".png")
    data = paired(tmp_path, images={"labelled": "images", "unlabelled": "pool"}, group_pattern="^(?:pool/)?((?:a+)+)!$")
    with pytest.raises(DataError, match=r"tries for more than 1 s on 'pool/a+.png'.*\(a\+\)\+"):
        open.list_data(data, 0)
