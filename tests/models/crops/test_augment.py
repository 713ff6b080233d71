"""Augmentation: image and cells move together, the outside is IGNORE, the seed decides everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.phases import AUGMENT_PRESETS, AugmentConfig
from cellsemi.models.crops.augment import SIZE_MARGIN, CellSizes, augment_crop, cut_window, draw_scale
from cellsemi.rounds.cells.instance_map import IGNORE

PLAIN = AugmentConfig(brightness=0, blur=0, noise=0)
STILL = AugmentConfig(scale_min=1, scale_max=1, rotate=False, flip=False, brightness=0, blur=0, noise=0)


def scene(height: int = 120, width: int = 140) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cells that are bright by their number: where a cell lies, the image shows which."""
    instance_map = np.zeros((height, width), np.int32)
    for i in range(12):
        y, x = 10 + 28 * (i // 4), 8 + 33 * (i % 4)
        instance_map[y : y + 20, x : x + 22] = i + 1
    return (instance_map / 15).astype(np.float32), instance_map


def crop(
    config: AugmentConfig, seed: int, centre: tuple[float, float] = (60, 70)
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    image, instance_map = scene()
    done = augment_crop(image, instance_map, centre, crop_px=64, config=config, rng=np.random.default_rng(seed))
    return done.pixels, done.instance_map


def test_nothing_switched_on_is_a_plain_crop() -> None:
    image, instance_map = scene()
    pixels, window_map = crop(STILL, 0)
    assert np.array_equal(pixels, image[28:92, 38:102]) and np.array_equal(window_map, instance_map[28:92, 38:102])


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        AugmentConfig(scale_min=0.8, brightness=0, blur=0, noise=0, elastic=1),
        AugmentConfig(scale_min=0.8, brightness=0, blur=0, noise=0, grid=1),
        AUGMENT_PRESETS["sartorius"].model_copy(
            update={"affine": 1.0, "brightness": 0, "blur": 0, "elastic": 0.5, "grid": 0.5}
        ),
    ],
)
def test_marks_follow_the_image(config: AugmentConfig) -> None:
    agree, total = 0, 0
    for seed in range(20):
        pixels, window_map = crop(config, seed)
        assert pixels.shape == window_map.shape == (64, 64)
        assert pixels.dtype == np.float32 and window_map.dtype == np.int32
        assert set(np.unique(window_map)) <= set(range(IGNORE, 13))
        flat = ndimage.maximum_filter(window_map, 5) == ndimage.minimum_filter(window_map, 5)  # no edges
        known = flat & (window_map >= 0)
        agree += int((np.abs(pixels - window_map / 15)[known] < 0.03).sum())
        total += int(known.sum())
    assert agree / total > 0.99


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


def test_beyond_the_image_is_ignored_and_shows_its_mirror() -> None:
    image, instance_map = scene()
    window, window_map = cut_window(image, instance_map, (0, 70), 64, 1.0)
    assert (window_map[:32] == IGNORE).all() and np.array_equal(window_map[32:], instance_map[:32, 38:102])
    assert np.array_equal(window[:32], window[32:][::-1])
    _, far = cut_window(image[:1, :1], instance_map[:1, :1], (0, 0), 64, 0.5)
    assert (far == IGNORE).sum() > 0.99 * far.size


def test_a_scale_enlarges() -> None:
    image, instance_map = scene()
    for scale in (0.5, 1.0, 2.0):
        window, window_map = cut_window(image, instance_map, (48, 52), 80, scale)
        assert window.shape == window_map.shape == (80, 80)
        cell = instance_map[48, 52]
        assert (window_map == cell).sum() == pytest.approx((instance_map == cell).sum() * scale**2, rel=0.1)


def test_scales_lie_in_their_range_and_mostly_near_one() -> None:
    config = AugmentConfig(scale_min=0.4, scale_max=2.5)
    scales = np.array([draw_scale(config, np.random.default_rng(i)) for i in range(2000)])
    assert scales.min() >= 0.4 and scales.max() <= 2.5
    assert scales.min() < 0.5 and scales.max() > 2.0 and abs(np.log(scales).mean()) < 0.05
    assert ((scales > 0.75) & (scales < 1.33)).mean() > 0.4


def untouched(config: AugmentConfig, crops: int = 300) -> float:
    """The share of crops that are plain cuts."""
    image, instance_map = scene()
    plain = image[28:92, 38:102], instance_map[28:92, 38:102]
    same = [
        all(np.array_equal(*pair) for pair in zip(crop(config, 1000 + i), plain, strict=True)) for i in range(crops)
    ]
    return sum(same) / crops


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"affine": 0.4, "rotate": True, "scale_min": 0.5}, 0.6),
        ({"affine": 0.4, "translate": 0.2}, 0.6),
        ({"affine": 0.0, "rotate": True, "scale_max": 2, "translate": 0.2}, 1.0),
        ({"elastic": 0.25, "grid": 0.25}, 0.5),  # one of the two, not both: else 0.56
        ({"elastic": 0.7, "grid": 0.7}, 0.0),
        ({"grid": 0.3}, 0.7),
        ({"brightness": 0.2, "brightness_probability": 0.3}, 0.7),
        ({"brightness": 0.2, "brightness_probability": 0.0}, 1.0),
    ],
)
def test_probabilities_are_those_of_the_settings(changes: dict[str, Any], expected: float) -> None:
    assert untouched(STILL.model_copy(update=changes)) == pytest.approx(expected, abs=0.08)


