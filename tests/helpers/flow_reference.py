"""The geodesic flow target in plain Python: what the compiled one is compared with, to the last bit."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CENTRE_PULL = 0.05
SQRT2 = math.sqrt(2.0)


def geodesic_flows(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """float32 (2, H, W) of an int32 (H, W) label map; see models.flow.targets."""
    height, width = labels.shape
    flat = np.pad(labels, 1).ravel()
    with np.errstate(invalid="ignore"):  # the distance of two places that are not reached
        pieces, order, starts = _pieces(flat, width + 2)
        depth = _border_distance(pieces, width + 2)
        centres = _centres(depth, order, starts, width + 2)
        flow = _march(pieces, centres, starts, width + 2)
    return np.ascontiguousarray(flow.reshape(2, height + 2, width + 2)[:, 1:-1, 1:-1])


def _pieces(labels, width):
    """8-connected pieces: (piece of each pixel, pixels in order of piece, start of each piece in it)."""
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
    return pieces, order, np.array(starts)


def _border_distance(pieces, width):
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


def _centres(depth, order, starts, width):
    """The centre pixel of each piece; among equals the first in the order of the pixels' index."""
    centres = np.empty(len(starts) - 1, np.int64)
    for piece in range(len(starts) - 1):
        pixels = np.sort(order[starts[piece] : starts[piece + 1]])
        median_y = np.float64(pixels[len(pixels) // 2] // width)
        median_x = np.float64(np.sort(pixels % width)[len(pixels) // 2])
        best = -1e9
        for pixel in pixels:
            away = math.hypot(pixel // width - median_y, pixel % width - median_x)
            value = depth[pixel] - CENTRE_PULL * away
            if value > best + 1e-9:
                best = value
                centres[piece] = pixel
    return centres


def _push(keys, items, size, key, item):
    """Add to a binary min-heap stored in two arrays; returns the new size."""
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if keys[parent] <= key:
            break
        keys[place], items[place] = keys[parent], items[parent]
        place = parent
    keys[place], items[place] = key, item
    return size + 1


def _pop(keys, items, size):
    """Take the smallest off the heap: (item, new size)."""
    top = items[0]
    size -= 1
    key, item = keys[size], items[size]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[place], items[place] = keys[child], items[child]
        place = child
    keys[place], items[place] = key, item
    return top, size


def _upwind(time, frozen, pieces, pixel, step):
    """(smallest frozen time of the two neighbours along one axis, sign of the step towards it)."""
    best, sign = np.inf, 0.0
    for side in (-1, 1):
        other = pixel + side * step
        if pieces[other] == pieces[pixel] and frozen[other] and time[other] < best:
            best, sign = time[other], float(side)
    return best, sign


def _arrival(time, frozen, pieces, pixel, width):
    """Eikonal update of one pixel from its frozen 4-neighbours: (time, flow y, flow x)."""
    a, sign_y = _upwind(time, frozen, pieces, pixel, width)
    b, sign_x = _upwind(time, frozen, pieces, pixel, 1)
    if abs(a - b) < 1.0:  # both axes carry the front
        found = 0.5 * (a + b + math.sqrt(2.0 - (a - b) ** 2))
        return found, (found - a) * sign_y, (found - b) * sign_x
    if a < b:
        return a + 1.0, sign_y, 0.0
    return b + 1.0, 0.0, sign_x


def _march(pieces, centres, starts, width):
    """Fast marching from every centre through its piece; float32 (2, pixels) descent directions."""
    flow = np.zeros((2, pieces.size), np.float32)
    time = np.full(pieces.size, np.inf)
    frozen = np.zeros(pieces.size, np.bool_)
    largest = 0
    for piece in range(len(centres)):
        largest = max(largest, starts[piece + 1] - starts[piece])
    keys = np.empty(8 * largest + 1, np.float64)
    items = np.empty(8 * largest + 1, np.int64)
    for centre in centres:
        time[centre] = 0.0
        size = _push(keys, items, 0, 0.0, centre)
        while size > 0:
            pixel, size = _pop(keys, items, size)
            if frozen[pixel]:
                continue
            frozen[pixel] = True
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    other = pixel + dy * width + dx
                    if pieces[other] != pieces[pixel] or frozen[other]:
                        continue
                    if dy == 0 or dx == 0:
                        found, fy, fx = _arrival(time, frozen, pieces, other, width)
                    else:
                        found, fy, fx = time[pixel] + SQRT2, -dy / SQRT2, -dx / SQRT2
                    if found < time[other] - 1e-12:
                        time[other] = found
                        flow[0, other], flow[1, other] = fy, fx
                        size = _push(keys, items, size, found, other)
    return flow
