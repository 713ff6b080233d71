"""The app in a real browser: masks follow the sliders, marks teach, and no request leaves the machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.applied import small_run, write_images, write_labels
from helpers.campaigns import bring

import cellsemi
from cellsemi.rounds.review.added import batches
from cellsemi.rounds.review.marks import read_all_marks
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths, read_config

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
TESTS = Path(__file__).parents[2]
SERVER = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from cellsemi.models.registry import FAMILIES
    FAMILIES["flow-unet"] = "helpers.fake_family"
    from cellsemi.orchestrator.cli.main import main
    main(["app", "demo", "--no-open"])
"""
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)} (pip install -e ".[test]")'),
]
SOON = 30_000  # ms that the browser waits for what a busy machine does


@dataclass
class Opened:
    """The app in a tab of the browser, and every address that the page asked for."""

    page: Page
    address: str
    paths: RunPaths
    asked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def text(self, name: str, pattern: str) -> re.Match[str]:
        """What the element says once it fits the pattern."""
        from playwright.sync_api import expect

        expect(self.page.locator(f"#{name}")).to_contain_text(re.compile(pattern, re.S), timeout=SOON)
        found = re.search(pattern, self.page.inner_text(f"#{name}"), re.S)
        assert found is not None
        return found

    def picture(self, name: str) -> str:
        """The address of the picture, once there is one."""
        image = self.page.wait_for_selector(f"#{name} img", timeout=SOON)
        assert image is not None
        return str(image.evaluate("image => image.src"))

    def other_picture(self, name: str, before: str) -> str:
        """The address of the next picture."""
        self.page.wait_for_function(
            "([name, before]) => { const image = document.querySelector(`#${name} img`);"
            " return image && image.src != before && image.complete }",
            arg=[name, before],
            timeout=SOON,
        )
        return self.picture(name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunPaths]]:
    """A run of one round of the stand-in models, and its test images and labels as files."""
    from cellsemi.models.registry import FAMILIES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "flow-unet", "helpers.fake_family")
        here = tmp_path_factory.mktemp("app")
        paths = small_run(here)
        write_images(paths, "test", here / "images")
        write_labels(paths, "test", here / "labels")
        yield here, paths


@pytest.fixture(scope="module")
def address(run: tuple[Path, RunPaths]) -> Iterator[str]:
    """The app, as its command starts it."""
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(TESTS)]
    temporary = run[0] / "temporary"
    temporary.mkdir()
    place = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=run[0], stdout=subprocess.PIPE, text=True, env=place) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield found[0]
        assert list(temporary.glob("cellsemi-app-*/pictures/*.jpg"))
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130 and not list(temporary.glob("cellsemi-app-*"))  # uploads and pictures are gone


