"""The page of a run: whole and partial runs, what it shows, that it needs nothing else, and who can read it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at
from helpers.pictures import png
from helpers.run_folders import vouch_for
from helpers.terminal import invoke

from cellsemi.configs.errors import RunError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.runs import page
from cellsemi.orchestrator.runs.page_process import pages_beside
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.history import read_verdict
from cellsemi.rounds.evaluation.leaderboard import display_rows, read
from cellsemi.rounds.page import pictures, render
from cellsemi.rounds.page.blocks import Page
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord

SECTIONS = ["use", "leaderboard", "scores", "learned", "trust", "sizes", "agreement", "images"]
SECTIONS += ["reasons", "changes", "training", "time", "issues", "provenance"]
# What the stand-in finds is mostly wrong: accept what there is, so that two rounds have pseudo-labels.
ANY = "{accept: 0.02, reject: 0.01, min_area_px: 4}"
SETTINGS = (f"filter.thresholds={{shsy5y: {ANY}, astro: {ANY}, cort: {ANY}}}", "rounds.stop_after=null")
SETTINGS += ("rounds.promotion.min_probability=0", "rounds.promotion.class_margin=1")

pytestmark = pytest.mark.usefixtures("fake_models")


@dataclass
class Seen(HTMLParser):
    """What a page holds: its elements with their attributes, and the text below each of them."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def parsed(html: str) -> Seen:
    seen = Seen()
    seen.feed(html)
    return seen


def section(html: str, name: str) -> str:
    return html.split(f'<section id="{name}"')[1].split("</section>", maxsplit=1)[0]


def written(config: Config, paths: RunPaths, out: Path | None = None) -> str:
    return page.write_page(config, paths, out).path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture
def finished(folder: Path) -> tuple[Config, RunPaths]:
    """One run of two rounds for all tests: the first makes it, the others find it done."""
    config = config_at(folder, *SETTINGS)
    return config, bring(config, 2)[0]


@pytest.fixture
def html(finished: tuple[Config, RunPaths], folder: Path) -> Iterator[str]:
    """Its page, written once."""
    path = folder / "shown" / page.NAME
    yield path.read_text(encoding="utf-8") if path.is_file() else written(*finished, folder / "shown")


# --- what it shows ------------------------------------------------------------------------------------


def test_all_parts_are_there_in_the_order_in_which_a_person_asks_and_none_failed(html: str) -> None:
    assert [each["id"] for each in parsed(html).of("section")] == SECTIONS
    assert "could not be drawn" not in html
    for name in ("scores", "learned", "agreement", "training", "time"):
        assert "<svg" in section(html, name), name
    for name in ("images", "reasons", "changes"):
        assert "data:image/webp;base64," in section(html, name), name


def test_the_verdict_and_the_leaderboard_are_those_of_the_run(html: str, finished: tuple[Config, RunPaths]) -> None:
    _, paths = finished
    rows = read(paths.leaderboard)
    use, board = (" ".join(parsed(section(html, name)).text.split()) for name in ("use", "leaderboard"))
    assert " ".join(read_verdict(paths).split()) in use
    _, cells = display_rows(rows)
    for row, shown in zip(rows, cells, strict=True):
        assert f"{row.model} of round {row.round}" in board and shown[3] in board and shown[4] in board
    (marked,) = re.findall(r'<tr class="marked"><th scope="row">(.*?)</th>', html)
    assert [f"{row.model} of round {row.round}" for row in rows if row.recommended] == [marked]


def test_pseudo_labels_are_counted_by_round_and_reason(html: str, finished: tuple[Config, RunPaths]) -> None:
    _, paths = finished
    table = section(html, "learned").split("Cells by state and reason</caption>")[1]
    for round in (1, 2):
        states = [
            f"{state}: {reason}" if reason else state
            for record in shards.read_folder(paths.pseudo(round))
            if (cells := record.instances) is not None
            for state, reason in zip(cells.state, cells.reason, strict=True)
        ]
        for reason in set(states):
            row = table.split(f'<th scope="row">{reason}</th>')[1].split("</tr>")[0]
            assert re.findall(r"<td>(.*?)</td>", row)[round - 1] == f"{states.count(reason):,}"


def test_every_worst_image_is_shown_once_with_its_score(html: str, finished: tuple[Config, RunPaths]) -> None:
    _, paths = finished
    ids = [record.image_id for record in shards.read_folder(paths.split("val"))]
    shown = [each["alt"] for each in parsed(section(html, "images")).of("img")]
    assert len(shown) == len(ids) == 3
    assert all(any(f"Image {image_id}, score " in alt for alt in shown) for image_id in ids)


