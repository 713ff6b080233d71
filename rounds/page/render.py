"""Writes a page as one HTML file that needs nothing else: neither the network nor a script."""

from __future__ import annotations

from pathlib import Path

from cellsemi.rounds.page.blocks import Page

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "page.html", "page.css"
MOST_BYTES = 20_000_000  # of a page


def render(page: Page) -> str:
    """The HTML of a page. All text in it is escaped but the SVG drawings, which are our own."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (FOLDER / STYLE).read_text(encoding="utf-8")
    return environment.get_template(TEMPLATE).render(page=page, style=style)