def test_a_grid_distortion_moves_less_than_a_tenth_of_its_cells() -> None:
    image, instance_map = scene()
    smooth = np.broadcast_to(np.linspace(0, 1, 140, dtype=np.float32), image.shape)  # tells where a pixel came from
    moves = []
    for seed in range(30):
        done = augment_crop(
            smooth,
            instance_map,
            (60, 70),
            crop_px=100,
            config=STILL.model_copy(update={"grid": 1.0}),
            rng=np.random.default_rng(seed),
        )
        moves.append(np.abs(done.pixels[10:-10, 10:-10] - smooth[20:100, 30:110]).max() * 139)
    assert 1 < max(moves) < 0.1 * 100


def test_shifts_reach_as_far_as_asked_in_any_direction() -> None:
    image, instance_map = np.zeros((200, 200), np.float32), np.zeros((200, 200), np.int32)
    instance_map[100, 100] = 1
    found = []
    for seed in range(200):
        config = STILL.model_copy(update={"translate": 0.25, "scale_max": 2.0, "scale_min": 1.0})
        done = augment_crop(image, instance_map, (100, 100), crop_px=64, config=config, rng=np.random.default_rng(seed))
        found.append(np.argwhere(done.instance_map == 1).mean(0) - 32)
    assert np.abs(found).max() < 0.25 * 64 + 3 and (np.ptp(found, axis=0) > 0.45 * 64).all()


@given(own=st.floats(5, 100), spread=st.floats(1, 20), place=st.floats(0, 1), seed=st.integers(0, 999))
def test_size_aware_scales_spread_over_the_sizes(own: float, spread: float, place: float, seed: int) -> None:
    sizes = CellSizes(own, own / spread**place, own * spread ** (1 - place))
    config = AugmentConfig(size_aware=True)
    scale = draw_scale(config, np.random.default_rng(seed), sizes)
    assert 0.4 <= scale <= 2.5
    assert sizes.low / SIZE_MARGIN * 0.999 <= own * scale <= sizes.high * SIZE_MARGIN * 1.001


def test_small_cells_are_enlarged_and_large_ones_shrunk() -> None:
    config = AugmentConfig(size_aware=True)

    def sizes_seen(own: float, config: AugmentConfig = config) -> NDArray[np.float64]:
        scales = [draw_scale(config, np.random.default_rng(i), CellSizes(own, 10, 20)) for i in range(500)]
        return own * np.array(scales)

    for own in (10, 20):
        seen = sizes_seen(own)
        assert seen.min() == pytest.approx(8, rel=0.05) and seen.max() == pytest.approx(25, rel=0.05)
        assert np.exp(np.log(seen).mean()) == pytest.approx(np.sqrt(200), rel=0.05)
    off = AugmentConfig()
    assert (sizes_seen(10, off) == [10 * draw_scale(off, np.random.default_rng(i)) for i in range(500)]).all()


@pytest.mark.parametrize("name", ["light", "strong", "sartorius"])
def test_colour_goes_through_every_preset(name: str) -> None:
    grey, instance_map = scene()
    colour = np.stack([grey, grey**2, 1 - grey], -1)
    for seed in range(15):
        done = augment_crop(
            colour, instance_map, (60, 70), crop_px=48, config=AUGMENT_PRESETS[name], rng=np.random.default_rng(seed)
        )
        assert done.pixels.shape == (48, 48, 3) and done.instance_map.shape == (48, 48)
        assert done.pixels.min() >= 0 and done.pixels.max() <= 1 and done.pixels.dtype == np.float32


def test_the_sartorius_preset_is_the_list_of_its_team() -> None:
    preset = AUGMENT_PRESETS["sartorius"]
    assert (preset.scale_min, preset.scale_max, preset.translate, preset.affine) == (0.7, 1.3, 0.15, 0.5)
    assert preset.rotate and preset.flip and preset.elastic + preset.grid == 0.2
    assert (preset.elastic_alpha_px, preset.elastic_sigma_px) == (50, 2.5)
    assert (preset.brightness, preset.brightness_probability, preset.blur, preset.noise) == (0.2, 0.3, 0.25, 0)


def test_a_gamma_curve_keeps_the_order_of_greys_and_the_ends() -> None:
    config = STILL.model_copy(update={"gamma": 1.0})
    image, _ = scene()
    plain = crop(STILL, 0)[0]
    lifted = []
    for seed in range(20):
        pixels, _ = crop(config, seed)
        order = np.argsort(plain, axis=None, kind="stable")
        assert (np.diff(pixels.ravel()[order]) >= -1e-6).all() and pixels[plain == 0].max() == 0
        middle = plain[(plain > 0.3) & (plain < 0.6)]
        found = np.log(pixels[(plain > 0.3) & (plain < 0.6)]) / np.log(middle)  # the exponent, the same everywhere
        assert np.ptp(found) < 1e-3 and 0.6 <= found.mean() <= 1.65
        lifted.append(found.mean() < 1)
    assert any(lifted) and not all(lifted) and image.max() < 1


def test_an_inverted_crop_is_the_other_one_turned_to_its_negative() -> None:
    image, instance_map = scene()
    colour = np.stack([image, np.zeros_like(image), 1 - image], -1)
    for pixels in (image, colour):
        seen = [
            augment_crop(
                pixels, instance_map, (60, 70), crop_px=64, config=STILL, rng=np.random.default_rng(1), invert=invert
            )
            for invert in (False, True)
        ]
        assert np.array_equal(seen[0].instance_map, seen[1].instance_map)
        one, other = (each.pixels if each.pixels.ndim == 2 else each.pixels[..., [0, 2]] for each in seen)
        np.testing.assert_allclose(other, 1 - one, atol=1e-6)
    assert not seen[1].pixels[..., 1].any()  # an empty channel stays empty