def test_the_settings_that_differ_and_the_seeds_are_named(html: str, finished: tuple[Config, RunPaths]) -> None:
    config, _ = finished
    shown = parsed(section(html, "provenance")).text
    assert "bootstrap: 100" in shown and "confidence: 0.95" not in shown  # a default
    assert str(config.run.seed) in shown and "none needed: the images are generated" in shown


def test_the_commands_that_it_names_work(html: str, finished: tuple[Config, RunPaths], here: Path) -> None:
    _, paths = finished
    (here / "images").mkdir()
    (here / "images" / "a.png").write_bytes(png(np.zeros((64, 80), np.uint8)))
    lines = parsed(section(html, "use")).text.split("cellsemi ")
    shown = [line.split("   #")[0] for line in lines if "   #" in line]
    assert [line.split()[0] for line in shown] == ["predict", "model", "data"]
    for number, line in enumerate(shown):
        words = line.replace("IMAGES", "images").replace("DIR", f"out-{number}").split()
        done = invoke(*(str(paths.root) if word == paths.name else word for word in words))
        assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"


def test_the_same_run_gives_the_same_bytes_and_leaves_no_other_file(
    html: str, finished: tuple[Config, RunPaths], tmp_path: Path
) -> None:
    assert written(*finished, tmp_path) == html
    assert [path.name for path in tmp_path.iterdir()] == [page.NAME]


# --- it needs nothing else, and everybody can read it -------------------------------------------------


