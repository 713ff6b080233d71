"""Shows what a flow network puts out for an image, and what its parts do for one window of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.explanation import Map, small
from cellsemi.models.flow.cells import LabelledCells
from cellsemi.models.flow.outputs import FLOW_CHANNELS
from cellsemi.models.flow.view_average import resized
from cellsemi.models.inference.activations import Seen, Watched, recorded
from cellsemi.models.inference.windows import fullest, part_of, windows
from cellsemi.rounds.cells.instances import Instances

Outputs = NDArray[np.float32]
Reasons = Sequence[tuple[LabelledCells, Sequence[str]]]
WHEEL_PX = 96  # side of the legend of the flow's colours
MOST_SPREAD = 0.5  # the largest standard deviation of numbers in [0, 1]


def explain_outputs(mean: Outputs, spread: Outputs, views: int) -> tuple[Map, ...]:
    """Maps of outputs (3 + classes, H, W), the mean of so many views, and of their spread (H, W)."""
    made = small(mean)
    flow = made[1:FLOW_CHANNELS]
    length = np.sqrt((flow**2).sum(0))
    maps = [
        Map("outputs", "cell probability", made[0], "the probability that a pixel belongs to a cell"),
        Map(
            "outputs",
            "flow",
            flow_colours(flow),
            "the direction in which a pixel moves to its cell's centre as hue, its length up to 1 as brightness, with "
            "the hues of Cellpose (Stringer et al. 2021); the wheel shows each direction",
            legend=flow_wheel(),
        ),
        Map("outputs", "flow magnitude", length, "the length of the flow, 1 where it is sure of its direction"),
    ]
    if views > 1:
        note = f"the standard deviation of the cell probability between {views} views of the image"
        maps.append(Map("outputs", "spread of the views", small(spread), note, high=MOST_SPREAD))
    note = "the probability of the class, where there is a cell"
    maps += [
        Map("classes", "class", channel, note, class_id=number) for number, channel in enumerate(made[FLOW_CHANNELS:])
    ]
    return tuple(maps)


def flow_colours(flow: Outputs) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a flow (2, H, W) as y, x: direction as hue, length up to 1 as brightness.

    The hue is that of Cellpose's pictures (cellpose.plot.dx_to_circ, 4.2), of which the brightness is stretched between
    percentiles of the image; here equal flows have equal colours in all images.
    """
    length = np.clip(np.hypot(flow[0], flow[1]), 0, 1)
    angle = np.arctan2(flow[1], flow[0]) + np.pi
    waves = [length * (np.cos(angle + turn * 2 * np.pi / 3) + 1) / 2 for turn in range(3)]  # red, green, blue
    return np.asarray(np.rint(255 * np.stack(waves, axis=-1)), np.uint8)


def flow_wheel(side: int = WHEEL_PX) -> NDArray[np.uint8]:
    """uint8 (side, side, 3): a disc whose colour at each place is that of a flow from the centre to it."""
    reach = np.linspace(-1, 1, side, dtype=np.float32)
    y, x = np.meshgrid(reach, reach, indexing="ij")
    inside = np.hypot(x, y) <= 1
    return flow_colours(np.stack([y * inside, x * inside]))


def watch_window(
    pixels: Outputs,
    cells: Instances,
    inference: InferenceConfig,
    parts: Sequence[Watched],
    see: Callable[[Outputs], tuple[int, int]],
) -> Seen:
    """What the parts do for the window of an image (H, W) or (H, W, 3) that holds most of its cells.

    `see` runs the network on a window and returns the size of what it was given. The window is one at the first of
    `inference.scales`, not turned.
    """
    if not parts:
        return Seen(notes=("Its family names no parts of its network: only what it puts out is shown.",))
    scale = inference.scales[0]
    height, width = pixels.shape[:2]
    shown = at_scale(pixels, scale)
    placed = windows(shown.shape[0], shown.shape[1], inference)
    centres = (cells.bbox[:, :2] + cells.bbox[:, 2:]) / 2 * scale
    window = fullest(placed, centres)
    cut = shown[window.y.start : window.y.stop, window.x.start : window.x.stop]
    with recorded(parts) as recorder:
        given = see(cut)
    filled = cut.shape[0] / given[0], cut.shape[1] / given[1]
    return recorder.seen(part_of(window, scale, height, width), filled, len(placed))


def at_scale(pixels: Outputs, scale: float) -> Outputs:
    """(H, W) or (H, W, 3) pixels at a scale, as the network sees them."""
    channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    done = resized(channels, *(max(1, round(side * scale)) for side in pixels.shape[:2]))
    return done[0] if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(done, 0, -1))


def dropped_cells(reasons: Reasons) -> Instances | None:
    """The cells that were left out, state `rejected`, with the reason of each; None where there is none."""
    encoded = [(cells.encode(), why) for cells, why in reasons if len(cells.score)]
    if not encoded:
        return None
    height, width = encoded[0][0].height, encoded[0][0].width
    every = Instances.concat(height, width, [cells for cells, _ in encoded])
    return every.with_(state="rejected", reason=[each for _, why in encoded for each in why])
