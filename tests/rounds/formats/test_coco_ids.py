"""Ids of a COCO file whose types do not agree, and annotations whose image is not listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.coco_files import SQUARE, H, W, build, cell, document, loaded, opened

from cellsemi.configs.errors import DataError
from cellsemi.rounds.datasets.check_files import check_coco
from cellsemi.rounds.formats.coco.reader import ORPHANS


def images(*ids: Any) -> list[dict[str, Any]]:
    return [{"id": image, "file_name": f"{i}.png", "height": H, "width": W} for i, image in enumerate(ids)]


def cells_of_each(root: Path, listed: list[Any], named: list[Any], categories: list[Any] | None = None) -> list[int]:
    """How many cells each image gets whose annotations name these ids."""
    kinds = categories or [7] * len(named)
    annotations = [cell(i, image, [SQUARE], kind) for i, (image, kind) in enumerate(zip(named, kinds, strict=True))]
    build(root, document(annotations, images(*listed)), tuple(f"{i}.png" for i in range(len(listed))))
    found = [item.record.instances for item in loaded(root).values()]
    return [len(cells) for cells in found if cells is not None]


@pytest.mark.parametrize(
    ("listed", "named", "counts"),
    [
        ([1, 2], ["1", "2", 2], [1, 1]),  # 2 and "2" are both used: not one to one
        ([1, 2], ["1", "1", "2"], [2, 1]),
        (["1", "2"], [1, 2, 2], [1, 2]),
        (["1", 1], ["1", 1, 1], [1, 2]),  # both are listed
        ([1], [1, "01", " 1"], [1]),
        (["a", -3], ["a", "-3"], [1, 0]),
    ],
)
def test_numbers_and_texts_match_where_that_is_one_to_one(
    tmp_path: Path, listed: list[Any], named: list[Any], counts: list[int]
) -> None:
    assert cells_of_each(tmp_path, listed, named) == counts
    assert opened(tmp_path).left_out.get(ORPHANS, 0) == len(named) - sum(counts)


def test_categories_match_in_the_same_way(tmp_path: Path) -> None:
    assert cells_of_each(tmp_path, [1], [1, 1], ["7", 3]) == [2]
    (item,) = loaded(tmp_path).values()
    assert item.record.instances is not None and item.classes == ("astro", "neuron")
    assert [item.classes[i] for i in item.record.instances.class_id] == ["neuron", "astro"]


def test_orphans_are_counted_and_a_file_of_nothing_else_is_refused(tmp_path: Path) -> None:
    assert cells_of_each(tmp_path, [1, 2], [1, 9, 9, 2, 8]) == [1, 1]
    assert opened(tmp_path).left_out == {ORPHANS: 3}
    assert f"3 {ORPHANS}" in next(problem.problem for problem in check_coco(tmp_path / "a.json").problems)
    with pytest.raises(DataError, match=r"annotation 1 .id 0.: image_id 9 is not in 'images'"):
        cells_of_each(tmp_path / "b", [1, 2], [9, 8])
