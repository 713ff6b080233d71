"""Generated cells: one seed gives one set of bytes, classes differ, wells matter, masks fit the picture."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from cellsemi.configs.data import GeneratedConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.datasets.splits import leak_check, placed_table
from cellsemi.rounds.datasets.synthetic import cell_type, generate, hidden_truth, image_ids, make
from cellsemi.rounds.store.image_codec import decode_image, pixel_sha256
from cellsemi.rounds.store.schemas import ImageRecord

CLASSES = ("shsy5y", "astro", "cort")
SMALL = GeneratedConfig(labelled=6, unlabelled=6, val=3, test=3)
COUNTS = {"shsy5y": (20, 40), "astro": (4, 9), "cort": (8, 20)}


@pytest.fixture(scope="module")
def records() -> list[ImageRecord]:
    return list(generate(SMALL, CLASSES, seed=0))


def test_every_split_is_filled_and_the_classes_take_turns(records: list[ImageRecord]) -> None:
    assert Counter(r.split for r in records) == {"labelled": 6, "unlabelled": 6, "val": 3, "test": 3}
    assert Counter((r.split, r.cell_type) for r in records)["labelled", "astro"] == 2
    assert [r.image_id for r in records if r.split == "val"] == image_ids(SMALL, "val")
    assert len({r.sha256 for r in records}) == len(records)
    leak_check(placed_table(records))


def test_a_record_is_what_its_table_says(records: list[ImageRecord]) -> None:
    for record in records:
        assert record.image is not None
        image = decode_image(record.image, record.image_id)
        assert image.shape == (record.height, record.width) == (192, 256) and image.dtype == np.uint8
        assert pixel_sha256(image) == record.sha256
        assert (image == 0).mean() < 0.01 and (image == 255).mean() < 0.01 and image.std() > 5


def test_only_the_pool_hides_its_cells_and_they_can_be_made_again(records: list[ImageRecord]) -> None:
    for record in records:
        truth = hidden_truth(SMALL, CLASSES, 0, record.image_id)
        assert (record.instances is None) == (record.split == "unlabelled")
        if record.instances is not None:
            assert truth.rle == record.instances.rle
        name = record.cell_type
        assert name is not None and set(truth.class_id) == {CLASSES.index(name)}
        assert set(truth.state) == {"human"}
        low, high = COUNTS[name]
        assert low <= len(truth) <= high


@pytest.mark.parametrize("image_id", ["unlabelled-00006", "labelled-0", "nothing", "x-00000", "val--1"])
def test_hidden_truth_of_an_image_that_was_never_made_is_refused(image_id: str) -> None:
    with pytest.raises(ValueError, match="not a generated image"):
        hidden_truth(SMALL, CLASSES, 0, image_id)


def test_an_image_depends_on_seed_split_and_index_and_on_nothing_else() -> None:
    first = make(SMALL, CLASSES, 3, "val", 1)
    more = SMALL.model_copy(update={"val": 50, "labelled": 9})
    assert make(more, CLASSES, 3, "val", 1) == first or make(more, CLASSES, 3, "val", 1).image == first.image
    others = [
        make(SMALL, CLASSES, 4, "val", 1),
        make(SMALL, CLASSES, 3, "test", 1),
        make(SMALL, CLASSES, 3, "val", 2),
    ]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 4


def test_the_classes_differ_in_size_and_shape() -> None:
    area: dict[str, list[float]] = {name: [] for name in CLASSES}
    filled: dict[str, list[float]] = {name: [] for name in CLASSES}
    for index in range(9):
        cells = hidden_truth(GeneratedConfig(), CLASSES, 1, f"unlabelled-{index:05d}")
        boxes = cells.bbox[:, 2:] - cells.bbox[:, :2]
        area[cell_type(CLASSES, index)] += cells.area.tolist()
        filled[cell_type(CLASSES, index)] += (cells.area / boxes.prod(axis=1)).tolist()
    median = {name: float(np.median(values)) for name, values in area.items()}
    extent = {name: float(np.median(values)) for name, values in filled.items()}
    assert median["astro"] > 3 * median["shsy5y"] and median["astro"] > 3 * median["cort"]
    assert extent["cort"] > 0.6 > extent["shsy5y"] and extent["cort"] > extent["astro"] + 0.15


def test_cells_are_in_one_piece_touch_and_overlap_a_little() -> None:
    overlapping = touching = 0
    for index in range(6):
        cells = hidden_truth(GeneratedConfig(), CLASSES, 2, f"unlabelled-{index:05d}")
        crops = masks.crops(cells)
        assert all(ndimage.label(crop, np.ones((3, 3)))[1] == 1 for crop, _, _ in crops)
        covered = int((masks.union_map(cells)).sum())
        shared = int(cells.area.sum()) - covered
        overlapping += shared > 0
        touching += ndimage.label(masks.union_map(cells), np.ones((3, 3)))[1] < len(cells)
        assert shared <= 0.2 * cells.area.sum()
    assert overlapping >= 4 and touching >= 4


def test_cells_can_be_seen(records: list[ImageRecord]) -> None:
    """Inside a mask the picture differs from the ring around it, by more than chance for most cells."""
    seen = total = 0
    for record in records[::2]:
        assert record.image is not None
        image = decode_image(record.image, "a").astype(float)
        truth = hidden_truth(SMALL, CLASSES, 0, record.image_id)
        covered = masks.union_map(truth)
        near = ndimage.binary_dilation(covered, iterations=4)
        for crop, x0, y0 in masks.crops(truth):
            mask = np.zeros(image.shape, bool)
            mask[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
            ring = ndimage.binary_dilation(mask, iterations=6) & ~near
            if ring.sum() >= 20:
                inside, outside = image[mask], image[ring]
                spread = outside.std() / np.sqrt(min(mask.sum(), ring.sum()))
                seen += abs(inside.mean() - outside.mean()) > 2 * spread
                total += 1
    assert total > 60 and seen / total > 0.6


def test_images_of_one_well_share_their_light_and_wells_differ() -> None:
    config = GeneratedConfig(unlabelled=24)
    groups: dict[str, list[float]] = {}
    for index in range(0, 24, 3):
        record = make(config, CLASSES, 0, "unlabelled", index)
        assert record.group is not None and record.image is not None
        groups.setdefault(record.group, []).append(float(np.median(decode_image(record.image, "a"))))
    assert [len(levels) for levels in groups.values()] == [2, 2, 2, 2]
    within = max(abs(a - b) for a, b in groups.values())
    between = np.ptp([np.mean(levels) for levels in groups.values()])
    assert within < 6 < between


def test_the_pool_ranges_wider_in_size_than_the_labelled_images() -> None:
    config = GeneratedConfig(labelled=12, unlabelled=48)
    medians: dict[str, list[float]] = {"labelled": [], "unlabelled": []}
    for seed in range(3):
        for split, step in (("labelled", 12), ("unlabelled", 6)):
            for index in range(2, getattr(config, split), step):
                cells = hidden_truth(config, CLASSES, seed, f"{split}-{index:05d}")
                medians[split].append(float(np.median(cells.area)))
    pool = np.quantile(medians["unlabelled"], [0.1, 0.9])
    assert pool[1] > 1.8 * pool[0]
    assert all(0.8 * pool[0] < value < 1.2 * pool[1] for value in medians["labelled"])


WIDE = GeneratedConfig(labelled=6, val=18, unlabelled=18, test=18, magnifications=(1.0, 3.0), densities=(0.5, 2.0))


def measured(config: GeneratedConfig, split: str, name: str, seeds: int = 3) -> tuple[list[float], list[float]]:
    """Per image of a class: the median side of its cells' boxes in pixels, and cells per 100 x 100 px."""
    sides, densities = [], []
    for seed in range(seeds):
        for index in range(CLASSES.index(name), getattr(config, split), len(CLASSES)):
            cells = hidden_truth(config, CLASSES, seed, f"{split}-{index:05d}")
            sides.append(float(np.median((cells.bbox[:, 2:] - cells.bbox[:, :2]).mean(axis=1))))
            densities.append(len(cells) / config.height_px / config.width_px * 1e4)
    return sides, densities


