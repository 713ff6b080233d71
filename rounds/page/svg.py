"""Makes SVG of matplotlib's figures that takes its colours from the page, so that it is readable in dark and light."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for a colour of the page's style (page.css): matplotlib knows no variables.
PLACES = {
    "#010101": "currentColor",
    "#020202": "var(--grid)",
    "#030303": "var(--paper)",
    "#040404": "var(--soft)",
    "#110000": "var(--c0)",
    "#110001": "var(--c1)",
    "#110002": "var(--c2)",
    "#110003": "var(--c3)",
    "#110004": "var(--c4)",
    "#110005": "var(--c5)",
    "#110006": "var(--c6)",
    "#120000": "var(--accepted)",
    "#120001": "var(--ignored)",
    "#120002": "var(--rejected)",
}
INK, GRID, PAPER, SOFT = list(PLACES)[:4]
LINES = tuple(list(PLACES)[4:11])  # of several models or classes, in this order
STATE = dict(zip(("accepted", "ignored", "rejected"), list(PLACES)[11:], strict=True))
DASHES = ("-", "--", ":", "-.")  # beside the colours, for those who cannot tell them apart
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

JOINS = "stroke-linejoin: round; stroke-linecap: butt"
WIDTH, HEIGHT = 4.6, 3.2  # inches of a plot
FONT_PT = 11


def style() -> dict[str, object]:
    """What matplotlib draws a plot with: text stays text, and the colours are places."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "cellsemi",
        "font.family": "sans-serif",
        "font.size": FONT_PT,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": SOFT,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": FONT_PT - 1,
        "ytick.labelsize": FONT_PT - 1,
        "legend.frameon": False,
        "legend.fontsize": FONT_PT - 1,
        "legend.handlelength": 2.4,
        "figure.facecolor": "none",
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "text.parse_math": False,  # a $ in a name starts no formula
    }


def axes(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty plot; call it, and draw, inside of matplotlib.rc_context(style())."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def to_svg(figure: Figure, name: str) -> str:
    """The SVG element of a figure, for a page that holds others; `name` begins its ids. The same figure, the same text.

    It holds no address: neither namespaces nor metadata, which HTML does not need.
    """
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r" font-family: [^;\"]*;", "", text)  # that of the page
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)  # it would hold for the whole page
    for colour, place in PLACES.items():
        text = text.replace(colour, place)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg", f'<svg aria-hidden="true" focusable="false" style="{JOINS}"', 1).strip()
