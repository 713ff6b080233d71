"""Generates phase-contrast-like images of cells in three classes from a seed, for the demo and for tests.

The classes follow the shapes of the Sartorius challenge: `shsy5y` (small spindles in crowds), `astro`
(large, branching, faint) and `cort` (small and round, among fine fibres). A cell is a union of discs; its
optical thickness is a dome over its mask. The picture is the background less the thickness, plus the
thickness blurred wide: the simplest model of phase contrast that shows the bright halo around a cell and
the fading inside a large one (Yin, Kanade, Chen, Medical Image Analysis 16, 2012, for the full optics).

Every image belongs to a well with its own light, focus, contrast and cell size. The labelled images come
from few wells of middling values, the others from many. They have one magnification and one density of cells; the
unlabelled, validation and test images have those of `data.generated`: as where one plate was annotated for training,
and a few images of each plate to see how good a model is. Magnification enlarges the cells and all that the optics
make of them, halo, blur, grain and debris; pixels, noise of the camera and optical thickness stay. The field of view
shrinks with it, so an image of twice the magnification holds a quarter of the cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from cellsemi.configs.data import GeneratedConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Bitmap, Crop
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.image_record import record_of
from cellsemi.rounds.store.run import SPLITS
from cellsemi.rounds.store.schemas import ImageRecord

SOURCE = "generated"
FIELD_PX = 192 * 256  # the area that the cell counts below are for
IMAGES_PER_WELL = {"labelled": 2, "unlabelled": 2, "val": 2, "test": 2}
NARROW = "labelled"  # the split of one magnification and density
SPREAD = {"labelled": 0.4, "unlabelled": 1.0, "val": 1.0, "test": 1.0}  # of a well's values around the middle
MIN_VISIBLE_PX = 25  # a cell with less inside the picture is not put there
MAX_OVERLAP = 0.2  # of a cell's area may lie on cells that are there already
TRIES = 12  # places tried for a cell before the field counts as full

Discs = NDArray[np.float64]  # (N, 3): x, y, radius in pixels
Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of cell: how many in a field, how thick, how sociable, and its outline at a scale."""

    count: tuple[int, int]
    thickness: float
    crowding: float  # share of the cells that are put in contact with another one
    fibres: tuple[int, int]
    outline: Callable[[Generator, float], Discs]


@dataclass(frozen=True, slots=True)
class Well:
    """What the images of one well share."""

    magnification: float  # 1: that of the labelled images
    density: float  # cells per area of the dish; 1: that of the labelled images
    scale: float  # of the cells themselves
    contrast: float
    halo: float
    halo_px: float  # at magnification 1, as is the blur
    blur_px: float
    level: float  # grey value of the background, of 255
    tilt: tuple[float, float]  # relative change of the light from the middle to an edge, x and y
    noise: float  # standard deviation in grey values


def generate(config: GeneratedConfig, classes: Sequence[str], seed: int) -> Iterator[ImageRecord]:
    """All records of the four splits; the classes take turns. Unlabelled ones have no instances."""
    for split in SPLITS:
        for index in range(getattr(config, split)):
            yield make(config, classes, seed, split, index)


def image_ids(config: GeneratedConfig, split: str) -> list[str]:
    """The ids of a split, in order of their index."""
    return [_image_id(split, index) for index in range(getattr(config, split))]


def cell_type(classes: Sequence[str], index: int) -> str:
    """The class of all cells of image `index` of any split."""
    return classes[index % len(classes)]


def well(classes: Sequence[str], split: str, index: int) -> str:
    """The group of image `index` of a split: images of one well look alike."""
    return f"{split}-{cell_type(classes, index)}-well{_well_number(classes, split, index)}"


def make(config: GeneratedConfig, classes: Sequence[str], seed: int, split: str, index: int) -> ImageRecord:
    """Record `index` of a split: a PNG of uint8 (height_px, width_px) and, where it is not unlabelled, its cells."""
    picture, cells = _scene(config, classes, seed, split, index)
    return record_of(picture, _image_id(split, index), SOURCE, split, to_png(picture)).with_(
        group=well(classes, split, index),
        cell_type=cell_type(classes, index),
        instances=None if split == "unlabelled" else cells,
    )


