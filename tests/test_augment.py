"""Augmentation: image and cells move together, the outside is marked, the seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cellsemi.configs.models import AugmentConfig
from cellsemi.models.augment import OUTSIDE, augment_crop, cut_window, draw_zoom

PLAIN = AugmentConfig(brightness=0, blur=0, noise=0)
STILL = AugmentConfig(scale_min=1, scale_max=1, rotate=False, flip=False, brightness=0, blur=0, noise=0)


def scene(height: int = 120, width: int = 140) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cells that are bright by their number: where a mark lies, the image tells which."""
    marks = np.zeros((height, width), np.int32)
    for i in range(12):
        y, x = 10 + 28 * (i // 4), 8 + 33 * (i % 4)
        marks[y : y + 20, x : x + 22] = i + 1
    return (marks / 15).astype(np.float32), marks


def crop(
    config: AugmentConfig, seed: int, centre: tuple[float, float] = (60, 70)
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    image, marks = scene()
    return augment_crop(image, marks, centre, crop_px=64, config=config, rng=np.random.default_rng(seed))


def test_nothing_switched_on_is_a_plain_crop() -> None:
    image, marks = scene()
    pixels, marked = crop(STILL, 0)
    assert np.array_equal(pixels, image[28:92, 38:102]) and np.array_equal(marked, marks[28:92, 38:102])


@pytest.mark.parametrize("config", [PLAIN, AugmentConfig(scale_min=0.8, brightness=0, blur=0, noise=0, elastic=1)])
def test_marks_follow_the_image(config: AugmentConfig) -> None:
    agree, total = 0, 0
    for seed in range(20):
        pixels, marked = crop(config, seed)
        assert pixels.shape == marked.shape == (64, 64)
        assert pixels.dtype == np.float32 and marked.dtype == np.int32
        assert set(np.unique(marked)) <= set(range(OUTSIDE, 13))
        known = marked >= 0
        agree += int((np.abs(pixels - marked / 15)[known] < 0.03).sum())
        total += int(known.sum())
    assert agree / total > 0.85  # all but the interpolated edges


def test_the_seed_decides_and_seeds_differ() -> None:
    full = AugmentConfig(blur=0.5, noise=0.5, elastic=0.5)
    for seed in range(5):
        crop(full, seed + 100)  # whatever was drawn before does not matter
        again = [crop(full, seed), crop(full, seed)]
        assert np.array_equal(again[0][0], again[1][0]) and np.array_equal(again[0][1], again[1][1])
    assert not np.array_equal(crop(full, 0)[0], crop(full, 1)[0])


def test_pixels_stay_between_zero_and_one() -> None:
    wild = AugmentConfig(brightness=1, blur=1, noise=1)
    for seed in range(10):
        pixels, _ = crop(wild, seed)
        assert pixels.min() >= 0 and pixels.max() <= 1


def test_beyond_the_image_is_outside_and_shows_its_mirror() -> None:
    image, marks = scene()
    window, marked = cut_window(image, marks, (0, 70), 64, 1.0)
    assert (marked[:32] == OUTSIDE).all() and np.array_equal(marked[32:], marks[:32, 38:102])
    assert np.array_equal(window[:32], window[32:][::-1])
    _, far = cut_window(image[:1, :1], marks[:1, :1], (0, 0), 64, 0.5)
    assert (far == OUTSIDE).sum() > 0.99 * far.size


def test_zoom_enlarges() -> None:
    image, marks = scene()
    for zoom in (0.5, 1.0, 2.0):
        window, marked = cut_window(image, marks, (48, 52), 80, zoom)
        assert window.shape == marked.shape == (80, 80)
        cell = marks[48, 52]
        assert (marked == cell).sum() == pytest.approx((marks == cell).sum() * zoom**2, rel=0.1)


def test_zooms_lie_in_their_range_and_mostly_near_one() -> None:
    config = AugmentConfig(scale_min=0.4, scale_max=2.5)
    zooms = np.array([draw_zoom(config, np.random.default_rng(i)) for i in range(2000)])
    assert zooms.min() >= 0.4 and zooms.max() <= 2.5
    assert zooms.min() < 0.5 and zooms.max() > 2.0 and abs(np.log(zooms).mean()) < 0.05
    assert ((zooms > 0.75) & (zooms < 1.33)).mean() > 0.4
