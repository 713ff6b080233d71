"""Integrates the flow: finds where every pixel ends.

The same arithmetic, step by step in float32, as `steps_interp` of cellpose.dynamics (Stringer et al. 2021), which
samples a tensor of all pixels at every step. Here a pixel stops when it is exactly where it was before: at a sink,
or on a cycle about one. The steps that are left are then known by the remainder.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

ONE, TWO, HALF = np.float32(1), np.float32(2), np.float32(0.5)
BLOCK = 256  # pixels that take a step together: their loads from memory overlap, and they fit the nearest cache


def integrate_flow(
    flow: NDArray[np.float32], pixels: tuple[NDArray[np.intp], ...], iterations: int
) -> NDArray[np.float32]:
    """float32 (2, N) as (y, x): where N pixels are after `iterations` Euler steps along a flow (2, H, W).

    `pixels` are their indices, as np.nonzero gives them; both sides of the image are at least two pixels. A step
    adds the flow, interpolated linearly between four pixels and zero outside, and is kept inside the image. As
    at Cellpose, coordinates run from -1 to 1 between the centres of the first and the last pixel, and the flow is
    read as if they ran between the edges: up to half a pixel off. A flow that is not a number leads to pixel 0.
    """
    sides = flow.shape[1:]
    # One more pixel on each side, so that all four neighbours exist wherever the flow is read.
    field = np.zeros((2, sides[0] + 2, sides[1] + 2), np.float32)
    place = np.empty((2, len(pixels[0])), np.float32)
    for axis, side in enumerate(sides):
        np.multiply(flow[axis], np.float32(2.0 / (side - 1)), out=field[axis, 1:-1, 1:-1])
        place[axis] = pixels[axis].astype(np.float32) / np.float32(side - 1) * TWO - ONE
    _integrate_blocks(field[0].ravel(), field[1].ravel(), sides, place, iterations)
    return (place + ONE) * HALF * (np.array(sides, np.float32) - ONE)[:, None]


# Products and sums may be one operation ("contract") as in torch's own kernel: the last bit grows where flows diverge.
@njit(cache=True, nogil=True, fastmath={"contract"})
def _step(field_y, field_x, sides, from_y, from_x, to_y, to_x, count):  # type: ignore[no-untyped-def]
    """One step of the first `count` places, which may be written over themselves."""
    width = np.int64(sides[1] + 2)
    half_y, half_x = np.float32(sides[0] / 2), np.float32(sides[1] / 2)
    for k in range(count):
        y, x = (from_y[k] + ONE) * half_y - HALF, (from_x[k] + ONE) * half_x - HALF
        top, left = np.floor(y), np.floor(x)
        east, south = x - left, y - top
        west, north = ONE - east, ONE - south
        nw, ne, sw, se = west * north, east * north, west * south, east * south
        a = np.uintp((np.int64(top) + 1) * width + np.int64(left) + 1)  # unsigned: no index from the end to think of
        b, c, d = a + np.uintp(1), a + np.uintp(width), a + np.uintp(width + 1)
        y = from_y[k] + (field_y[a] * nw + field_y[b] * ne + field_y[c] * sw + field_y[d] * se)
        x = from_x[k] + (field_x[a] * nw + field_x[b] * ne + field_x[c] * sw + field_x[d] * se)
        y, x = ONE if y > ONE else y, ONE if x > ONE else x
        to_y[k] = y if y >= -ONE else -ONE  # also when it is not a number
        to_x[k] = x if x >= -ONE else -ONE


@njit(cache=True, nogil=True)
def _integrate_blocks(field_y, field_x, sides, place, iterations):  # type: ignore[no-untyped-def]
    """Move all places, a block at a time; one that is found on a cycle (Brent 1980) leaves its block early."""
    y, x, next_y, next_x, mark_y, mark_x = [np.empty(BLOCK, np.float32) for _ in range(6)]
    pixel = np.empty(BLOCK, np.int64)
    for start in range(0, place.shape[1], BLOCK):
        count = min(BLOCK, place.shape[1] - start)
        for k in range(count):
            pixel[k], y[k], x[k] = start + k, place[0, start + k], place[1, start + k]
        marked = 0
        for done in range(iterations):
            if done & (done - 1) == 0:  # 0 and the powers of two
                marked = done
                mark_y[:count], mark_x[:count] = y[:count], x[:count]
            _step(field_y, field_x, sides, y, x, next_y, next_x, count)
            kept = 0
            for k in range(count):
                if next_y[k] == mark_y[k] and next_x[k] == mark_x[k]:
                    for _ in range((iterations - done - 1) % (done + 1 - marked)):
                        _step(field_y, field_x, sides, next_y[k:], next_x[k:], next_y[k:], next_x[k:], 1)
                    place[0, pixel[k]], place[1, pixel[k]] = next_y[k], next_x[k]
                else:
                    y[kept], x[kept], pixel[kept] = next_y[k], next_x[k], pixel[k]
                    mark_y[kept], mark_x[kept] = mark_y[k], mark_x[k]
                    kept += 1
            count = kept
        for k in range(count):
            place[0, pixel[k]], place[1, pixel[k]] = y[k], x[k]