def hidden_truth(config: GeneratedConfig, classes: Sequence[str], seed: int, image_id: str) -> Instances:
    """The cells of an image of any split. For benchmarks only: no stage of a round may call it."""
    split, _, index = image_id.rpartition("-")
    if split not in SPLITS or image_id not in image_ids(config, split):
        raise ValueError(f"{image_id!r} is not a generated image of this config")
    return _scene(config, classes, seed, split, int(index))[1]


def _image_id(split: str, index: int) -> str:
    return f"{split}-{index:05d}"


def _scene(
    config: GeneratedConfig, classes: Sequence[str], seed: int, split: str, index: int
) -> tuple[NDArray[np.uint8], Instances]:
    name = cell_type(classes, index)
    class_id = list(classes).index(name)
    shape = SHAPES.get(name) or list(SHAPES.values())[class_id % len(SHAPES)]
    number = _well_number(classes, split, index)
    well = _make_well(config, split, number, np.random.default_rng(derive_seed(seed, "well", split, name, number)))
    rng = np.random.default_rng(derive_seed(seed, SOURCE, split, index))
    size = config.height_px, config.width_px
    crops = _place(rng, shape, well, size)
    picture = _photograph(rng, _thickness(rng, shape, crops, size, well.magnification), well)
    return picture, masks.from_crops(*size, crops, class_id=class_id, state="human")


def _well_number(classes: Sequence[str], split: str, index: int) -> int:
    return index // len(classes) // IMAGES_PER_WELL[split]


def _make_well(config: GeneratedConfig, split: str, number: int, rng: Generator) -> Well:
    """Values between the given ends for SPREAD 1, nearer to the middle for less; the magnifications take turns."""
    spread = SPREAD[split]
    magnifications, densities = config.magnifications, config.densities
    if split == NARROW:
        magnifications, densities = (1.0,), (1.0, 1.0)

    def between(low: float, high: float) -> float:
        return (low + high) / 2 + spread * float(rng.uniform(-0.5, 0.5)) * (high - low)

    return Well(
        magnification=magnifications[number % len(magnifications)],
        scale=math.exp(between(math.log(0.78), math.log(1.3))),
        contrast=math.exp(between(math.log(1.2), math.log(1.9))),
        halo=between(0.8, 1.2),
        halo_px=between(3.5, 8.0),
        blur_px=between(0.5, 1.1),
        level=between(95, 150),
        tilt=(between(-0.2, 0.2), between(-0.2, 0.2)),
        noise=between(2.0, 4.0),
        density=math.exp(rng.uniform(*np.log(densities))),
    )


# --- outlines -------------------------------------------------------------------------------------------


def _path(rng: Generator, start: Sequence[float], length: float, radii: Sequence[float], bend: float) -> Discs:
    """Discs along a curve from `start` (x, y, direction); the radius runs through `radii`."""
    x, y, direction = start
    steps = max(3, int(length / 1.2))
    turns = rng.normal(rng.normal(0, bend) / steps, bend / steps, steps)
    directions = direction + np.cumsum(turns)
    xs = x + np.cumsum(np.cos(directions)) * length / steps
    ys = y + np.cumsum(np.sin(directions)) * length / steps
    radius = np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, len(radii)), radii)
    return np.stack([xs, ys, radius], axis=1)


def _spindle(rng: Generator, scale: float) -> Discs:
    length, half = rng.uniform(17, 27) * scale, rng.uniform(3.8, 5.6) * scale
    angle = rng.uniform(0, 2 * np.pi)
    body = _path(rng, (0, 0, angle), length, [1.2, 0.8 * half, half, 0.8 * half, 1.2], 0.4)
    parts = [body]
    for end, direction in ((body[-1], angle), (body[0], angle + np.pi)):
        if rng.random() < 0.45:
            parts.append(_path(rng, (end[0], end[1], direction), rng.uniform(4, 9) * scale, [1.1, 0.8], 0.8))
    return np.concatenate(parts)