def test_the_labelled_images_have_one_magnification_and_density() -> None:
    for index in range(3):
        plain, wide = (make(config, CLASSES, 0, "labelled", index) for config in (SMALL, WIDE))
        assert plain.instances is not None and wide.instances is not None
        assert plain.image == wide.image and plain.instances.rle == wide.instances.rle


@pytest.mark.parametrize("split", ["unlabelled", "val", "test"])
def test_the_other_images_have_the_magnifications_in_turn(split: str) -> None:
    for name in ("cort", "shsy5y"):
        labelled, _ = measured(WIDE, "labelled", name)
        sides, _ = measured(WIDE, split, name)
        wells = np.array(sides).reshape(-1, 2).mean(axis=1).reshape(3, -1)  # seeds x wells of two images
        small, large = wells[:, 0::2], wells[:, 1::2]
        assert 2.0 < np.mean(large) / np.mean(small) < 4.0, "cells of the edge are cut, more so the large ones"
        assert 0.7 < np.mean(small) / np.mean(labelled) < 1.4
        assert max(labelled) / min(labelled) < 1.8 < max(sides) / min(sides)


def test_a_higher_magnification_shows_a_smaller_field_and_a_density_more_cells() -> None:
    def cells(magnification: float, density: float) -> float:
        config = GeneratedConfig(unlabelled=12, magnifications=(magnification,), densities=(density, density))
        return float(np.mean(measured(config, "unlabelled", "cort", 2)[1]))

    plain = cells(1.0, 1.0)
    assert 0.2 < cells(2.0, 1.0) / plain < 0.35  # a quarter
    assert 1.7 < cells(1.0, 2.0) / plain < 2.3


