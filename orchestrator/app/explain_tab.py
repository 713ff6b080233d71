"""Lays out the tab with what the models computed for the image of the first tab: the pictures of `cellsemi explain`."""

from __future__ import annotations

from typing import Any

from cellsemi.orchestrator.app.cells_tab import PLAIN, CellsTab, Shown, Told, limits_for
from cellsemi.orchestrator.app.models import Models
from cellsemi.orchestrator.app.pictures import Pictures
from cellsemi.orchestrator.explain.pictures import all_figures
from cellsemi.orchestrator.explain.write import summary

COLUMNS = ["number", "kept", "why", "class_name", "score", "area_px", "found_by"]
FIRST = "Choose an image in the tab of cells first."


def build(models: Models, cells: CellsTab, pictures: Pictures, told: Told) -> None:
    """The tab, inside of a gr.Blocks."""
    import gradio as gr

    button = gr.Button("Explain the image of the first tab", variant="primary", elem_id="explain")
    said = gr.Markdown(FIRST, elem_id="explained")
    gallery = gr.Gallery(
        label="What the models computed", columns=3, object_fit="contain", height=560, elem_id="explain-pictures"
    )
    table = gr.Dataframe(label="Why each cell was kept or dropped", interactive=False, max_height=400, wrap=True)

    def explain(shown: Shown, *values: float) -> tuple[Any, ...]:
        if shown.found is None:
            return FIRST, None, None
        limits = limits_for(shown.found, cells.classes, values)
        found = models.explain(shown.key, shown.source, limits)
        figures = [
            (pictures.keep(each.name, each.content), " ".join((f"{each.title}.", *each.notes)))
            for each in all_figures(found)
        ]
        return "\n\n".join((f"{summary(found)}.", *found.notes)), figures, found.table()[COLUMNS].round(3)

    button.click(told(explain), [cells.shown, *cells.values], [said, gallery, table], **PLAIN)