@pytest.fixture(scope="module")
def app(address: str, run: tuple[Path, RunPaths]) -> Iterator[Opened]:
    """One tab for all tests of this file, which follow one another as a person's work does."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # whatever name is asked for, it is not found: a request that leaves would fail, and stands in `asked` besides
        away = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", away])
        opened = Opened(browser.new_page(viewport={"width": 1400, "height": 1000}), address, run[1])
        opened.page.on("request", lambda request: opened.asked.append(request.url))
        opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.page.goto(address)
        yield opened
        browser.close()


def kept_of(app: Opened, pattern: str = "") -> tuple[int, int]:
    """How many cells are kept, of how many."""
    found = app.text("cells-about", rf"(\d+) of (\d+) cells kept{pattern}")
    return int(found[1]), int(found[2])


def test_a_dropped_image_shows_the_cells_of_predict_and_sliders_filter_them(
    app: Opened, run: tuple[Path, RunPaths]
) -> None:
    image = sorted((run[0] / "images").glob("*.png"))[0]
    app.page.set_input_files("#image input[type=file]", str(image))
    first = app.picture("cells-picture")
    model = cellsemi.open_run(run[1].root).delivered.load("cpu")
    expected, every = model.predict(image), model.predict(image, min_score=0)
    assert kept_of(app) == (len(expected), len(every)) and len(every) > 0
    names = [expected.classes[i] for i in np.unique(every.class_id)]
    for name in names:  # every cell goes when the least confidence is 1, by keyboard alone
        app.page.get_by_label(f"range slider for {name}: confidence from").press("End")
    second = app.other_picture("cells-picture", first)
    assert app.text("cells-about", rf"0 of {len(every)} cells kept")
    for name in names:
        app.page.get_by_label(f"range slider for {name}: confidence from").press("Home")
    app.text("cells-about", rf"{len(every)} of {len(every)} cells kept")
    app.other_picture("cells-picture", second)


def test_another_model_predicts_the_image_that_is_shown(app: Opened, run: tuple[Path, RunPaths]) -> None:
    recommended = cellsemi.open_run(run[1].root).delivered.title
    number = 0 if "round 1" in recommended else 1
    other = f"the ensemble of round {number} of demo"
    for name, title in ((f"round {number}, ensemble", other), ("what demo recommends", recommended)):
        app.page.locator("#model input").click()
        app.page.get_by_role("option", name=name).click()
        app.text("cells-about", rf"cells kept in test-00000 by {title}")
    keep_all(app)


def keep_all(app: Opened) -> None:
    """Move all sliders of the confidence to 0, until what the page last did for another control has come, too."""
    for _ in range(20):
        for each in app.page.get_by_label(re.compile("range slider for .*: confidence from")).all():
            if each.is_visible():
                each.press("Home")
        app.page.wait_for_timeout(500)
        kept, every = kept_of(app)
        values = [
            each.input_value()
            for each in app.page.get_by_label(re.compile("range slider for .*: confidence from")).all()
            if each.is_visible()
        ]
        if kept == every and set(values) == {"0"}:
            return
    raise AssertionError(f"{kept} of {every} cells are kept with the sliders at {values}")


def test_a_chosen_cell_says_why_it_is_kept(app: Opened) -> None:
    keep_all(app)
    field = app.page.get_by_label("Number of a cell (Enter)", exact=True)
    field.fill("1")
    field.press("Enter")
    app.text("cells-cell", r"Cell 1, .*score 0\.\d+, \d+ px.*Kept: a score of at least 0\.000")


def test_labels_are_compared(app: Opened, run: tuple[Path, RunPaths]) -> None:
    image = sorted((run[0] / "images").glob("*.png"))[0]
    labels = run[0] / "labels" / f"{image.stem}_masks.tif"
    keep_all(app)
    app.page.get_by_text("Compare with a label file").click()
    app.page.set_input_files("#labels input[type=file]", str(labels))
    found = app.text(
        "cells-about", r"(\d+) right, (\d+) false, (\d+) missed .*AP at \.5: ([.\d]+)\. mAP .*: ([.\d]+)\."
    )
    cells = cellsemi.open_run(run[1].root).delivered.load("cpu").predict(image, min_score=0)
    score = cellsemi.score(cells, labels)
    assert float(found[5]) == pytest.approx(score.map, abs=0.0006)
    right, false, missed = (int(found[i]) for i in (1, 2, 3))
    assert right + false == len(cells) and score.precision == pytest.approx(right / len(cells))
    assert float(found[4]) == pytest.approx(right / (right + false + missed), abs=0.0006)


def test_a_file_of_the_cells_is_downloaded(app: Opened, run: tuple[Path, RunPaths], tmp_path: Path) -> None:
    app.page.get_by_text("Download", exact=True).click()
    app.page.locator("#format input").fill("measurements")
    app.page.locator("#format input").press("Enter")
    app.page.click("#make")
    app.page.wait_for_selector("#file a", timeout=SOON)
    with app.page.expect_download() as download:
        app.page.locator("#file a").first.click()
    download.value.save_as(tmp_path / "cells.csv")
    rows = (tmp_path / "cells.csv").read_text().splitlines()
    assert download.value.suggested_filename == "measurements.csv" and len(rows) == 1 + kept_of(app)[0]


def test_what_cannot_be_done_is_said_and_all_stays_as_it_was(app: Opened) -> None:
    before = app.picture("cells-picture"), kept_of(app)
    field = app.page.locator("#image-id input, #image-id textarea").first
    field.fill("<b>no image</b>")
    field.press("Enter")
    message = app.page.get_by_text("<b>no image</b>: no such file, and no image of the run demo has this id")
    message.wait_for(timeout=SOON)
    assert (app.picture("cells-picture"), kept_of(app)) == before
    app.page.locator(".toast-close").first.click()


def test_the_pictures_of_explain_are_shown(app: Opened) -> None:
    app.page.get_by_role("tab", name="Explain").click()
    app.page.click("#explain")
    app.page.wait_for_selector("#explain-pictures img", timeout=SOON)
    app.text("explained", r"the ensemble of round \d of demo: \d+ cells found")


def test_marks_are_kept_at_once_and_teach_the_next_round(app: Opened, run: tuple[Path, RunPaths]) -> None:
    paths, page = app.paths, app.page
    page.get_by_role("tab", name="Pseudo-labels").click()
    app.picture("pseudo-picture")
    count = int(app.text("pseudo-cell", r"(\d+) of \d+ cells are listed")[1])
    assert count > 1
    page.locator("#pseudo-table [data-testid='cell-0-0']").click()
    app.text("pseudo-cell", r"Cell 1, ")
    page.click("#mark-right")
    app.text("marks", "1 marks in 1 images")
    page.locator("#pseudo-table [data-testid='cell-1-0']").click()
    app.text("pseudo-cell", r"Cell 2, ")
    page.click("#mark-wrong")
    app.text("marks", "2 marks in 1 images")
    (marked,) = read_all_marks(paths.marks)  # on disk before anything was handed over
    assert [mark.verdict for mark in marked.marks] == ["right", "wrong"]
    with driver_lock(paths):  # while a driver works, nothing is taken, and nothing is lost
        page.click("#hand-over")
        app.text("result", "no mark is lost.*another cellsemi is working on this run")
    assert not batches(paths) and list(read_all_marks(paths.marks)) == [marked]
    page.click("#hand-over")
    app.text("result", r"1 images are human labels from round 2 on.*1 cells, 1 that are none, the rest is not labelled")
    config = read_config(paths)  # the run is a copy: go on with it where it lies now
    bring(config.model_copy(update={"run": config.run.model_copy(update={"root": str(paths.root.parent)})}), 2)
    (learnt,) = (each for each in shards.read_folder(paths.train(2)) if each.image_id == marked.image_id)
    assert learnt.split == "labelled" and learnt.instances is not None
    assert [mask.decode() for mask in learnt.instances.in_state("human").rle] == [marked.marks[0].rle]
    page.click("#refresh")
    page.get_by_label("Round").click()
    page.get_by_role("option", name="round 2").click()
    app.text("pseudo-cell", r"of \d+ cells are listed")
    page.get_by_label("by name").check()
    page.get_by_label("Name contains (Enter)").fill(marked.image_id)
    page.get_by_label("Name contains (Enter)").press("Enter")
    app.text("found", "A person labelled this image: 1 cells, 1 masks .*the training set of round 2 holds them")


def test_filters_leave_the_cells_that_are_asked_for(app: Opened) -> None:
    image_id = app.page.locator("#pseudo-image input").input_value().split()[0]
    (record,) = (each for each in shards.read_folder(app.paths.pseudo(2)) if each.image_id == image_id)
    assert record.instances is not None and len(record.instances)
    total, listed = len(record.instances), 0
    boxes = {state: app.page.get_by_label(state, exact=True) for state in ("accepted", "ignored", "rejected")}
    for box in boxes.values():
        box.uncheck()
    app.text("pseudo-cell", rf"\b0 of {total} cells are listed")
    for state, box in boxes.items():
        box.check()
        listed += record.instances.state.count(state)  # type: ignore[arg-type]
        app.text("pseudo-cell", rf"\b{listed} of {total} cells are listed")


def test_nothing_left_the_machine_and_the_disk_is_closed(app: Opened, run: tuple[Path, RunPaths]) -> None:
    """Last: it looks at what all tests above did."""
    outside = [url for url in app.asked if not url.startswith((app.address, "data:", "blob:"))]
    assert len(app.asked) > 20 and not outside and not app.problems

    def status(path: str, host: str | None = None) -> int:
        request = urllib.request.Request(f"{app.address}{path}", headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 200 and status("", host="somewhere.example") == 400
    for path in ("/etc/passwd", run[1].config, Path(cellsemi.__file__ or "")):
        assert status(f"gradio_api/file={path}") == 403
