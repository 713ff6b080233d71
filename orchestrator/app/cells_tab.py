"""Lays out the tab with the cells of one image, and says what each control does. Gradio calls plain functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellsemi.configs.formats import ANNOTATION_EXTENSIONS, WRITABLE
from cellsemi.orchestrator.app.downloads import write_download
from cellsemi.orchestrator.app.found import KEPT, Found, counts, kept, limits_of, why
from cellsemi.orchestrator.app.labels import Compared, compare, read_labels
from cellsemi.orchestrator.app.models import Models
from cellsemi.orchestrator.app.pictures import Pictures
from cellsemi.orchestrator.app.view import CHOSEN, Layer, cell_at, in_one_colour
from cellsemi.orchestrator.explain.pictures import DROPPED, OF_CELLS
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.datasets.mask_folder import FoundMasks
from cellsemi.rounds.drawing import class_colours
from cellsemi.rounds.store.image_codec import EXTENSIONS

Told = Callable[[Callable[..., Any]], Callable[..., Any]]  # shows the errors of a function in the browser
PLAIN: dict[str, Any] = {"api_visibility": "private"}  # of every event: the page calls it, nobody else
CLICK = "Click a cell, or type its number, to see why it is kept or dropped."
# Of events that follow a control: while one is at work the last of those that come is kept, not dropped.
FOLLOW: dict[str, Any] = {**PLAIN, "trigger_mode": "always_last"}
CHOOSE = "Drop an image, or type the id of an image of the run."
LABELS = (*EXTENSIONS, *ANNOTATION_EXTENSIONS, ".csv")
COLOURS = "Filled: kept. "
COMPARED = "Blue: right, orange: false, yellow: missed. "


@dataclass(slots=True, eq=False)
class Shown:
    """What one browser tab looks at: the image's cells, the labels beside them, the cell that was chosen."""

    key: str = ""
    source: Path | str = ""
    found: Found | None = None
    truth: FoundMasks | None = None
    chosen: int | None = None


# --- plain functions ----------------------------------------------------------------------------------


def draw(shown: Shown, limits: Cutoffs, dropped: bool) -> tuple[np.ndarray, str, str]:
    """The picture uint8 (h, w, 3), what is kept in words and numbers, and what is known of the chosen cell."""
    found = shown.found
    assert found is not None, "an image was predicted"
    stays = kept(found, limits)
    compared = None if shown.truth is None else compare(found, limits, shown.truth)
    layers = [] if not dropped else [in_one_colour(found.cells.select(~stays), OF_CELLS[DROPPED], 0.0)]
    if compared is None:
        index = np.flatnonzero(stays)
        layers.append(Layer(found.cells.select(index), [found.colours[i] for i in index]))
    else:
        layers += compared.layers()
    if shown.chosen is not None:
        layers.append(in_one_colour(found.cells.select([shown.chosen]), CHOSEN, 0.0))
    cell = CLICK if shown.chosen is None else why(found, limits, shown.chosen)
    return found.view.draw(layers), about(found, limits, compared), cell


