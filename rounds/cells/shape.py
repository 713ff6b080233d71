"""Measures the shape of a mask: perimeter and eccentricity."""

from __future__ import annotations

from math import sqrt

import numpy as np

from cellsemi.rounds.cells.rle import Bitmap

# Length that a border pixel adds, by what touches it (Benkrid and Crookes 2000, Design and FPGA implementation of
# a perimeter estimator): 1 for itself, 2 for each border pixel beside, above or below it, 10 for each at a corner.
_LENGTH = np.zeros(50)


_LENGTH[[5, 7, 15, 17, 25, 27]] = 1


_LENGTH[[21, 33]] = sqrt(2)


_LENGTH[[13, 23]] = (1 + sqrt(2)) / 2


def perimeter(crop: Bitmap) -> float:
    """Length of the outline of a bool (h, w) mask in pixels: the sum of _LENGTH over its border pixels.

    Border pixels have background beside, above or below; all beyond the bitmap is background.
    """
    inside = np.pad(crop, 1)
    core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    border = np.pad(crop & ~core, 1).astype(np.int64)
    rows = border[:-2] + border[2:]
    beside = rows[:, 1:-1] + border[1:-1, :-2] + border[1:-1, 2:]
    corners = rows[:, :-2] + rows[:, 2:]
    return float(_LENGTH[(1 + 2 * beside + 10 * corners)[border[1:-1, 1:-1] == 1]].sum())


def eccentricity(cxx: float, cyy: float, cxy: float) -> float:
    """That of the ellipse with these second central moments (variances and covariance of x and y), in [0, 1].

    0 for a circle and a single pixel, 1 for a line one pixel wide: pixels count as points.
    """
    middle, reach = (cxx + cyy) / 2, sqrt(((cxx - cyy) / 2) ** 2 + cxy**2)
    if middle + reach == 0:
        return 0.0
    return sqrt(max(0.0, 1 - (middle - reach) / (middle + reach)))
