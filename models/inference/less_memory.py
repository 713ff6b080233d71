"""Lets the networks of this process see less at once, where more has run out of memory.

Fewer windows go through a network together, then smaller ones. On a CPU the last bits of an output depend on that, and
cells at the borders of windows may differ: it is the last resort before an image is given up, and whoever asks says so.
Windows of a grid or of a stated stride are what a model was made for, and stay.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from cellsemi.configs.training import InferenceConfig

LEAST_TILE_PX = 64


class _State:
    """A process does one piece of work at a time, in several threads."""

    halvings = 0


@contextlib.contextmanager
def less_memory(halvings: int) -> Iterator[None]:
    """Inside, networks see 1 / 2 ** `halvings` of the pixels at once."""
    before, _State.halvings = _State.halvings, halvings
    try:
        yield
    finally:
        _State.halvings = before


def halvings() -> int:
    """How often what networks see at once is halved; mostly 0."""
    return _State.halvings


def words() -> str:
    """What is done otherwise than asked for; "" where nothing is."""
    if not _State.halvings:
        return ""
    return f"memory had run out: seen by the network with at most 1/{2**_State.halvings} of the pixels at once"


def at_once(most: int) -> int:
    """How many pixels, or images, are seen at once where it would be `most`; at least one."""
    return most and max(1, most >> _State.halvings)


def smaller_tiles(inference: InferenceConfig, most_px: int, height: int, width: int) -> InferenceConfig:
    """The settings for an image of height x width pixels whose windows are seen at once up to `most_px`, at least one.

    >>> with less_memory(1):
    ...     smaller_tiles(InferenceConfig(tile_px=1024), 0, 2000, 512).tile_size
    (724, 362)
    """
    tall, wide = (min(side, tile) for side, tile in zip((height, width), inference.tile_size, strict=True))
    share = at_once(max(most_px, tall * wide)) / (tall * wide)
    if not _State.halvings or share >= 1 or inference.grid is not None or inference.stride_px is not None:
        return inference
    sides = tuple(max(LEAST_TILE_PX, int(side * math.sqrt(share))) for side in (tall, wide))
    return inference.model_copy(update={"tile_px": sides})
