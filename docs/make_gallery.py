"""Write docs/gallery.md, and draw the pictures of docs/tutorial.md from a finished run of the demo, in Chromium.

cellsemi round --n 3 && python docs/make_gallery.py runs/demo
python docs/make_gallery.py                                    # only the page: `make docs`

The other pictures of the page are those of make_picture.py, make_explain_pictures.py and make_app_pictures.py.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from make_explain_pictures import small

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
APP = "from cellsemi.orchestrator.cli.main import main; main()"
SEEN = "test-00000"  # an image of the demo with many cells, some of which are dropped
SECTIONS = {"report-use.png": "use", "report-learned.png": "learned", "report-images.png": "images"}
HEIGHT_PX = 975  # of a section, what is below is cut off

# The picture, the command that makes it, and what is seen.
GALLERY = (
    ("demo.png", "python docs/make_picture.py runs/demo",
     "The demo: image, human labels, round 0, and what the run recommends, for three magnifications."),
    ("inspect.png", "cellsemi data inspect",
     "Human labels of a data set: outlines in the colour of their class, to be looked at before a run."),
    ("report-use.png", "cellsemi report demo --open",
     "The report begins with what to use, whether the rounds helped, and what went wrong."),
    ("report-learned.png", "cellsemi report demo --open",
     "What the students learned from: cells accepted, ignored and rejected in each round."),
    ("report-images.png", "cellsemi report demo --open",
     "Validation images: right cells blue, false ones orange, missed ones yellow and dashed."),
    ("overlay.png", "cellsemi predict new_images --out found",
     "An overlay of `predict`: the cells that were kept, coloured by class."),
    ("explain-demo.png", "cellsemi explain test-00000 --run demo",
     "A test image explained: kept cells green, cells below the cutoffs of score and area orange."),
    ("explain-cells.png", "cellsemi explain plate7.tif",
     "The same for the models of [See why](explain.md), which learned less."),
    ("explain-outputs.png", "cellsemi explain plate7.tif",
     "What a flow model computed: cell probability, flow as colours, its magnitude."),
    ("explain-boxes.png", "cellsemi explain plate7.tif",
     "What a detector computed: its proposals and its boxes with their scores."),
    ("review-sheet.png", "cellsemi review demo --top 6 --out my_review",
     "A sheet of `review`: accepted cells in one colour, doubtful ones in another, and why the image was chosen."),
    ("app-cells.png", "cellsemi app demo",
     "The app: an image, sliders of each class, one cell with its numbers."),
    ("app-compared.png", "cellsemi app demo",
     "The same beside a label file: right, false and missed cells, and the score."),
    ("app-explain.png", "cellsemi app demo", "The tab *Explain* of the app."),
    ("app-pseudo-labels.png", "cellsemi app demo",
     "Pseudo-labels of an unlabelled image: accepted, ignored, rejected, and filters."),
    ("app-marks.png", "cellsemi app demo", "Marks of a person on cells: right, wrong, ignore."),
    ("app-honoured.png", "cellsemi app demo", "The same image after the next round, which learned the marks."),
)  # fmt: skip
HEAD = """# Pictures

Written by `make docs` from the list in `docs/make_gallery.py`. Each picture has what is seen and the command that
makes it. The cells are generated ones of [the demo](demo.md). [The tutorial](tutorial.md) shows the steps in order.
"""


def page() -> str:
    """docs/gallery.md."""
    lines = [HEAD.rstrip()]
    for name, command, words in GALLERY:
        plain = re.sub(r"\]\([^)]*\)|[`*[]", "", words).rstrip(".")
        lines += ["", f"![{plain}]({name})", "", f"{words} `{command}`"]
    return "\n".join(lines) + "\n"


PAGES = {"gallery.md": page}


def cellsemi(*words: str) -> None:
    """A call of the program by this Python."""
    subprocess.run([sys.executable, "-c", APP, *words], check=True)


def sections(page_file: Path) -> None:
    """Photograph sections of the report."""
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme="light")
        tab.goto(page_file.resolve().as_uri())
        for name, section in SECTIONS.items():
            box = tab.locator(f"#{section}").bounding_box()
            assert box is not None, section
            clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": min(box["height"], HEIGHT_PX)}
            (HERE / name).write_bytes(small(tab.screenshot(full_page=True, clip=clip)))  # type: ignore[arg-type]
        browser.close()


def draw(run: str) -> None:
    """Every picture of the tutorial that no other script draws."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cellsemi("report", run, "--out", name)
        sections(folder / "report.html")
        cellsemi("data", "inspect", "--config", f"{run}/run.yaml", "--out", f"{name}/inspect.png")
        cellsemi("review", run, "--top", "6", "--out", f"{name}/review")
        cellsemi("data", "export", run, "--format", "overlays", "--out", f"{name}/overlays")
        cellsemi("explain", SEEN, "--run", run, "--out", f"{name}/explained")
        made = {
            "explain-demo.png": folder / "explained" / "cells.png",
            "inspect.png": folder / "inspect.png",
            "review-sheet.png": folder / "review" / "sheet-1.png",
            "overlay.png": folder / "overlays" / f"{SEEN}.png",
        }
        for target, source in made.items():
            (HERE / target).write_bytes(small(source.read_bytes()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="the folder of a finished run of the demo; without it only the page")
    arguments = parser.parse_args()
    if arguments.run:
        draw(arguments.run)
    (HERE / "gallery.md").write_text(page(), encoding="utf-8")
