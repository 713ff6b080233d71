"""Names the colours of pictures."""

from __future__ import annotations

PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


GREY = (205, 205, 205)  # of cells to be ignored


PAPER, INK = (250, 250, 250), (20, 20, 20)


Colour = tuple[int, int, int]
