"""Measures the shape of a mask by scikit-image: centroid, perimeter, eccentricity, connected parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
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


def parts(crop: Bitmap) -> NDArray[np.int32]:
    """int32 (h, w): 0, or the number of the connected part from 1 on. Pixels that touch at a corner are one part."""
    found: NDArray[np.int32] = measure.label(crop, connectivity=2).astype(np.int32)
    return found