def _branching(rng: Generator, scale: float) -> Discs:
    """A body and thin processes that fork on their way, and fork again."""
    around = rng.normal(0, 4.5 * scale, (5, 2))
    parts = [np.column_stack([around, rng.uniform(8.5, 12, 5) * scale])]
    for i, angle in enumerate(rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, rng.integers(5, 8))[:-1]):
        x, y, _ = parts[0][i % 5]
        thick, length = rng.uniform(4.2, 6.2) * scale, rng.uniform(18, 36) * scale
        arm = _path(rng, (x, y, angle + rng.normal(0, 0.2)), length, [1.3 * thick, 0.6 * thick, 1.3], 0.7)
        parts.append(arm)
        for at, chance in ((0.45, 0.6), (0.7, 0.4)):
            if rng.random() < chance:
                fork = arm[int(at * len(arm))]
                side = angle + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
                branch = (fork[0], fork[1], side)
                parts.append(_path(rng, branch, (1 - at) * length, [max(0.5 * thick, 1.4), 1.1], 0.6))
    return np.concatenate(parts)


def _round(rng: Generator, scale: float) -> Discs:
    radius = rng.uniform(5.5, 8) * scale
    around = rng.normal(0, 0.28 * radius, (4, 2))
    body = np.column_stack([around, rng.uniform(0.75, 0.95, 4) * radius])
    if rng.random() > 0.4:
        return body
    angle = rng.uniform(0, 2 * np.pi)
    x, y = 0.7 * radius * np.cos(angle), 0.7 * radius * np.sin(angle)
    return np.concatenate([body, _path(rng, (x, y, angle), rng.uniform(5, 9) * scale, [1.6 * scale, 0.8], 0.5)])


SHAPES: dict[str, Shape] = {
    "shsy5y": Shape(count=(24, 40), thickness=1.3, crowding=0.65, fibres=(0, 3), outline=_spindle),
    "astro": Shape(count=(4, 9), thickness=1.3, crowding=0.3, fibres=(0, 3), outline=_branching),
    "cort": Shape(count=(9, 20), thickness=2.0, crowding=0.35, fibres=(3, 8), outline=_round),  # rounded up: thick
}


# --- the field ------------------------------------------------------------------------------------------


def _place(rng: Generator, shape: Shape, well: Well, size: Size) -> list[Crop]:
    """Masks of the cells of one field; a cell may touch others and lie on them by MAX_OVERLAP."""
    fields = size[0] * size[1] / FIELD_PX / well.magnification**2 * well.density
    low, high = (max(1, round(n * fields)) for n in shape.count)
    taken = np.zeros(size, bool)
    centres: list[tuple[float, float]] = []
    crops: list[Crop] = []
    for _ in range(rng.integers(low, high, endpoint=True)):
        crowded = rng.random() < shape.crowding
        for _ in range(TRIES):
            outline = well.magnification * shape.outline(rng, well.scale)
            beside = centres if crowded else []
            x, y = _centre(rng, outline, beside, size)
            crop = _draw(outline + np.array([x, y, 0]), size)
            if crop is not None and _take(taken, crop, touching=bool(beside)):
                centres.append((x, y))
                crops.append(crop)
                break
    return crops


def _take(taken: Bitmap, crop: Crop, *, touching: bool) -> bool:
    """Mark the pixels of a cell as taken, unless too many of them are, or none is near that is `touching`."""
    bitmap, x0, y0 = crop
    under = taken[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]]
    if (under & bitmap).sum() > MAX_OVERLAP * bitmap.sum():
        return False
    if touching and not (ndimage.binary_dilation(bitmap) & under).any():
        return False
    under |= bitmap
    return True


def _centre(rng: Generator, outline: Discs, beside: Sequence[tuple[float, float]], size: Size) -> tuple[float, float]:
    """About one cell's breadth from one of those in `beside`; anywhere in the picture when there is none."""
    height, width = size
    if beside:
        x, y = beside[int(rng.integers(len(beside)))]
        angle = rng.uniform(0, 2 * np.pi)
        breadth = np.ptp(outline[:, :2], axis=0).mean() / 2 + outline[:, 2].max()
        reach = float(breadth) * rng.uniform(0.5, 1.5)
        x, y = x + reach * math.cos(angle), y + reach * math.sin(angle)
        if 0 <= x < width and 0 <= y < height:
            return x, y
    return rng.uniform(0, width), rng.uniform(0, height)


