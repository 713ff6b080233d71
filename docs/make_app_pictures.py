"""Takes the pictures of docs/app.md in Chromium, from a run of one round, which it brings to two.

cellsemi round --n 1 --engine inline
python docs/make_app_pictures.py runs/demo plate7.png plate7.geojson unlabelled-00000 --right 1 2 --wrong 50 --ignore 30

The numbers are cells of the unlabelled image as a person marks them, who has looked at it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from make_explain_pictures import small
from playwright.sync_api import Page, expect, sync_playwright

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 120_000
APP = "from cellsemi.orchestrator.cli.main import main; main()"


def cellsemi(*words: str) -> list[str]:
    """A call of the program by this Python."""
    return [sys.executable, "-c", APP, *words]


def says(page: Page, name: str, words: str) -> None:
    """Wait until an element says something."""
    expect(page.locator(f"#{name}")).to_contain_text(re.compile(words), timeout=WAIT_MS)


def take(page: Page, name: str) -> None:
    """Write what is seen beside the guides."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(800)
    (HERE / name).write_bytes(small(page.screenshot(full_page=True)))


def cells(page: Page, image: Path, labels: Path) -> None:
    """An image with its masks, a cell that is chosen; then the labels beside it; then what the models computed."""
    page.set_input_files("#image input[type=file]", str(image))
    says(page, "cells-about", "cells kept")
    page.get_by_label("Show dropped cells").check()
    page.get_by_label("Number of a cell (Enter)", exact=True).fill("3")
    page.get_by_label("Number of a cell (Enter)", exact=True).press("Enter")
    says(page, "cells-cell", "Cell 3")
    take(page, "app-cells.png")
    page.get_by_label("Show dropped cells").uncheck()
    page.get_by_text("Compare with a label file").click()
    page.set_input_files("#labels input[type=file]", str(labels))
    says(page, "cells-about", "missed")
    take(page, "app-compared.png")
    page.get_by_role("tab", name="Explain").click()
    page.click("#explain")
    page.wait_for_selector("#explain-pictures img", timeout=WAIT_MS)
    page.wait_for_timeout(2000)
    take(page, "app-explain.png")


def open_image(page: Page, name: str) -> None:
    """Choose an image of the pool by its name."""
    page.get_by_label("Name contains (Enter)").fill(name)
    page.get_by_label("Name contains (Enter)").press("Enter")
    expect(page.locator("#pseudo-image input")).to_have_value(re.compile(name), timeout=WAIT_MS)
    page.wait_for_timeout(1500)


def marks(page: Page, name: str, said: dict[str, list[int]]) -> None:
    """The pseudo-labels of an image, and marks on some."""
    page.get_by_role("tab", name="Pseudo-labels").click()
    open_image(page, name)
    take(page, "app-pseudo-labels.png")
    number = page.locator("#which input, #which textarea")
    done = 0
    for verdict, numbers in said.items():
        for each in numbers:
            number.fill(str(each))
            number.press("Enter")
            says(page, "pseudo-cell", rf"Cell {each},")
            page.click(f"#mark-{verdict}")
            done += 1
            says(page, "marks", rf"{done} marks in 1 images")
    take(page, "app-marks.png")
    page.click("#hand-over")
    says(page, "result", "human labels from round 2 on")


def honoured(page: Page, name: str) -> None:
    """The same image after the next round."""
    page.click("#refresh")
    page.wait_for_timeout(1500)
    page.locator("#round input").click()
    page.get_by_role("option", name="round 2").click()
    page.get_by_label("by name").check()
    open_image(page, name)
    says(page, "found", "the training set of round 2 holds them")
    take(page, "app-honoured.png")


def main(arguments: argparse.Namespace) -> None:
    """Start the app, work with it as a person would, and go on with the run beside it."""
    command = cellsemi("app", arguments.run, "--no-open")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        try:
            page.goto(address)
            cells(page, arguments.image, arguments.labels)
            marks(page, arguments.pool_image, {name: getattr(arguments, name) for name in ("right", "wrong", "ignore")})
            subprocess.run(cellsemi("round", "--n", "2", "--run", arguments.run, "--engine", "inline"), check=True)
            honoured(page, arguments.pool_image)
        finally:
            browser.close()
            server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("pool_image")
    for verdict in ("right", "wrong", "ignore"):
        parser.add_argument(f"--{verdict}", type=int, nargs="*", default=[])
    main(parser.parse_args())
