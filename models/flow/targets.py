"""Computes flow targets: the vectors that a network learns, from a label map.

Every pixel of a cell gets a unit vector. Following the vectors leads all pixels of one cell to one point,
so cells that touch come apart again (Stringer et al. 2021, Cellpose). How the vectors are made decides
which shapes survive: a network can never do better than the round trip from truth over targets to masks (`round_trip`).

`geodesic` leads along shortest paths inside the cell to an inner centre. It holds for branching cells,
whose centre of mass lies outside, and for thin ones, where Cellpose's diffusion dies out.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

FlowTarget = Literal["geodesic", "diffusion"]


Flow = NDArray[np.float32]


CENTRE_PULL = 0.05  # weight of the distance to the median pixel against the distance to the border


SQRT2 = math.sqrt(2.0)


ONE = np.uintp(1)  # unsigned: no index counts from the end


def flow_targets(labels: NDArray[Any], target: FlowTarget, device: Any = "cpu") -> Flow:
    """Unit flow vectors, float32 (2, H, W) as (y, x), of an integer (H, W) label map (0 is background).

    A vector points towards the centre of its cell; at the centre and on background it is zero. With
    `geodesic` each 8-connected piece of a label has its own centre, so a cell that a crop breaks in two
    is two targets. `device` is the torch device that `diffusion` computes on.
    """
    if labels.ndim != 2:
        raise ValueError(f"expected a (H, W) label map, got shape {labels.shape}")
    dense = np.ascontiguousarray(labels, dtype=np.int32)
    return geodesic_flows(dense) if target == "geodesic" else diffusion_flows(dense, device)


def geodesic_flows(labels: NDArray[np.int32]) -> Flow:
    """The `geodesic` target of `flow_targets`.

    The centre of a piece is its pixel of largest border distance less 0.05 x the distance to the median
    pixel: deep inside, and in the middle where the depth is equal. The distance from it solves the eikonal
    equation inside the piece by fast marching (Sethian 1996), with diagonal steps added so that pixels
    that touch only by a corner are reached. The flow is the upwind descent of that distance.
    """
    height, width = labels.shape
    padded = np.zeros((height + 2, width + 2), np.int32)
    padded[1:-1, 1:-1] = labels
    flat = padded.ravel()
    pieces, starts = _pieces(flat, width + 2)
    depth = _border_distance(pieces, width + 2)
    rows, columns = _places(pieces, starts, width + 2)
    centres = _centres(depth, rows, columns, starts, width + 2)
    flow = _march(pieces, centres, starts, width + 2)
    return np.ascontiguousarray(flow.reshape(2, height + 2, width + 2)[:, 1:-1, 1:-1])


def diffusion_flows(labels: NDArray[np.int32], device: Any = "cpu") -> Flow:
    """The `diffusion` target of `flow_targets`: Cellpose's own, by `cellpose.dynamics`."""
    import torch
    from cellpose import dynamics

    if not labels.any():
        return np.zeros((2, *labels.shape), np.float32)
    dense = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    if labels.all():
        dense = dense + 1
    flow: Flow = dynamics.masks_to_flows_gpu(dense.astype(np.int32), torch.device(device))[0].astype(np.float32)
    return flow


# --- compiled parts: flat arrays of an image padded by one pixel of background ------------------------


@njit(cache=True, nogil=True)
def _pieces(labels, width):  # type: ignore[no-untyped-def]
    """8-connected pieces: (piece of each pixel, how many pixels stand in the pieces before each, and in all)."""
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    pieces = np.zeros(labels.size, np.int32)
    order = np.empty(np.count_nonzero(labels), np.int64)
    starts = [0]
    filled = 0
    for first in range(labels.size):
        if labels[first] == 0 or pieces[first] != 0:
            continue
        piece = len(starts)
        head = filled
        order[filled] = first
        filled += 1
        pieces[first] = piece
        while head < filled:
            pixel = order[head]
            head += 1
            for step in steps:
                other = pixel + step
                if pieces[other] == 0 and labels[other] == labels[first]:
                    pieces[other] = piece
                    order[filled] = other
                    filled += 1
        starts.append(filled)
    return pieces, np.array(starts)


@njit(cache=True, nogil=True)
def _border_distance(pieces, width):  # type: ignore[no-untyped-def]
    """Chamfer distance (steps 1 and sqrt 2) of each pixel to the nearest pixel outside of its piece."""
    depth = np.zeros(pieces.size, np.float32)
    for backward in range(2):
        sign = 1 if backward else -1
        for count in range(pieces.size):
            pixel = pieces.size - 1 - count if backward else count
            if pieces[pixel] == 0:
                continue
            best = np.float32(1e9) if not backward else depth[pixel]
            for step, length in ((1, 1.0), (width, 1.0), (width - 1, SQRT2), (width + 1, SQRT2)):
                other = pixel + sign * step
                reach = length + (depth[other] if pieces[other] == pieces[pixel] else 0.0)
                best = min(best, np.float32(reach))
            depth[pixel] = best
    return depth


