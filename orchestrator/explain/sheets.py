"""Draws what a model computed as sheets of panels, each with its scale: maps, boxes, cells, shares of activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from cellsemi.models.explanation import Boxes, Map, Part
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.drawing import RGB, cell_colours, draw_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, PANEL_INCHES, WIDE_INCHES, DPI = 3, 3.9, 5.6, 100
PANEL_PX = round(PANEL_INCHES * DPI)  # as large as a panel is drawn; the ground of a large image is made smaller
BOXES = 300  # that are drawn, the best
HEAT = "viridis"  # as a grey scale in print, and the same to colour-blind people
BAR = (0.0, 0.447, 0.698)


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture uint8 (h, w, 3) of a part of the image, with its title."""

    title: str
    picture: RGB
    part: Part


def sheet_of_maps(ground: RGB, maps: Sequence[Map], classes: Sequence[str]) -> bytes:
    """The PNG of maps of one part of an image, which `ground` uint8 (H, W, 3) shows whole: first the part itself."""
    height, width = ground.shape[:2]
    part = maps[0].part or (0, 0, width, height)
    figure, axes = _figure(len(maps) + 1, _inches(part))
    _show(axes[0], "the image" if part == (0, 0, width, height) else "the part of the image", shown(ground, part), part)
    for place, each in zip(axes[1:], maps, strict=True):
        title = each.name if each.class_id is None else f"{each.name} {classes[each.class_id]}"
        drawn = _show(place, title, each.values, each.part or part, (each.low, each.high))
        if each.values.ndim == 2:
            _scale(figure, place, drawn)
        if each.legend is not None:
            wheel = place.inset_axes((0.78, 0.0, 0.22, 0.22))
            wheel.imshow(each.legend)
            wheel.axis("off")
    return _png(figure)


def sheet_of_panels(panels: Sequence[Panel]) -> bytes:
    """The PNG of some pictures side by side."""
    figure, axes = _figure(len(panels), _inches(panels[0].part))
    for place, panel in zip(axes, panels, strict=True):
        _show(place, panel.title, panel.picture, panel.part)
    return _png(figure)


def sheet_of_boxes(ground: RGB, every: Sequence[Boxes]) -> bytes:
    """The PNG of sets of boxes over the image, coloured by their scores; of each the best BOXES are drawn."""
    from matplotlib.collections import LineCollection

    whole = (0, 0, ground.shape[1], ground.shape[0])
    figure, axes = _figure(len(every), _inches(every[0].part or whole, WIDE_INCHES), WIDE_INCHES, columns=2)
    for place, found in zip(axes, every, strict=True):
        part = found.part or whole
        count = len(found.boxes)
        title = f"{found.name}: {count}" + (f", the best {BOXES} drawn" if count > BOXES else "")
        _show(place, title, shown(ground, part), part)
        x0, y0, x1, y1 = found.boxes[:BOXES][::-1].T  # the best on top
        lines = np.stack([np.stack([x0, x1, x1, x0, x0], 1), np.stack([y0, y0, y1, y1, y0], 1)], -1)
        top = max(float(found.scores.max(initial=0.0)), 0.01)  # a network that is unsure of all would be all dark
        drawn = LineCollection(list(lines), linewidths=1.1, cmap=HEAT, array=found.scores[:BOXES][::-1], clim=(0, top))
        place.add_collection(drawn)
        place.set(xlim=(part[0], part[2]), ylim=(part[3], part[1]))
        _scale(figure, place, drawn)
    return _png(figure)


def bars_of_shares(shares: Mapping[str, Mapping[str, float]]) -> bytes:
    """The PNG of the shares of activation of each model's components, in the order of the data."""
    figure, axes = _figure(len(shares), 1.0 + 0.26 * max(map(len, shares.values())), WIDE_INCHES, columns=2)
    for place, (model, own) in zip(axes, shares.items(), strict=True):
        names = list(own)[::-1]
        bars = place.barh(names, [own[name] for name in names], color=BAR)
        place.bar_label(bars, [f"{own[name]:.1%}" for name in names], padding=3, fontsize=8)
        place.set(xlim=(0, 1.2 * max(own.values())), xlabel="share of activation")
        place.set_title(model, fontsize=10)
        place.tick_params(labelsize=8)
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
    return _png(figure)


def with_outlines(ground: RGB, cells: Instances, classes: Sequence[str], by_class: Mapping[str, Any]) -> RGB:
    """The image at the size of a panel, with the outlines of its cells."""
    part = (0, 0, ground.shape[1], ground.shape[0])
    canvas = shown(ground, part, PANEL_PX, PANEL_PX)  # a line of a pixel is then one of the panel
    labels = _resized(masks.to_label_map(cells), canvas.shape[1], canvas.shape[0], nearest=True)
    draw_cells(canvas, labels, cells, cell_colours(cells, classes, dict(by_class)))
    return canvas


def shown(ground: RGB, part: Part, least_px: int = 0, most_px: int = 2 * PANEL_PX) -> RGB:
    """A part of the image, its longer side within `least_px` and `most_px`."""
    x0, y0, x1, y1 = part
    cut = ground[y0:y1, x0:x1]
    longest = max(cut.shape[:2])
    wanted = min(max(longest, least_px), most_px)
    factor = wanted / longest
    size = max(1, round(cut.shape[1] * factor)), max(1, round(cut.shape[0] * factor))
    return np.asarray(_resized(cut, *size, nearest=False), np.uint8)


def _resized(array: Any, width: int, height: int, nearest: bool) -> Any:
    import cv2

    if array.shape[:2] == (height, width):
        return array.copy()
    shrinks = width < array.shape[1]
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(array, (width, height), interpolation=method)


def _inches(part: Part, width: float = PANEL_INCHES) -> float:
    """The height of a panel that shows a part of the image, its title and its scale included."""
    x0, y0, x1, y1 = part
    return 0.55 + 0.85 * width * min((y1 - y0) / (x1 - x0), 2.0)


def _figure(
    count: int, height: float, width: float = PANEL_INCHES, columns: int = COLUMNS
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, up to `columns` in a row, each of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, down = min(columns, count), -(-count // columns)
    figure = Figure(figsize=(across * width * 1.12, down * height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(down, across, place + 1) for place in range(count)]


def _show(place: Axes, title: str, values: Any, part: Part, ends: tuple[float, float] = (0.0, 1.0)) -> Any:
    x0, y0, x1, y1 = part
    drawn = place.imshow(
        values, cmap=HEAT, vmin=ends[0], vmax=ends[1], extent=(x0, x1, y1, y0), interpolation="nearest", aspect="equal"
    )
    place.set_title(title.replace("$", r"\$"), fontsize=10)
    place.tick_params(labelsize=7)
    return drawn


def _scale(figure: Figure, place: Axes, drawn: Any) -> None:
    bar = figure.colorbar(drawn, ax=place, shrink=0.8, pad=0.02)
    bar.ax.tick_params(labelsize=7)


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
