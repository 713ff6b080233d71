"""Finds a pixel of a cell in constant time: the pixels of an instance map, sorted by cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CellPixels:
    """The pixels of each of n cells in an instance map (H, W), as flat indices, row by row within a cell."""

    index: NDArray[np.int32]  # (pixels of cells,), cell after cell
    start: NDArray[np.int64]  # (n + 1,): where the pixels of cell i begin; those of the last end at the last entry
    width: int  # W

    @classmethod
    def of(cls, instance_map: NDArray[np.int32], cells: int) -> Self:
        """Those of a map that holds 0 or less, and the numbers 1 to `cells`."""
        flat = instance_map.ravel()
        inside = np.flatnonzero(flat > 0)
        number = flat[inside]
        order = np.argsort(number, kind="stable")
        area = np.bincount(number, minlength=cells + 1)
        return cls(inside[order].astype(np.int32), np.concatenate([[0], area[1:].cumsum()]), instance_map.shape[1])

    def pick(self, cell: int, place: float) -> tuple[int, int] | None:
        """(y, x) of the pixel of `cell`, from 0, at the share `place` in [0, 1) of its pixels; None: it shows none."""
        first, end = int(self.start[cell]), int(self.start[cell + 1])
        if first == end:
            return None
        y, x = divmod(int(self.index[first + int(place * (end - first))]), self.width)
        return y, x

    @property
    def nbytes(self) -> int:
        """Memory that this takes."""
        return self.index.nbytes + self.start.nbytes

    def __len__(self) -> int:
        return len(self.start) - 1
