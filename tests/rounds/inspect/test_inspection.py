"""The figures of a data set against figures counted by hand, the hints, and the picture."""

from __future__ import annotations

import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import GREY, PALETTE
from cellsemi.rounds.datasets.open import Opened
from cellsemi.rounds.drawing import scaled
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.inspect.advice import Hint, hints
from cellsemi.rounds.inspect.statistics import Inspection, discover_classes, examples, inspect, spread
from cellsemi.rounds.report.contact_sheet import GAP_PX, PANEL_PX, TITLE_PX, WINDOW_PX, Panel, contact_sheet, windows
from cellsemi.rounds.store.image_codec import decode_image, intensity_range, pixel_sha256, to_png
from cellsemi.rounds.store.schemas import ImageRecord

HEIGHT, WIDTH = 20, 30


def cell(*boxes: tuple[int, int, int, int], hole: tuple[int, int] | None = None) -> tuple[NDArray[np.bool_], int, int]:
    """A mask of boxes (x0, y0, x1, y1), without the pixel `hole`, as a crop of the whole image."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    if hole:
        mask[hole[1], hole[0]] = False
    return mask, 0, 0


def record(name: str, crops: list[Any] | None, pixels: NDArray[Any] | None = None, **columns: Any) -> ImageRecord:
    image = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) if pixels is None else pixels
    low, high = intensity_range(image)
    cells = None if crops is None else masks.from_crops(HEIGHT, WIDTH, crops, **{"state": "human", **columns})
    return ImageRecord(
        name, *image.shape[:2], "", image=to_png(image), source=f"{name}.png", sha256=pixel_sha256(image),
        dtype=image.dtype.name, low=low, high=high, instances=cells,
    )  # fmt: skip


def item(name: str, split: Any, loaded: Loaded | ImageError, **more: Any) -> Item:
    def load() -> Loaded:
        if isinstance(loaded, ImageError):
            raise loaded
        return loaded

    return Item(name, split, f"row of {name}", load, **more)


def small_set() -> list[Item]:
    a = [cell((0, 0, 5, 5), hole=(2, 2)), cell((4, 0, 8, 2)), cell((20, 10, 21, 11))]
    a.append(cell((10, 10, 12, 12), (15, 10, 16, 12)))
    twice = [cell((0, 0, 3, 3)), cell((0, 0, 3, 3))]
    d = [cell((1, 1, 9, 9)), cell((0, 0, 2, 2))]
    colour = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colour[..., 1] = 7
    names = ("round", "long")
    loaded = {
        "a": Loaded(record("a", a, class_id=[0, 1, 1, 0]), names),
        "b": Loaded(record("b", twice), repeated=2),
        "c": Loaded(record("c", [], colour)),
        "d": Loaded(record("d", d, state=["ignored", "human"], class_id=1), names),
        "e": Loaded(record("e", None, np.ones((8, 9), np.uint8))),
    }
    return [
        item("a", "labelled", loaded["a"], group="w1"),
        item("b", "labelled", loaded["b"], cell_type="long", group="w1"),
        item("c", "val", loaded["c"], group="w2"),
        item("d", "val", loaded["d"], group="w2"),
        item("e", "unlabelled", loaded["e"]),
        item("f", "test", ImageError("f.png", "cannot be decoded", "copy it anew")),
    ]


def look(items: list[Item], limit: int | None = None, classes: tuple[str, ...] | None = None) -> Inspection:
    return inspect(Opened(tuple(items), classes, ("a note",)), DataConfig(), limit, lambda *_: None)[0]


def test_the_figures_are_those_of_the_images() -> None:
    found = look(small_set())
    assert found.listed == {"labelled": 2, "unlabelled": 1, "val": 2, "test": 1}
    assert (found.seen, found.sampled, found.annotated, found.never_annotated, found.empty) == (6, False, 4, 1, 1)
    assert found.classes == ("long", "round") and found.cells == 7 and found.notes == ("a note",)
    long, round = found.by_class["long"], found.by_class["round"]
    assert (long.images, long.cells, long.ignored, long.per_image) == (3, 5, 1, (1, 2, 2))
    assert list(long.area) == ["5", "25", "50", "75", "95"]
    assert list(long.area.values()) == np.percentile([8, 1, 9, 9, 4], [5, 25, 50, 75, 95]).tolist()
    assert (round.images, round.cells, round.area["50"]) == (1, 2, np.median([24, 6]))
    odd = found.masks
    assert (odd.overlap_max, odd.overlap_mean) == (9, (2 + 9 + 0 + 0) / 4)
    assert (odd.overlapping, odd.with_holes, odd.hole_pixels, odd.several_parts) == (4, 1, 1, 1)
    assert (odd.single_pixel, odd.duplicates, odd.repeated) == (1, 1, 2)
    assert found.same_pixels == 2  # b and d repeat a
    assert found.pixels == {"uint16 grey": 3, "uint8 colour": 1, "uint8 grey": 1}
    assert (found.sizes, found.height, found.width) == (2, (8, 20, 20), (9, 30, 30))
    assert (found.groups, found.group_images) == (2, (2, 2, 2))
    assert found.low is not None and found.low[0] == 1.0  # the constant image
    assert [(row.image_id, row.path, row.problem) for row in found.quarantined] == [
        ("f", "f.png", "cannot be decoded (copy it anew)")
    ]


def test_it_is_plain_values_as_json() -> None:
    found = look(small_set())
    assert json.loads(json.dumps(found.to_json()))["by_class"]["long"]["cells"] == 5


def test_overlaps_are_counted_as_with_full_arrays() -> None:
    random = np.random.default_rng(0)
    crops = []
    for _ in range(12):
        y, x = random.integers(0, HEIGHT - 6), random.integers(0, WIDTH - 6)
        crops.append((random.random((6, 6)) < 0.7, int(x), int(y)))
    loaded = record("a", crops)
    full = np.zeros((12, HEIGHT, WIDTH), bool)
    for i, (crop, x, y) in enumerate(crops):
        full[i, y : y + 6, x : x + 6] = crop
    shared = full.sum(0) > 1
    odd = look([item("a", "val", Loaded(loaded))]).masks
    assert odd.overlap_max == shared.sum() and odd.overlapping == sum((mask & shared).any() for mask in full)


def test_a_limit_looks_at_images_spread_over_the_listing() -> None:
    items = [item(f"{i:02d}", "val", Loaded(record(f"{i:02d}", []))) for i in range(10)]
    assert [each.image_id for each in spread(items, 4)] == ["00", "03", "06", "09"]
    found = look(items, 4)
    assert (found.seen, found.sampled, found.listed["val"], found.empty) == (4, True, 10, 4)


def test_an_empty_listing_has_figures() -> None:
    found = look([])
    assert (found.cells, found.height, found.classes, found.by_class) == (0, None, ("cell",), {})


def test_examples_take_turns_and_hold_cells() -> None:
    items = [item(f"{kind}{i}", "val", Loaded(record("x", [])), cell_type=kind) for kind in "ab" for i in range(5)]
    counts = {each.image_id: Counter({"cell": i} if i else {}) for i, each in enumerate(items)}  # a0 has none
    chosen = examples(items, counts, 4)
    assert len(set(chosen)) == 4 and sorted(name[0] for name in chosen) == ["a", "a", "b", "b"] and "a0" not in chosen
    assert examples(items, counts, 4) == chosen and examples(items, {}, 4) == []


def test_examples_show_every_class_and_what_is_ignored() -> None:
    held = {"a": "x", "b": "x", "c": "xy", "d": "xi", "e": "z", "f": "x"}
    items = [item(name, "val", Loaded(record(name, []))) for name in held]
    of = {name: Counter(dict.fromkeys(letters, 5)) for name, letters in held.items()}
    assert {"c", "d", "e"} <= set(examples(items, of, 4)) and len(examples(items, of, 4)) == 4
    assert set(examples(items, of, 1)) == {"c", "d", "e"}  # more, where fewer do not show all


def test_a_large_image_is_shown_in_as_many_parts_as_its_classes_need() -> None:
    size = 3 * WINDOW_PX
    boxes = [(10, 10), (30, 12), (size - 40, size - 40), (size - 40, 10)]
    crops = [(np.ones((9, 9), bool), x, y) for x, y in boxes]
    cells = masks.from_crops(size, size, crops, class_id=[0, 0, 1, 2])
    of_cell = ["a", "a", "b", "to be ignored"]
    found = windows(cells, of_cell, set(of_cell))
    assert len(found) == 3
    for rows, columns in found:
        assert rows.stop - rows.start == columns.stop - columns.start == WINDOW_PX
    seen = {kind for kind, (x, y) in zip(of_cell, boxes, strict=True) for rows, columns in found
            if rows.start <= y and y + 9 <= rows.stop and columns.start <= x and x + 9 <= columns.stop}  # fmt: skip
    assert seen == set(of_cell)
    assert len(windows(cells, of_cell, {"a"})) == 1 and len(windows(cells, of_cell, ())) == 1
    small = masks.from_crops(20, 20, [(np.ones((3, 3), bool), 2, 2)])
    assert windows(small, ["a"], {"a"}) == [(slice(0, 20), slice(0, 20))]


def texts(found: Inspection, data: DataConfig) -> str:
    return "\n".join(hint.text for hint in hints(found, data))


def test_hints_that_recommend_a_setting_name_its_path_and_value() -> None:
    found = {hint.setting: hint.value for hint in hints(look(small_set()), DataConfig(class_column="kind"))}
    del found[""]
    assert found == {
        "data.one_class_per_image": True,
        "data.clean.fill_holes": True,
        "data.clean.parts": "largest",
        "data.clean.drop_duplicates": True,
        "data.clean.min_area_px": 2,
    }


def test_hints_name_the_setting_that_follows() -> None:
    data = DataConfig()
    told = texts(look(small_set()), data)
    for words in (
        "only 2 groups",
        "14% of the masks have holes: --set data.clean.fill_holes=true",
        "14% of the masks are in several parts",
        "1 masks stand in their image twice",
        "1 cells are a single pixel",
        "57% of the cells overlap",
        "2 images repeat the pixels",
        "half of the cells of long are smaller than 20 px",
        "several kinds",
        "16-bit",
    ):
        assert words in told, words
    mended = DataConfig(clean={"fill_holes": True, "parts": "split", "drop_duplicates": True})
    fewer = texts(look(small_set()), mended)
    assert "fill_holes" not in fewer and "several parts" not in fewer and "twice" not in fewer


def test_a_clean_set_with_groups_and_a_pool_has_no_hints() -> None:
    crops = [cell((0, 0, 9, 9)), cell((12, 0, 21, 9))]
    pixels = np.arange(HEIGHT * WIDTH, dtype=np.int64).reshape(HEIGHT, WIDTH)
    items = []
    for i, split in enumerate(("labelled", "val", "test", "unlabelled")):
        loaded = record(split, None if split == "unlabelled" else crops, (pixels % (50 + i)).astype(np.uint8))
        items.append(item(split, split, Loaded(loaded), group=split))
    few = "only 1 validation image decides thresholds and promotion, too few to tell a gain from chance"
    folds = "rounds.folds: 2 would let all 2 labelled images decide, at 2 times the training"
    assert hints(look(items), DataConfig()) == [Hint(f"{few}; {folds}")]
    assert hints(look(items), DataConfig(), folds=2)[0].text.startswith("all 2 labelled images decide")


def test_missing_splits_groups_and_too_many_bad_images_are_hinted_at() -> None:
    items = [item("a", "labelled", ImageError("a", "bad")), item("b", "labelled", Loaded(record("b", [])))]
    told = texts(look(items), DataConfig())
    for words in ("no val and no test", "no unlabelled", "no group", "50% of the images", "no image holds a cell"):
        assert words in told


def test_classes_of_a_manifest_and_of_nothing(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "manifest.csv").write_text("id,split,kind\na,val,long\nb,test,a round one\n", encoding="utf-8")
    data = DataConfig(source="label-maps", root=str(tmp_path), class_column="kind")
    assert discover_classes(data) == ["a round one", "long"]
    assert discover_classes(DataConfig(source="label-maps", root=str(tmp_path))) == ["cell"]


# --- the picture --------------------------------------------------------------------------------------


def sheet(*panels: Panel) -> NDArray[np.uint8]:
    content = contact_sheet(panels)
    assert contact_sheet(panels) == content
    return np.asarray(Image.open(BytesIO(content)))


def panel(name: str, crops: list[Any], classes: tuple[str, ...] = ("cell",), **columns: Any) -> Panel:
    loaded = record(name, crops, np.zeros((HEIGHT, WIDTH), np.uint8), **columns)
    assert loaded.instances is not None
    return Panel(loaded, loaded.instances, classes, "val")


def colours(picture: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def test_a_sheet_is_as_large_as_its_panels_need() -> None:
    one = sheet(panel("a", [cell((2, 2, 8, 8))]))
    four = sheet(*(panel(name, [cell((2, 2, 8, 8))]) for name in "abcd"))
    assert one.shape[1] == PANEL_PX + 2 * GAP_PX and four.shape[1] > 3 * PANEL_PX
    assert four.shape[0] > 1.8 * one.shape[0]
    with pytest.raises(ValueError, match="at least one panel"):
        contact_sheet([])


def test_neighbours_differ_and_classes_and_ignored_cells_have_their_colours() -> None:
    near = sheet(panel("a", [cell((2, 2, 8, 8)), cell((8, 2, 14, 8))]))
    assert len(colours(near) & set(PALETTE)) == 2
    crops = [cell((2, 2, 8, 8)), cell((12, 2, 18, 8)), cell((22, 2, 28, 8))]
    by_class = sheet(panel("a", crops, ("x", "y"), class_id=[0, 1, 1], state=["human", "human", "ignored"]))
    assert colours(by_class) & {*PALETTE, GREY} == {PALETTE[0], PALETTE[1], GREY}


def test_the_outline_stands_where_the_cell_is() -> None:
    picture = sheet(panel("a", [cell((3, 5, 9, 12))]))
    inside = picture[GAP_PX + TITLE_PX :, GAP_PX:][: HEIGHT * 16, : WIDTH * 16]
    rows, columns = np.nonzero((inside == PALETTE[0]).all(2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (48, 80, 144, 192)


def test_a_large_image_is_shown_around_its_cells_and_any_name_can_be_written() -> None:
    size = WINDOW_PX + 500
    labels = np.zeros((40, size), np.int32)
    labels[10:30, -60:-20] = 1
    pixels = np.zeros((40, size, 3), np.uint8)
    loaded = ImageRecord("細胞 [1]" * 30, 40, size, "", image=to_png(pixels + np.uint8([1, 2, 3])), low=0.0, high=0.0)
    picture = sheet(Panel(loaded, masks.from_label_map(labels), ("cell",), "val"))
    assert colours(picture) & set(PALETTE) == {PALETTE[0]}
    with pytest.raises(ImageError):
        contact_sheet([Panel(loaded.with_(image=b"x"), Instances.empty(40, size), ("cell",), "val")])


def test_a_picture_keeps_grey_values_between_its_range() -> None:
    shown = scaled(np.array([[0, 50, 100, 200]], np.uint8), 50.0, 100.0)
    assert shown[0, :, 0].tolist() == [0, 0, 255, 255] and decode_image(to_png(shown), "x").shape == (1, 4)