@njit(cache=True, nogil=True)
def _places(pieces, starts, width):  # type: ignore[no-untyped-def]
    """The row and the column of the pixels of each piece, in the order of their index; int32, piece after piece."""
    rows, columns = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    place = starts.copy()
    for row in range(pieces.size // width):
        for column in range(width):
            piece = pieces[row * width + column]
            if piece:
                rows[place[piece - 1]], columns[place[piece - 1]] = row, column
                place[piece - 1] += 1
    return rows, columns


@njit(cache=True, nogil=True)
def _centres(depth, rows, columns, starts, width):  # type: ignore[no-untyped-def]
    """The centre pixel of each piece; among equals the first in the order of the pixels' index."""
    centres = np.empty(len(starts) - 1, np.int64)
    counts = np.zeros(width, np.int64)  # pixels of the piece in each column
    for piece in range(len(starts) - 1):
        first, last = starts[piece], starts[piece + 1]
        half = (last - first) // 2
        for place in range(first, last):
            counts[columns[place]] += 1
        middle, before = 0, counts[0]
        while before <= half:
            middle += 1
            before += counts[middle]
        for place in range(first, last):
            counts[columns[place]] = 0
        median_y, median_x = np.float64(rows[first + half]), np.float64(middle)
        best = -1e9
        for place in range(first, last):
            pixel = rows[place] * np.int64(width) + columns[place]
            if depth[pixel] <= best + 1e-9:  # it cannot be better: the pull only takes away
                continue
            away = math.hypot(rows[place] - median_y, columns[place] - median_x)
            value = depth[pixel] - CENTRE_PULL * away
            if value > best + 1e-9:
                best = value
                centres[piece] = pixel
    return centres


@njit(cache=True, nogil=True)
def _push(keys, items, size, key, item):  # type: ignore[no-untyped-def]
    """Add to a binary min-heap stored in two arrays; returns the new size."""
    place = size
    while place > 0:
        parent = (place - ONE) >> ONE
        if keys[parent] <= key:
            break
        keys[place], items[place] = keys[parent], items[parent]
        place = parent
    keys[place], items[place] = key, item
    return size + ONE


@njit(cache=True, nogil=True)
def _pop(keys, items, size):  # type: ignore[no-untyped-def]
    """Take the smallest off the heap: (item, new size)."""
    top = items[0]
    size -= ONE
    key, item = keys[size], items[size]
    keys[size] = np.inf  # a child that is none is never the smaller one
    place = np.uintp(0)
    child = ONE
    while child < size:
        child += np.uintp(keys[child + ONE] < keys[child])
        if keys[child] >= key:
            break
        keys[place], items[place] = keys[child], items[child]
        place = child
        child = place + place + ONE
    keys[place], items[place] = key, item
    return top, size


@njit(cache=True, nogil=True)
def _upwind(reached, pixel, step):  # type: ignore[no-untyped-def]
    """(the smaller time of the two neighbours along one axis, sign of the step towards it); inf where none is known."""
    before, after = reached[pixel - step], reached[pixel + step]
    if after < before:
        return after, 1.0
    return before, -1.0


@njit(cache=True, nogil=True)
def _arrival(reached, pixel, width):  # type: ignore[no-untyped-def]
    """Eikonal update of one pixel from its frozen 4-neighbours: (time, flow y, flow x)."""
    a, sign_y = _upwind(reached, pixel, width)
    b, sign_x = _upwind(reached, pixel, ONE)
    if abs(a - b) < 1.0:  # both axes carry the front
        found = 0.5 * (a + b + math.sqrt(2.0 - (a - b) ** 2))
        return found, (found - a) * sign_y, (found - b) * sign_x
    if a < b:
        return a + 1.0, sign_y, 0.0
    return b + 1.0, 0.0, sign_x


@njit(cache=True, nogil=True)
def _march(pieces, centres, starts, width):  # type: ignore[no-untyped-def]
    """Fast marching from every centre through its piece; float32 (2, pixels) descent directions.

    `reached` holds the times of the frozen pixels of one piece
    at a time, `left` the pieces of the pixels that are not frozen.
    """
    flow_y, flow_x = np.zeros(pieces.size, np.float32), np.zeros(pieces.size, np.float32)
    time, reached, left = np.full(pieces.size, np.inf), np.full(pieces.size, np.inf), pieces.copy()
    largest = 0
    for piece in range(len(centres)):
        largest = max(largest, starts[piece + 1] - starts[piece])
    keys, items = np.empty(8 * largest + 2, np.float64), np.empty(8 * largest + 2, np.uintp)
    frozen, wide = np.empty(largest, np.uintp), np.uintp(width)
    for number in range(len(centres)):
        piece, count = number + 1, 0
        centre = np.uintp(centres[number])
        time[centre] = 0.0
        size = _push(keys, items, np.uintp(0), 0.0, centre)
        while size > 0:
            pixel, size = _pop(keys, items, size)
            if left[pixel] != piece:
                continue
            left[pixel] = 0
            now = time[pixel]
            reached[pixel] = now
            frozen[count] = pixel
            count += 1
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    other = pixel + np.uintp(dy) * wide + np.uintp(dx)
                    if left[other] != piece:
                        continue
                    if dy == 0 or dx == 0:
                        found, fy, fx = _arrival(reached, other, wide)
                    else:
                        found, fy, fx = now + SQRT2, -dy / SQRT2, -dx / SQRT2
                    if found < time[other] - 1e-12:
                        time[other] = found
                        flow_y[other], flow_x[other] = fy, fx
                        size = _push(keys, items, size, found, other)
        for place in range(count):
            reached[frozen[place]] = np.inf
    return np.stack((flow_y, flow_x))
