"""Names of the data set to classes of the run: said by the config, never guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.datasets.class_names import IGNORED, ClassNames
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.store.schemas import ImageRecord

LABELS = np.array([[1, 1, 0, 2], [0, 0, 0, 3]])


def names(*classes: str, **options: Any) -> ClassNames:
    return ClassNames(DataConfig(classes=classes, **options))


def loaded(class_id: Any = 0, classes: tuple[str, ...] = (), **options: Any) -> Loaded:
    cells = masks.from_label_map(LABELS, class_id=class_id, state="human")
    return Loaded(ImageRecord("a", 2, 4, "", instances=cells, **options), classes)


def item(cell_type: str | None = None) -> Item:
    return Item("a", "labelled", "list.csv, line 3", loaded, cell_type)


@pytest.mark.parametrize(
    ("name", "found"),
    [("astro", 0), ("neuron", 1), ("cort", 1), ("junk", IGNORED), ("anything", None)],
)
def test_a_name_is_mapped_then_looked_up(name: str, found: int | None) -> None:
    assert names("astro", "cort", class_map={"neuron": "cort", "junk": "ignore"}).find(name) == found


def test_a_star_takes_every_name_that_is_not_said_otherwise() -> None:
    known = names("cell", "dead", class_map={"*": "cell", "debris": "ignore"})
    assert [known.find(name) for name in ("x", "dead", "debris", "cell")] == [0, 1, IGNORED, 0]


def test_cells_take_their_own_class() -> None:
    found = names("cort", "astro").apply(loaded([0, 1, 0], ("astro", "cort")), item("cort"))
    assert found is not None and found.class_id.tolist() == [1, 0, 1]


def test_cells_without_a_class_take_that_of_the_image_or_the_only_one() -> None:
    found = names("cort", "astro").apply(loaded(), item("astro"))
    assert found is not None and found.class_id.tolist() == [1, 1, 1]
    alone = names("cell").apply(loaded(), item())
    assert alone is not None and alone.class_id.tolist() == [0, 0, 0]


def test_a_class_that_nothing_states_is_an_image_error_with_the_remedy() -> None:
    with pytest.raises(ImageError, match=r"line 3: nothing says which of cort, astro .*data\.class_column"):
        names("cort", "astro").apply(loaded(), item())


def test_cells_that_are_all_ignored_need_no_class() -> None:
    bare = loaded()
    assert bare.record.instances is not None
    crowd = Loaded(bare.record.with_(instances=bare.record.instances.with_(state="ignored")))
    found = names("cort", "astro").apply(crowd, item())
    assert found is not None and set(found.state) == {"ignored"}


def test_ignored_classes_give_ignored_cells() -> None:
    known = names("cell", class_map={"junk": "ignore"})
    found = known.apply(loaded([0, 1, 0], ("junk", "cell")), item())
    assert found is not None and found.state == ("ignored", "human", "ignored")
    assert known.image_class(item("junk")) is None


def test_only_the_names_that_cells_use_must_be_known() -> None:
    found = names("cell").apply(loaded([1, 1, 1], ("nobody", "cell")), item())
    assert found is not None and found.class_id.tolist() == [0, 0, 0]
    with pytest.raises(ImageError, match="class 'nobody', expected one of cell"):
        names("cell").apply(loaded([0, 1, 1], ("nobody", "cell")), item())


def test_an_unknown_class_of_a_listing_names_the_place_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"list\.csv, line 3: class 'x', expected one of cell .*class_map"):
        names("cell").image_class(item("x"))
    with pytest.raises(DataError, match=r"d: classes 'x', 'y', expected one of cell"):
        names("cell").check_listing(["y", "cell", "x"], "d")
    assert names("cell").image_class(item()) is None


def test_images_without_annotation_stay_without() -> None:
    bare = Loaded(ImageRecord("a", 2, 4, ""))
    assert names("cort", "astro").apply(bare, item()) is None
