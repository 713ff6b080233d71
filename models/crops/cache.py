"""Keeps decoded training images, as many as the memory of the machine allows."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from cellsemi.models.crops.crop import TrainingImage

SHARE = 0.25  # of the memory: what all processes that make crops may keep together, one for each CPU
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container or a job, where there is one (cgroup v2)


def share_of_memory() -> int:
    """Bytes that one process may keep: its part of SHARE of the memory, when each CPU has such a process."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CGROUP_LIMIT.is_file():
        limit = CGROUP_LIMIT.read_text(encoding="ascii").strip()
        memory = min(memory, int(limit)) if limit.isdigit() else memory
    return int(SHARE * memory / (os.cpu_count() or 1))


class ImageCache:
    """Images by row; those that were not used for the longest time make room when `limit` bytes are passed.

    The image that was asked for last always stays. A copy of the cache in another process starts empty.
    """

    def __init__(self, decode: Callable[[int], TrainingImage], limit: int) -> None:
        self._decode, self._limit = decode, limit
        self._images: OrderedDict[int, TrainingImage] = OrderedDict()
        self._bytes = 0

    def __call__(self, row: int) -> TrainingImage:
        """The image of a row."""
        if row not in self._images:
            image = self._decode(row)
            self._images[row] = image
            self._bytes += image.nbytes
            while self._bytes > self._limit and len(self._images) > 1:
                self._bytes -= self._images.popitem(last=False)[1].nbytes
        self._images.move_to_end(row)
        return self._images[row]

    def __reduce__(self) -> tuple[type[ImageCache], tuple[Callable[[int], TrainingImage], int]]:
        return ImageCache, (self._decode, self._limit)
