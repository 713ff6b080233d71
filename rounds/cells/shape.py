"""Measures the shape of a mask: centroid, perimeter, eccentricity, connected parts, and how much it looks like two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage import measure

from cellsemi.rounds.cells.rle import Bitmap


def centroid(crop: Bitmap) -> tuple[float, float]:
    """x and y of the mean of the pixel centres of a bool (h, w) mask; the centre of its upper left pixel is (0, 0)."""
    y, x = np.nonzero(crop)
    return float(x.mean()), float(y.mean())


def perimeter(crop: Bitmap) -> float:
    """Length of the outline of a bool (h, w) mask in pixels, all beyond the bitmap being background.

    A line through the centres of the border pixels, which have background beside, above or below them; sqrt(2) a
    diagonal step, 0 for a single pixel (Benkrid and Crookes 2000, Design and FPGA implementation of a perimeter
    estimator).
    """
    return float(measure.perimeter(crop, neighborhood=4))


def eccentricity(crop: Bitmap) -> float:
    """That of the ellipse with the second central moments of a bool (h, w) mask, in [0, 1].

    0 for a circle and a single pixel, 1 for a line one pixel wide: pixels count as points.
    """
    (region,) = measure.regionprops(crop.astype(np.uint8))
    return float(region.eccentricity)


def solidity(crop: Bitmap) -> float:
    """The share of its convex hull that a bool (h, w) mask fills, in (0, 1]: 1 for a rectangle, less with a waist.

    Pixels are squares: the hull is that of their corners.
    """
    rows = np.flatnonzero(crop.any(axis=1))
    left, right = crop[rows].argmax(axis=1), crop.shape[1] - crop[rows, ::-1].argmax(axis=1)
    corners = [np.stack([rows + down, side], axis=1) for down in (0, 1) for side in (left, right)]
    return float(crop.sum() / ConvexHull(np.concatenate(corners)).volume)


def second_core(crop: Bitmap) -> float:
    """How large the second core of a bool (h, w) mask is beside its first, in [0, 1]: 0 with one core, 1 for a pair.

    Cores are the connected parts of what is more than half as deep as the deepest pixel, depth being the distance to
    the background (all beyond the bitmap is background). Two cells in one mask, joined at a waist, have a core each.
    """
    depth = ndimage.distance_transform_edt(np.pad(crop, 1))
    cores, count = ndimage.label(2 * depth > depth.max(), structure=np.ones((3, 3)))
    if count < 2:
        return 0.0
    second, first = np.sort(np.bincount(cores.ravel())[1:])[-2:]
    return float(second / first)


def parts(crop: Bitmap) -> NDArray[np.int32]:
    """int32 (h, w): 0, or the number of the connected part from 1 on. Pixels that touch at a corner are one part."""
    found: NDArray[np.int32] = measure.label(crop, connectivity=2).astype(np.int32)
    return found