def test_nothing_outside_of_the_file_is_referenced_and_it_runs_no_script(html: str) -> None:
    seen = parsed(html)
    assert len(html.encode()) < render.MOST_BYTES
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r"base64,[\w+/=]+", "", html))
    for attributes in (attributes for _, attributes in seen.elements):
        for name in ("src", "href"):
            assert attributes.get(name, "#")[0] == "#" or attributes[name].startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert not seen.of("script", "iframe", "object", "embed", "form")
    (policy,) = [each["content"] for each in seen.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_every_link_leads_somewhere(html: str) -> None:
    seen = parsed(html)
    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [attributes["href"][1:] for attributes in seen.of("a", "use")]
    wanted += re.findall(r"url\(#([^)]+)\)", html) + [each["aria-labelledby"] for each in seen.of("section")]
    assert set(wanted) <= set(ids) and set(SECTIONS) <= set(wanted)


def test_a_screen_reader_finds_its_way(html: str) -> None:
    seen = parsed(html)
    assert seen.of("html")[0]["lang"] == "en" and len(seen.of("main", "nav", "header")) == 3
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert seen.elements[[tag for tag, _ in seen.elements].index("body") + 1][1] == {
        "class": "skip",
        "href": "#content",
    }
    assert all(each["alt"] for each in seen.of("img"))
    assert all(each["scope"] in ("col", "row") for each in seen.of("th"))
    assert len(seen.of("caption")) == len(seen.of("table"))
    drawings = seen.of("svg")
    assert drawings and all(each["aria-hidden"] == "true" for each in drawings)
    assert len([each for each in seen.of("div") if each.get("role") == "img" and each["aria-label"]]) == len(drawings)


def colours_of(block: str) -> dict[str, tuple[int, ...]]:
    found = re.findall(r"--([\w]+): #(\w{6});", block)
    return {name: tuple(bytes.fromhex(value)) for name, value in found}


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG 2.1, relative luminance."""

    def light(colour: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_have_enough_contrast_in_dark_and_light() -> None:
    """WCAG 2.1 AA: 4.5 for text, 3 for what drawings are made of."""
    style = (render.FOLDER / render.STYLE).read_text(encoding="utf-8")
    screen = style.split("@media print", maxsplit=1)[0]
    light, dark = (colours_of(block) for block in screen.split("prefers-color-scheme: dark"))
    assert set(light) == set(dark) and len(light) > 15
    for colours in (light, dark):
        for ground in ("paper", "card", "mark"):
            assert all(contrast(colours[name], colours[ground]) >= 4.5 for name in ("ink", "soft", "link")), ground
        lines = [name for name in colours if re.fullmatch(r"c\d|accepted|ignored|rejected", name)]
        assert {
            name: contrast(colours[name], colours["paper"])
            for name in lines
            if contrast(colours[name], colours["paper"]) < 3
        } == {}
        for state in ("accepted", "ignored", "rejected"):  # numbers stand in the bars
            assert contrast(colours[state], colours["paper"]) >= 4.5, state


def test_a_picture_of_noise_stays_within_its_size() -> None:
    """So that their number bounds the page: 48 images, 8 cells of each of 8 reasons, 24 changes, 12 issues."""
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1100, 3), np.uint8)
    record = ImageRecord("noise", 1500, 1100, "val", png(pixels))
    found = pictures.whole(record, [], pictures.Caption("t", "w", "a"))
    assert (found.width, found.height) == (293, 400)
    assert len(found.uri) < 4 / 3 * pictures.MOST_BYTES + 100
    assert (48 + 64 + 24 + 12) * 4 / 3 * pictures.MOST_BYTES < render.MOST_BYTES


def test_outlines_are_drawn_where_the_cells_are() -> None:
    from io import BytesIO

    from PIL import Image

    from cellsemi.rounds.cells import masks

    labels = np.zeros((400, 400), np.int32)
    labels[100:200, 50:350] = 1
    cells = masks.from_label_map(labels)
    record = ImageRecord("i", 400, 400, "val", png(np.full((400, 400), 120, np.uint8)), low=0.0, high=255.0)
    layer = pictures.Layer(cells, (235, 110, 30), "false")
    found = pictures.whole(record, [layer], pictures.Caption("t", "w", "a"))
    import base64

    drawn = np.asarray(Image.open(BytesIO(base64.b64decode(found.uri.split(",")[1]))).convert("RGB")).astype(int)
    orange = (drawn[..., 0] - drawn[..., 2]) > 90
    rows, columns = np.nonzero(orange)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((100, 199, 50, 349), abs=2)
    assert not orange[110:190, 60:340].any()
    empty = pictures.Layer(Instances.empty(400, 400), (235, 110, 30), "false")
    assert pictures.whole(record, [empty], pictures.Caption("t", "w", "a")).uri != found.uri


# --- partial runs -------------------------------------------------------------------------------------


def test_a_run_without_a_round_of_pseudo_labels_has_a_page(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    html = written(config, bring(config, 0)[0])
    assert "could not be drawn" not in html and [each["id"] for each in parsed(html).of("section")] == SECTIONS
    for name in ("learned", "agreement", "reasons"):
        assert "No round has pseudo-labels yet" in section(html, name)
    assert "fewer than two rounds" in section(html, "changes")


def test_a_run_with_folds_and_without_drift_alarms_has_a_page(tmp_path: Path) -> None:
    config = config_at(tmp_path, *SETTINGS, "rounds.folds=2", "rounds.drift_alarms=false")
    html = written(config, bring(config, 1)[0])
    assert "could not be drawn" not in html
    assert "Drift was not checked: it is switched off" in html and "these are of fold-0" in section(html, "reasons")


def test_a_part_whose_files_are_gone_or_altered_says_so_and_the_others_are_there(tmp_path: Path) -> None:
    config = config_at(tmp_path, *SETTINGS)
    paths = bring(config, 1)[0]
    shard = paths.pseudo(1) / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    for path in paths.root.rglob("loss.parquet"):
        path.unlink()
    for model in (paths.round(round) / "students" for round in (0, 1)):
        for folder in model.glob("*"):
            if (folder / "step.json").is_file():
                vouch_for(folder)
    html = written(config, paths)
    assert "This part could not be drawn (RunError: " in section(html, "reasons")
    assert "No student was trained" in section(html, "training")
    assert "<table>" in section(html, "leaderboard") and "<svg" in section(html, "scores")


def test_a_run_without_a_finished_round_has_no_page(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    paths = bring(config, 0)[0]
    paths.round_manifest(0).unlink()
    with pytest.raises(RunError, match="no round is finished yet"):
        page.write_page(config, paths)


# --- commands -----------------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_opens_it(
    finished: tuple[Config, RunPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths = finished
    monkeypatch.setattr(page, "collect", lambda config, paths: Page("demo", "", []))  # drawing it takes seconds
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    done = invoke("report", str(paths.root), "--out", str(tmp_path), "--json", "--open")
    content = json.loads(done.stdout)
    path = tmp_path / page.NAME
    assert done.exit_code == 0 and content["page"] == str(path) and content["page_bytes"] == path.stat().st_size
    assert opened == [path.resolve().as_uri()] and "no browser was found" in done.stderr
    assert not (paths.root / page.NAME).exists()


@pytest.mark.pages
def test_the_page_is_written_beside_a_run_and_a_failure_does_not_end_it(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    paths = bring(config, 0)[0]
    notes: list[str] = []
    with pages_beside(paths, notes.append) as begin:
        begin()
        begin()  # the next round ended before
    assert len(notes) == 1 and notes[0].startswith(f"report: {paths.root / page.NAME} (")
    assert (paths.root / page.NAME).is_file() and not list(paths.root.glob("*.tmp"))
    paths.round_manifest(0).write_text("{")
    with pages_beside(paths, notes.append) as begin:
        begin()
    assert notes[1] == f"the report could not be written; {paths.log} says why"
    assert "damaged" in paths.log.read_text()
    with pytest.raises(KeyboardInterrupt), pages_beside(paths, notes.append) as begin:
        begin()
        raise KeyboardInterrupt
    assert len(notes) == 2
