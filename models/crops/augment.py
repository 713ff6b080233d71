"""Cuts an augmented training crop from an image and its instance map, by one seed.

All cells are transformed in one map with nearest interpolation, so the cost does not grow with their number.
Scale and shift are drawn and applied here; albumentations does the rest. It is imported when first used.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.phases import AugmentConfig
from cellsemi.rounds.cells.instance_map import IGNORE

NOISE_STD = (0.01, 0.06)  # of images in [0, 1]
BLUR_SIGMA_PX = (0.5, 1.5)  # OpenCV's own sigmas of kernels of 3 to 7 pixels are 0.8 to 1.4
GAMMA_PERCENT = (60, 165)  # 100 leaves the crop as it is; evenly drawn
GRID_STEPS, GRID_LIMIT = 5, 0.1  # lines of the distorted grid a side; how far a line moves, in cells of the grid
SIZE_MARGIN = 1.25  # a size-aware scale goes this far beyond the sizes of the data: they may be all alike


ScalePixels = Callable[[NDArray[Any]], NDArray[np.float32]]  # a part of an image -> float32 in [0, 1]


def as_they_are(part: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels that are float32 in [0, 1] already."""
    return part


@dataclass(frozen=True, slots=True)
class CellSizes:
    """Typical cell sizes, in pixels: of the sampled image, and the range over all training images."""

    own: float
    low: float
    high: float


def draw_scale(config: AugmentConfig, rng: np.random.Generator, sizes: CellSizes | None = None) -> float:
    """A scale between `scale_min` and `scale_max`: triangular in the logarithm, most often near 1.

    The wide ends are there for sizes that the few labelled images lack; most crops stay near the size
    that the labels do have.

    With `size_aware` and `sizes`, the size that the typical cell of this image gets is drawn evenly in
    the logarithm from `low` / SIZE_MARGIN to `high` x SIZE_MARGIN instead, as far as `scale_min` and `scale_max`
    reach: images of small cells are mostly enlarged, those of large cells mostly shrunk, and each kind of
    cell appears at the sizes of the others.
    """
    low, high = math.log(config.scale_min), math.log(config.scale_max)
    if config.size_aware and sizes is not None:
        wanted = (sizes.low / SIZE_MARGIN, sizes.high * SIZE_MARGIN)
        first, last = (min(max(math.log(size / sizes.own), low), high) for size in wanted)
        return math.exp(rng.uniform(first, last))
    return math.exp(rng.triangular(low, 0.0, high)) if high > low else config.scale_min


@dataclass(frozen=True, slots=True)
class Augmented:
    """An augmented crop: float32 (P, P) or (P, P, 3) in [0, 1], int32 (P, P), and how many times it is enlarged."""

    pixels: NDArray[np.float32]
    instance_map: NDArray[np.int32]
    scale: float


def augment_crop(
    image: NDArray[Any],
    instance_map: NDArray[Any],
    centre: tuple[float, float],
    *,
    crop_px: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    scaling: ScalePixels = as_they_are,
    sizes: CellSizes | None = None,
    enlarge: float = 1.0,
    invert: bool = False,
) -> Augmented:
    """A crop of `crop_px` pixels a side around `centre` (y, x): image float32 in [0, 1] and int32 instance map.

    `scaling` brings any part of `image` (H, W) or (H, W, 3) to float32 in [0, 1]; `instance_map` (H, W), of whole
    numbers, holds 0, cells from 1 and IGNORE.
    Beyond the image the crop shows its mirror and is IGNORE. With probability `affine` the crop is
    scaled (`draw_scale`, for which `sizes` is), shifted and rotated. `enlarge` multiplies the scale of every
    crop, `invert` exchanges dark and bright first. The result depends on `rng` only.
    """
    moved = config.affine >= 1 or rng.random() < config.affine
    scale = enlarge * (draw_scale(config, rng, sizes) if moved else 1.0)
    if moved and config.translate:
        reach = config.translate * crop_px / scale
        centre = (centre[0] + rng.uniform(-reach, reach), centre[1] + rng.uniform(-reach, reach))
    rotate = moved and config.rotate
    side = math.ceil(crop_px * math.sqrt(2)) if rotate else crop_px
    window, window_map = cut_window(image, instance_map, centre, side, scale, scaling)
    window = inverted(window) if invert else window
    pipeline = _pipeline(config, crop_px, rotate)
    pipeline.set_random_seed(int(rng.integers(2**31)))
    # OpenCV turns float32, not int32; a float32 holds the number of every cell exactly up to 2^24.
    done = pipeline(image=window if window.ndim == 3 else window[..., None], mask=window_map.astype(np.float32))
    pixels = done["image"] if window.ndim == 3 else done["image"][..., 0]
    return Augmented(np.ascontiguousarray(pixels, dtype=np.float32), done["mask"].astype(np.int32), scale)