def about(found: Found, limits: Cutoffs, compared: Compared | None) -> str:
    """What is kept, as Markdown."""
    table = counts(found, limits)
    total = sum(int(str(row[KEPT])) for row in table)
    heads = list(table[0])
    if len(found.classes) > 1:
        for row, colour in zip(table, class_colours(found.classes).values(), strict=True):
            row["class"] = f'<span style="color:rgb{colour}">&#9632;</span> {row["class"]}'
    lines = [f"**{total} of {len(found.cells)} cells kept** in {found.record.image_id} by {found.title}.", ""]
    lines += [compared.sentence(), COMPARED, ""] if compared else [COLOURS, ""]
    lines += [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += ["| " + " | ".join(str(row[name]) for name in heads) + " |" for row in table]
    return "\n".join([*lines, "", *found.notes])


def choose_at(shown: Shown, limits: Cutoffs, dropped: bool, x: float, y: float) -> None:
    """Choose the cell under a point of the picture, if any; a dropped one only where they are drawn."""
    found = shown.found
    if found is None:
        return
    index = np.arange(len(found.cells)) if dropped else np.flatnonzero(kept(found, limits))
    shown.chosen = cell_at(found.cells, index, *found.view.pixel(x, y))


def place_of(number: str, count: int) -> int | None:
    """The place of the cell with a number as a person types it; None where there is no such cell."""
    text = number.strip()
    return int(text) - 1 if text.isdecimal() and 1 <= int(text) <= count else None


def limits_for(found: Found, classes: Sequence[str], values: Sequence[float]) -> Cutoffs:
    """The limits of the classes that a model knows; `values` are the scores of all `classes`, then the areas."""
    places = [classes.index(name) for name in found.classes]
    return limits_of([values[i] for i in places] + [values[len(classes) + i] for i in places], len(places))


def largest_areas(found: Found) -> list[int]:
    """The area of the largest cell of each class, at least 1."""
    cells = found.cells
    return [int(cells.area[cells.class_id == i].max(initial=1)) for i in range(len(found.classes))]


# --- the page -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CellsTab:
    """The parts of the tab that other tabs use: the gr.State of Shown, and the sliders of the classes."""

    shown: Any
    values: list[Any]
    classes: tuple[str, ...]


def build(models: Models, classes: Sequence[str], pictures: Pictures, told: Told) -> CellsTab:
    """The tab, inside of a gr.Blocks; `classes` name those of all models."""
    import gradio as gr

    shown = gr.State(Shown())
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            picture = gr.Image(
                label="The cells", show_label=False, alt_text="The image with the outlines of its cells",
                interactive=False, type="filepath", elem_id="cells-picture", buttons=["fullscreen"],
            )  # fmt: skip
            cell = gr.Markdown(CLICK, elem_id="cells-cell")
            number = gr.Textbox("", label="Number of a cell (Enter)", max_lines=1)
            summary = gr.Markdown(CHOOSE, elem_id="cells-about")
        with gr.Column(scale=2, min_width=320):
            choices = models.choices()
            key = gr.Dropdown(choices, value=choices[0][1] if choices else None, label="Model", elem_id="model")
            again = gr.Button("Look for new models", size="sm")
            image = gr.File(label="Image", file_types=list(EXTENSIONS), elem_id="image", height=110)
            image_id = gr.Textbox("", label="or the id of an image of the run (Enter)", elem_id="image-id", max_lines=1)
            scores, areas = _sliders(classes)
            dropped = gr.Checkbox(label="Show dropped cells", elem_id="dropped")
            with gr.Accordion("Compare with a label file", open=False):
                labels = gr.File(label="Labels of this image", file_types=list(LABELS), elem_id="labels", height=110)
            with gr.Accordion("Download", open=False):
                kind = gr.Dropdown(list(WRITABLE), value="label-maps", label="Format", elem_id="format")
                make = gr.Button("Make the file", elem_id="make")
                file = gr.File(label="The file", interactive=False, elem_id="file", height=80)
    values = [*scores, *areas]
    tab = _Cells(models, classes, pictures)
    seen = [picture, summary, cell, number]
    args = [shown, dropped, *values]
    quick: dict[str, Any] = {**FOLLOW, "show_progress": "hidden"}
    fresh = [shown, *seen, *values]
    image.upload(told(tab.predict_file), [shown, key, image], fresh, **FOLLOW)
    key.input(told(tab.predict_again), [shown, key], fresh, **FOLLOW)
    image_id.submit(told(tab.predict_id), [shown, key, image_id], fresh, **FOLLOW)
    gr.on([*(each.input for each in values), dropped.input], told(tab.show), args, seen, **quick)
    picture.select(told(tab.click), args, seen, **quick)
    number.submit(told(tab.choose), [number, *args], seen, **quick)
    gr.on([labels.upload, labels.clear], told(tab.compare), [labels, *args], seen, **FOLLOW)
    make.click(told(tab.write), [kind, shown, *values], [file], **PLAIN)
    again.click(lambda: gr.Dropdown(choices=models.choices()), None, [key], **PLAIN)
    return CellsTab(shown, values, tuple(classes))


def _sliders(classes: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """The sliders of the least score and the least area of each class."""
    import gradio as gr

    scores, areas = [], []
    for name in classes:
        with gr.Row():
            options: dict[str, Any] = {"minimum": 0, "min_width": 140, "buttons": []}
            scores.append(gr.Slider(maximum=1, step=0.001, value=0, label=f"{name}: confidence from", **options))
            areas.append(gr.Slider(maximum=1000, step=1, value=0, label=f"{name}: area from, px", **options))
    return scores, areas


class _Cells:
    """What the controls call: each takes and returns plain values, and those of the components it changes."""

    def __init__(self, models: Models, classes: Sequence[str], pictures: Pictures) -> None:
        self._models, self._classes, self._pictures = models, tuple(classes), pictures

    def predict_file(self, shown: Shown, key: str, image: str) -> tuple[Any, ...]:
        """Predict the file that was dropped."""
        return self._predict(shown, key, Path(image))

    def predict_again(self, shown: Shown, key: str) -> tuple[Any, ...]:
        """Predict the image that is shown with another model."""
        return self._predict(shown, key, shown.source)

    def predict_id(self, shown: Shown, key: str, image_id: str) -> tuple[Any, ...]:
        """Predict an image of the run."""
        return self._predict(shown, key, image_id.strip())

    def _predict(self, shown: Shown, key: str, source: Path | str) -> tuple[Any, ...]:
        import gradio as gr

        if not source:
            return (shown, None, CHOOSE, CLICK, "", *(gr.skip() for _ in range(2 * len(self._classes))))
        found, _ = self._models.find(key, source)
        same = shown.found is not None and shown.found.record.sha256 == found.record.sha256
        shown = Shown(key, source, found, shown.truth if same else None)
        known = [found.classes.index(name) if name in found.classes else None for name in self._classes]
        start, largest = found.start, largest_areas(found)
        scores = [gr.Slider(visible=i is not None, value=0 if i is None else start.min_score[i]) for i in known]
        areas = [
            gr.Slider(visible=False, value=0)
            if i is None
            else gr.Slider(visible=True, value=start.min_area_px[i], maximum=max(largest[i], start.min_area_px[i], 1))
            for i in known
        ]
        return (shown, *self._seen(shown, found.start, False), *scores, *areas)

    def show(self, shown: Shown, dropped: bool, *values: float) -> tuple[Any, ...]:
        """Draw the cells under the limits of the sliders."""
        if shown.found is None:
            return None, CHOOSE, CLICK, ""
        return self._seen(shown, self._limits(shown.found, values), dropped)

    def click(self, event: Any, shown: Shown, dropped: bool, *values: float) -> tuple[Any, ...]:
        """Choose the cell under the pointer."""
        if shown.found is not None:
            choose_at(shown, self._limits(shown.found, values), dropped, *event.index)
        return self.show(shown, dropped, *values)

    def choose(self, number: str, shown: Shown, dropped: bool, *values: float) -> tuple[Any, ...]:
        """Choose a cell by its number."""
        shown.chosen = place_of(number, 0 if shown.found is None else len(shown.found.cells))
        return self.show(shown, dropped, *values)

    def compare(self, labels: str | None, shown: Shown, dropped: bool, *values: float) -> tuple[Any, ...]:
        """Compare with a label file, or no longer."""
        if shown.found is not None:
            shown.truth = read_labels(Path(labels), shown.found.record) if labels else None
        return self.show(shown, dropped, *values)

    def write(self, kind: str, shown: Shown, *values: float) -> str | None:
        """Write the cells that are kept; what the format cannot say is told."""
        import gradio as gr

        if shown.found is None:
            return None
        path, losses = write_download(shown.found, self._limits(shown.found, values), kind, self._pictures.folder)
        for what, count in losses.items():
            gr.Info(f"{kind}: {count} {what}", title="What the format cannot say")
        return str(path)

    def _seen(self, shown: Shown, limits: Cutoffs, dropped: bool) -> tuple[Any, ...]:
        drawn, summary, cell = draw(shown, limits, dropped)
        return self._pictures.write(drawn), summary, cell, "" if shown.chosen is None else str(shown.chosen + 1)

    def _limits(self, found: Found, values: Sequence[float]) -> Cutoffs:
        return limits_for(found, self._classes, values)
