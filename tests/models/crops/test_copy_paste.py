"""Copy-paste: pixels and instance_map together, only trusted cells, nothing unlabelled becomes background."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cellsemi.configs.phases import AugmentConfig, CopyPasteConfig
from cellsemi.models.crops.copy_paste import paste, pasteable
from cellsemi.models.crops.crop import Crop, training_image
from cellsemi.models.crops.source import CropSource
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import IGNORE
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord

ALL = CopyPasteConfig(probability=1, select=1, keep=0, min_quality=0)
STILL = {"scale_min": 1, "scale_max": 1, "rotate": False, "flip": False, "brightness": 0, "blur": 0, "noise": 0}


def crop_of(instance_map: NDArray[np.int32], light: float, colour: bool = False) -> Crop:
    """A crop whose pixels encode their cell: `light` + number / 100."""
    cells = int(max(instance_map.max(), 0))
    pixels = (light + instance_map / 100).clip(0, 1).astype(np.float32)
    return Crop(
        pixels=np.stack([pixels] * 3, -1) if colour else pixels,
        instance_map=instance_map,
        cell_class=(np.arange(cells + 1) % 3).astype(np.int64),
        cell_weight=(light + np.arange(cells + 1) / 10).astype(np.float32),
    )


def random_marks(rng: np.random.Generator, side: int = 24) -> NDArray[np.int32]:
    """Up to five rectangles, the later over the earlier, and ignored ones."""
    instance_map = np.zeros((side, side), np.int32)
    for value in [IGNORE, *range(1, rng.integers(0, 6)), IGNORE]:
        y, x = rng.integers(0, side, 2)
        h, w = rng.integers(1, 12, 2)
        instance_map[y : y + h, x : x + w] = value
    return instance_map


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    select=st.floats(0, 1),
    occlusion=st.floats(0, 1),
    colour=st.booleans(),
)
def test_what_a_pasted_crop_says_of_each_pixel(seed: int, select: float, occlusion: float, colour: bool) -> None:
    rng = np.random.default_rng(seed)
    target, source = crop_of(random_marks(rng), 0.2, colour), crop_of(random_marks(rng), 0.6, colour)
    config = ALL.model_copy(update={"select": select, "occlusion": occlusion})
    trust = rng.random(len(source.cell_class)).astype(np.float32)
    trusted = pasteable(
        source.instance_map, np.zeros(len(trust)), trust, config.model_copy(update={"min_quality": 0.4})
    )
    present = np.setdiff1d(source.instance_map, [0, IGNORE])
    assert set(np.flatnonzero(trusted)) == {number for number in present if trust[number] >= np.float32(0.4)}

    done = paste(target, source, trusted, config, np.random.default_rng(seed))
    again = paste(target, source, trusted, config, np.random.default_rng(seed))
    assert np.array_equal(done.instance_map, again.instance_map) and np.array_equal(done.pixels, again.pixels)
    assert (
        done.instance_map.dtype == np.int32
        and done.pixels.dtype == np.float32
        and done.pixels.shape == target.pixels.shape
    )

    first = len(target.cell_class)
    new = [number for number in np.unique(done.instance_map) if number >= first]
    assert (
        len(new) == int(select * trusted.sum() + 0.5) == len(done.cell_class) - first == len(done.cell_weight) - first
    )
    covered = done.instance_map >= first
    assert np.array_equal(done.pixels[~covered], target.pixels[~covered])
    for number in new:  # each is one trusted cell of the source, whole, with its class and its weight
        (origin,) = np.unique(source.instance_map[done.instance_map == number])
        assert trusted[origin] and np.array_equal(done.instance_map == number, source.instance_map == origin)
        assert done.cell_class[number] == source.cell_class[origin]
        assert done.cell_weight[number] == source.cell_weight[origin]
        inner = done.pixels[done.instance_map == number]
        assert (inner <= source.pixels[source.instance_map == origin].max() + 1e-6).all()

    for number in range(1, first):
        before, now = target.instance_map == number, (target.instance_map == number) & ~covered
        hidden = (before & covered).sum() > occlusion * before.sum()
        assert (done.instance_map[now] == (IGNORE if hidden else number)).all()
    for value in (0, IGNORE):  # background stays, what is ignored stays ignored, unless covered
        assert (done.instance_map[(target.instance_map == value) & ~covered] == value).all()


def test_nothing_to_paste_changes_nothing() -> None:
    target, source = crop_of(random_marks(np.random.default_rng(0)), 0.2), crop_of(np.zeros((24, 24), np.int32), 0.6)
    none = pasteable(source.instance_map, np.zeros(1), np.zeros(1, np.float32), ALL)
    assert not none.any() and paste(target, source, none, ALL, np.random.default_rng(0)) is target


def test_the_inside_is_the_sources_and_the_edge_is_mixed() -> None:
    instance_map = np.zeros((20, 20), np.int32)
    instance_map[5:15, 5:] = 1  # it ends at the border of the crop: no edge there
    target, source = crop_of(np.zeros((20, 20), np.int32), 0.0), crop_of(instance_map, 0.6)
    done = paste(target, source, np.array([False, True]), ALL, np.random.default_rng(0))
    np.testing.assert_allclose(done.pixels[6:14, 6:], 0.61, rtol=1e-5)
    np.testing.assert_allclose(done.pixels[7, 5], 0.61 * 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(done.pixels[5, 5], 0.61 * 4 / 9, rtol=1e-5)


@pytest.mark.parametrize(("keep", "fits"), [(0.0, True), (0.5, True), (0.51, False), (1.0, False)])
def test_a_cell_must_be_inside_the_crop_by_the_asked_share(keep: float, fits: bool) -> None:
    instance_map = np.zeros((10, 10), np.int32)
    instance_map[:, 5:] = 1
    config = ALL.model_copy(update={"keep": keep})
    assert pasteable(instance_map, np.array([900, 100]), np.ones(2, np.float32), config).tolist() == [False, fits]


def png(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def record(
    name: str, cells: int, split: str = "labelled", side: int = 80, size: int = 10, **columns: Any
) -> ImageRecord:
    """An image of squares on a grid of 20 pixels."""
    labels = np.zeros((side, side), np.int32)
    for i in range(cells):
        y, x = 4 + 20 * (i // 4), 4 + 20 * (i % 4)
        labels[y : y + size, x : x + size] = i + 1
    found = masks.from_label_map(labels, **{"state": "human", **columns})
    return ImageRecord(name, side, side, split, png((labels > 0).astype(np.uint8) * 200), instances=found)


def source_of(folder: Path, records: list[ImageRecord], augment: AugmentConfig, **changes: Any) -> CropSource:
    path = folder / f"{len(list(folder.iterdir()))}.parquet"
    shards.write_shard(path, records, "x")
    given = {"crop_px": 48, "batch": 40, "human_fraction": 0.5, "ignore_dilation_px": 0, "seed": 3, **changes}
    return CropSource([path], augment=augment, **given)


def pasting(**changes: Any) -> AugmentConfig:
    return AugmentConfig(**STILL, copy_paste=CopyPasteConfig(**{"probability": 1.0, **changes}))


def test_trust_is_the_persons_or_the_confidence() -> None:
    mixed = record("a", 4, state=("human", "accepted", "accepted", "ignored"), quality=[0.1, 0.9, 0.3, 1.0])
    image = training_image(mixed, 0)
    np.testing.assert_allclose(image.cell_trust, [0, 1, 0.9, 0.3])
    assert image.cell_area.tolist()[1:] == [100, 100, 100] and image.typical_px == 10
    assert training_image(record("a", 0), 0).typical_px is None


def test_only_trusted_cells_reach_other_crops(tmp_path: Path) -> None:
    """Two classes of images: sure and unsure pseudo-labels, distinguished by their weights."""
    quality = {"sure": 0.9, "unsure": 0.5}
    records = [
        record(name, 12, "unlabelled", state="accepted", quality=q, weight=q, class_id=i)
        for i, (name, q) in enumerate(quality.items())
    ]
    source = source_of(tmp_path, records, pasting(min_quality=0.8, keep=0.0))
    seen = set()
    for crop in source(0):
        assert len(crop.cell_class) == len(crop.cell_weight) > crop.instance_map.max()
        added = crop.cell_weight[13:]
        seen |= set(added.tolist())
    assert seen == {np.float32(0.9)}


def test_the_share_of_crops_with_pasted_cells_is_as_asked(tmp_path: Path) -> None:
    records = [record("a", 16), record("b", 2)]
    for probability in (0.0, 0.3, 1.0):
        crops = source_of(tmp_path, records, pasting(probability=probability), batch=200)(1)
        share = np.mean([len(crop.cell_class) not in (3, 17) for crop in crops])
        assert share == pytest.approx(probability, abs=0.12)
    plain = source_of(tmp_path, records, pasting(probability=0.0))(1)
    off = source_of(tmp_path, records, AugmentConfig(**STILL))(1)
    assert all(np.array_equal(a.instance_map, b.instance_map) for a, b in zip(plain, off, strict=True))


def test_pasted_cells_are_inverted_with_the_crop(tmp_path: Path) -> None:
    """Cells are bright on dark ground, or all of them dark on bright ground; as often as asked."""
    records = [record("a", 16), record("b", 2)]
    augment = pasting().model_copy(update={"invert": 0.3})
    dark = []
    for crop in source_of(tmp_path, records, augment, batch=200)(1):
        inner = _eroded(crop.instance_map > 0)
        outer = _eroded(crop.instance_map == 0)
        if inner.any() and outer.any():
            assert np.ptp(crop.pixels[inner]) < 0.01 and np.ptp(crop.pixels[outer]) < 0.01
            dark.append(crop.pixels[inner].mean() < crop.pixels[outer].mean())
    assert np.mean(dark) == pytest.approx(0.3, abs=0.1)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = ndimage.binary_erosion(mask, iterations=2)
    return found


def test_crops_are_a_function_of_seed_step_and_place(tmp_path: Path) -> None:
    records = [record("a", 12), record("b", 7, "unlabelled", state="accepted", quality=0.95)]
    augment = AugmentConfig(
        copy_paste=CopyPasteConfig(probability=0.5), elastic=0.3, grid=0.3, size_aware=True, invert=0.5, gamma=0.5
    )
    one, other = (source_of(tmp_path, records, augment, channels=channels) for channels in (3, 3))
    other(5)
    for a, b in zip(one(2), other(2), strict=True):
        assert np.array_equal(a.pixels, b.pixels) and np.array_equal(a.instance_map, b.instance_map)
        assert np.array_equal(a.cell_weight, b.cell_weight) and a.pixels.shape == (48, 48, 3)


def test_sources_of_nothing_and_ignored_cells_do_not_travel(tmp_path: Path) -> None:
    ignored = record("a", 12, state="ignored")
    for crop in source_of(tmp_path, [ignored, replace(record("b", 0), split="labelled")], pasting())(0):
        assert crop.instance_map.max() == 0 and len(crop.cell_class) == 1


def test_size_aware_sources_know_the_sizes_of_all_shards(tmp_path: Path) -> None:
    """Small cells are seen as large as the large ones are, and the other way round."""
    records = [
        record("small", 12, size=6),
        record("large", 12, size=12, class_id=1),
        record("bare", 0),
        replace(record("none", 3), instances=None),
        record("ignored", 12, size=18, state="ignored"),
    ]
    augment = AugmentConfig(**{**STILL, "scale_min": 0.4, "scale_max": 2.5, "size_aware": True})
    seen: dict[int, list[float]] = {0: [], 1: []}
    for crop in source_of(tmp_path, records, augment, batch=400)(0):
        instance_map = np.setdiff1d(crop.instance_map[10:-10, 10:-10], [0, IGNORE])
        if len(instance_map):
            largest = max((crop.instance_map == number).sum() for number in instance_map)
            seen[int(crop.cell_class[instance_map[0]])].append(float(np.sqrt(largest)))
    for sizes in seen.values():
        assert np.percentile(sizes, 3) == pytest.approx(6 / 1.25, abs=1)
        assert np.percentile(sizes, 97) == pytest.approx(12 * 1.25, abs=1)