def _draw(discs: Discs, size: Size) -> Crop | None:
    """The largest connected part of a union of discs inside the picture; None when too little is inside."""
    height, width = size
    x0, y0 = np.maximum(np.floor((discs[:, :2] - discs[:, 2:]).min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil((discs[:, :2] + discs[:, 2:]).max(0)).astype(int) + 2, [width, height])
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    canvas = Image.new("L", (int(x1 - x0), int(y1 - y0)))
    pen = ImageDraw.Draw(canvas)
    for x, y, radius in (discs - [x0, y0, 0]).tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    parts, count = ndimage.label(np.asarray(canvas), np.ones((3, 3)))
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max() < MIN_VISIBLE_PX:
        return None
    return parts == int(sizes.argmax()) + 1, int(x0), int(y0)


# --- the picture ----------------------------------------------------------------------------------------


def _thickness(
    rng: Generator, shape: Shape, crops: Sequence[Crop], size: Size, magnification: float
) -> NDArray[np.float32]:
    """Optical thickness, float32 (H, W): domes over the cells, grains in them, fibres and debris between."""
    field = np.zeros(size, np.float32)
    for bitmap, x0, y0 in crops:
        depth = ndimage.distance_transform_edt(np.pad(bitmap, 1))[1:-1, 1:-1]
        dome = depth / (depth + 1.8 * magnification) * shape.thickness * rng.uniform(0.75, 1.25)
        field[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] += dome.astype(np.float32)
    field *= 1 + 0.12 * _smooth_noise(rng, size, 1.3 * magnification)
    for _ in range(round(rng.integers(*shape.fibres, endpoint=True) / magnification**2)):
        start = rng.uniform(0, size[1]), rng.uniform(0, size[0]), rng.uniform(0, 2 * np.pi)
        fibre = _draw(_path(rng, start, magnification * rng.uniform(30, 110), [0.6 * magnification] * 2, 1.2), size)
        if fibre is not None:
            bitmap, x0, y0 = fibre
            strength = np.float32(rng.uniform(0.12, 0.4))
            field[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] += strength * bitmap
    return field + _debris(rng, size, magnification)


def _debris(rng: Generator, size: Size, magnification: float) -> NDArray[np.float32]:
    """Specks (bright or dark, a few pixels) and blurred shadows of what floats above the focus."""
    fields = size[0] * size[1] / FIELD_PX / magnification**2
    debris = np.zeros(size, np.float32)
    for most, strength, blur_px in ((14, 16.0, 1.3), (6, 110.0, 6.0)):
        dots = np.zeros(size, np.float32)
        n = rng.integers(0, max(1, round(most * fields)), endpoint=True)
        amounts = rng.uniform(0.3, 1.0, n) * rng.choice([-1.0, -1.0, 1.0], n) * strength * magnification**2
        np.add.at(dots, (rng.integers(0, size[0], n), rng.integers(0, size[1], n)), amounts)
        debris += ndimage.gaussian_filter(dots, blur_px * magnification)
    return debris


def _photograph(rng: Generator, thickness: NDArray[np.float32], well: Well) -> NDArray[np.uint8]:
    """uint8 (H, W): what the camera of this well makes of a thickness."""
    height, width = thickness.shape
    blur_px, halo_px = well.magnification * well.blur_px, well.magnification * well.halo_px
    sharp = ndimage.gaussian_filter(thickness, blur_px)
    near, far = (ndimage.gaussian_filter(thickness, sigma) for sigma in (halo_px / 2.5, halo_px))
    field = sharp - well.halo * (0.5 * near + 0.6 * far)
    field -= 0.03 * _smooth_noise(rng, (height, width), 4.0 * well.magnification)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    light = 1 + well.tilt[0] * x + well.tilt[1] * y - 0.12 * (x * x + y * y)
    exact = well.level * light * (1 - well.contrast * field)
    noisy = exact + rng.normal(0, well.noise, (height, width))
    picture: NDArray[np.uint8] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return picture


def _smooth_noise(rng: Generator, size: Size, sigma_px: float) -> NDArray[np.float32]:
    """Blurred white noise of unit variance, float32 (H, W)."""
    noise = ndimage.gaussian_filter(rng.standard_normal(size, dtype=np.float32), sigma_px)
    scaled: NDArray[np.float32] = noise * np.float32(2 * math.sqrt(math.pi) * sigma_px)
    return scaled