def cut_window(
    image: NDArray[Any],
    instance_map: NDArray[Any],
    centre: tuple[float, float],
    side: int,
    scale: float,
    scaling: ScalePixels = as_they_are,
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The square of side / scale pixels around `centre`, in [0, 1] by `scaling`, resized to `side`.

    The image is averaged by area when it shrinks, else interpolated; the instance map takes the nearest pixel.
    """
    import cv2

    source = max(1, round(side / scale))
    top, left = round(centre[0] - source / 2), round(centre[1] - source / 2)
    rows, columns = np.arange(top, top + source), np.arange(left, left + source)
    window = scaling(_square(image, top, left, source))
    method = cv2.INTER_AREA if source > side else cv2.INTER_LINEAR
    resized = cv2.resize(window, (side, side), interpolation=method).astype(np.float32, copy=False)
    nearest = ((np.arange(side) + 0.5) * source / side).astype(np.int64)
    rows, columns = rows[nearest], columns[nearest]
    window_map = instance_map[np.ix_(_mirror(rows, image.shape[0]), _mirror(columns, image.shape[1]))]
    window_map[(rows < 0) | (rows >= image.shape[0])] = IGNORE
    window_map[:, (columns < 0) | (columns >= image.shape[1])] = IGNORE
    return resized, window_map


def _square(image: NDArray[Any], top: int, left: int, side: int) -> NDArray[Any]:
    """The pixels of a square, continued by the mirror image; a view where it lies in the image."""
    height, width = image.shape[:2]
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        return image[top : top + side, left : left + side]
    rows, columns = np.arange(top, top + side), np.arange(left, left + side)
    return image.take(_mirror(rows, height), axis=0).take(_mirror(columns, width), axis=1)


def inverted(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels (H, W) or (H, W, C) in [0, 1] with dark and bright exchanged; a channel of zeros is empty and stays so."""
    return np.where(pixels.any(axis=(0, 1)), 1 - pixels, pixels)


def _mirror(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Index into an axis that is continued by its mirror image, without end."""
    folded = index % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def load_albumentations() -> ModuleType:
    """The library, which looks for updates on the network when it is imported unless it is told not to."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    return importlib.import_module("albumentations")


@functools.lru_cache(maxsize=16)
def _pipeline(config: AugmentConfig, crop_px: int, rotate: bool) -> Any:
    import cv2

    albumentations = load_albumentations()
    mirror = {"border_mode": cv2.BORDER_REFLECT_101}
    steps: list[Any] = _warps(config, mirror)
    if rotate:
        steps.append(albumentations.Rotate(limit=(-180, 180), p=1.0, **mirror))
    steps.append(albumentations.CenterCrop(crop_px, crop_px))
    if config.flip:
        steps += [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)]
    if config.brightness > 0 and config.brightness_probability > 0:
        limits = (-config.brightness, config.brightness)
        steps.append(albumentations.RandomBrightnessContrast(limits, limits, p=config.brightness_probability))
    if config.gamma > 0:
        steps.append(albumentations.RandomGamma(gamma_limit=GAMMA_PERCENT, p=config.gamma))
    if config.blur > 0:
        steps.append(albumentations.GaussianBlur(sigma_limit=BLUR_SIGMA_PX, p=config.blur))
    if config.noise > 0:
        steps.append(albumentations.GaussNoise(std_range=NOISE_STD, p=config.noise))
    return albumentations.Compose(steps, seed=0)


def _warps(config: AugmentConfig, border: dict[str, Any]) -> list[Any]:
    """An elastic deformation or a grid distortion, never both; each has its own probability, elastic first."""
    albumentations = load_albumentations()
    elastic, grid = config.elastic, min(config.grid, 1 - config.elastic)
    if elastic + grid == 0:
        return []
    bent = albumentations.ElasticTransform(
        alpha=config.elastic_alpha_px, sigma=config.elastic_sigma_px, p=elastic, **border
    )
    stretched = albumentations.GridDistortion(
        num_steps=GRID_STEPS, distort_limit=(-GRID_LIMIT, GRID_LIMIT), p=grid, **border
    )
    return [albumentations.OneOf([bent, stretched], p=elastic + grid)]
