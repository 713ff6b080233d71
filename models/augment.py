"""Augmentation of a training crop: one image, one integer map, one seed.

All cells travel in one map with nearest interpolation, so the cost does not grow with their number.
albumentations does the rest; it is imported when first used, and its look for updates is switched off.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.models import AugmentConfig

OUTSIDE = -1  # map value of what must not be learned: ignored cells, and everything beyond the image
NOISE_STD = (0.01, 0.06)  # of images in [0, 1]
BLUR_SIGMA_PX = (0.5, 1.5)
ELASTIC_ALPHA_PX, ELASTIC_SIGMA_PX = 40.0, 6.0


def draw_zoom(config: AugmentConfig, rng: np.random.Generator) -> float:
    """A zoom between `scale_min` and `scale_max`: triangular in the logarithm, most often near 1.

    The wide ends are there for sizes that the few labelled images lack; most crops stay near the size
    that the labels do have.
    """
    low, high = math.log(config.scale_min), math.log(config.scale_max)
    return math.exp(rng.triangular(low, 0.0, high)) if high > low else config.scale_min


def augment_crop(
    image: NDArray[np.float32],
    marks: NDArray[np.int32],
    centre: tuple[float, float],
    *,
    crop_px: int,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """A crop of `crop_px` pixels a side around `centre` (y, x): image float32 in [0, 1] and int32 marks.

    `image` (H, W) or (H, W, 3) is float32 in [0, 1]; `marks` (H, W) holds 0 for background, positive cells and OUTSIDE.
    Beyond the image the crop shows its mirror and is marked OUTSIDE. The result depends on `rng` only.
    """
    zoom = draw_zoom(config, rng)
    side = math.ceil(crop_px * math.sqrt(2)) if config.rotate else crop_px
    window, marked = cut_window(image, marks, centre, side, zoom)
    pipeline = _pipeline(config, crop_px)
    pipeline.set_random_seed(int(rng.integers(2**31)))
    # OpenCV turns float32, not int32; a float32 holds the number of every cell exactly up to 2^24.
    done = pipeline(image=window if window.ndim == 3 else window[..., None], mask=marked.astype(np.float32))
    pixels = done["image"] if window.ndim == 3 else done["image"][..., 0]
    return np.ascontiguousarray(pixels, dtype=np.float32), done["mask"].astype(np.int32)


def cut_window(
    image: NDArray[np.float32], marks: NDArray[np.int32], centre: tuple[float, float], side: int, zoom: float
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The square of side / zoom pixels around `centre`, resized to `side`.

    The image is averaged by area when it shrinks, else interpolated; the marks take the nearest pixel.
    """
    import cv2

    source = max(1, round(side / zoom))
    top, left = round(centre[0] - source / 2), round(centre[1] - source / 2)
    rows, columns = np.arange(top, top + source), np.arange(left, left + source)
    window = image[np.ix_(_mirror(rows, image.shape[0]), _mirror(columns, image.shape[1]))]
    method = cv2.INTER_AREA if source > side else cv2.INTER_LINEAR
    resized = cv2.resize(window, (side, side), interpolation=method).astype(np.float32, copy=False)
    nearest = ((np.arange(side) + 0.5) * source / side).astype(np.int64)
    rows, columns = rows[nearest], columns[nearest]
    marked = marks[np.ix_(_mirror(rows, image.shape[0]), _mirror(columns, image.shape[1]))]
    marked[(rows < 0) | (rows >= image.shape[0])] = OUTSIDE
    marked[:, (columns < 0) | (columns >= image.shape[1])] = OUTSIDE
    return resized, marked


def _mirror(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Index into an axis that is continued by its mirror image, without end."""
    folded = index % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


@functools.lru_cache(maxsize=8)
def _pipeline(config: AugmentConfig, crop_px: int) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    steps: list[Any] = []
    if config.elastic > 0:
        steps.append(
            albumentations.ElasticTransform(
                alpha=ELASTIC_ALPHA_PX, sigma=ELASTIC_SIGMA_PX, fill_mask=OUTSIDE, p=config.elastic,
                border_mode=cv2.BORDER_REFLECT_101,
            )
        )  # fmt: skip
    if config.rotate:
        steps.append(albumentations.Rotate(limit=(-180, 180), border_mode=cv2.BORDER_REFLECT_101, p=1.0))
    steps.append(albumentations.CenterCrop(crop_px, crop_px))
    if config.flip:
        steps += [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)]
    if config.brightness > 0:
        limits = (-config.brightness, config.brightness)
        steps.append(albumentations.RandomBrightnessContrast(limits, limits, p=0.5))
    if config.blur > 0:
        steps.append(albumentations.GaussianBlur(sigma_limit=BLUR_SIGMA_PX, p=config.blur))
    if config.noise > 0:
        steps.append(albumentations.GaussNoise(std_range=NOISE_STD, p=config.noise))
    return albumentations.Compose(steps, seed=0)