def test_magnification_enlarges_what_the_optics_make() -> None:
    """The picture of an empty field is as coarse as its magnification: debris, shadows, mottled medium."""
    grain = []
    for magnification in (1.0, 3.0):
        config = GeneratedConfig(unlabelled=6, magnifications=(magnification,), densities=(0.1, 0.1))
        image = make(config, ("cort",), 0, "unlabelled", 0).image
        assert image is not None
        field = ndimage.gaussian_filter(decode_image(image, "a").astype(float), 1.5)  # without the camera's noise
        steps = np.abs(np.diff(field, axis=1)).mean() / field.std()
        grain.append(steps)
    assert grain[0] > 1.5 * grain[1]


def test_by_default_the_labels_cover_the_middle_of_all() -> None:
    sides, _ = measured(GeneratedConfig(), "unlabelled", "cort", 2)
    labelled, _ = measured(GeneratedConfig(), "labelled", "cort", 2)
    assert min(sides) < min(labelled) and max(labelled) < max(sides) and max(sides) / min(sides) < 2.5


@pytest.mark.parametrize("wrong", [{"densities": (2.0, 1.0)}, {"magnifications": ()}, {"magnifications": (0.0,)}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError):
        GeneratedConfig.model_validate(wrong)


def test_any_class_names_and_sizes_work() -> None:
    config = GeneratedConfig(labelled=4, unlabelled=0, val=1, test=1, height_px=64, width_px=100)
    for classes in (("cell",), ("x", "y", "z", "w"), ("cort", "astro")):
        made = list(generate(config, classes, 0))
        assert len(made) == 6 and {r.cell_type for r in made} == set(classes)
        assert all(r.instances is not None and len(r.instances) > 0 for r in made)
    single = hidden_truth(GeneratedConfig(), ("cell",), 0, "val-00001")
    assert 20 <= len(single) <= 40  # one class takes the shape of the first


def test_a_picture_takes_tens_of_milliseconds() -> None:
    best = min(_seconds(index) for index in range(6))
    assert best < 0.2  # about 0.025 s when the machine is free


def _seconds(index: int) -> float:
    started = time.process_time()
    make(GeneratedConfig(), CLASSES, 0, "test", index)
    return time.process_time() - started
