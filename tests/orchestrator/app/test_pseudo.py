"""Browsing pseudo-labels reads and locks nothing; marks are handed over through the door of the correction loop."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from helpers.applied import small_run

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.orchestrator.app.pseudo import HEADS, Browser, Wanted
from cellsemi.orchestrator.app.rounds_tab import words_of
from cellsemi.orchestrator.review.add import ALREADY
from cellsemi.orchestrator.review.marks import ONLY_IGNORED, hand_over
from cellsemi.orchestrator.review.offer import Wanted as WantedImages
from cellsemi.orchestrator.review.offer import offer
from cellsemi.rounds.cells.instance_map import NOT_LABELLED
from cellsemi.rounds.review.added import batches, read_batch
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths, read_config


@pytest.fixture
def paths(here: Path, fake_models: None) -> RunPaths:
    return small_run(here)


def most_cells(browser: Browser) -> str:
    """The image with most pseudo-labels."""
    names = [image_id for _, image_id in browser.images(1, "name")[0]]
    return max(names, key=lambda name: len(browser.open(1, name).cells))


def content(paths: RunPaths) -> dict[str, str]:
    """The hash of every file of a run."""
    found = sorted(path for path in paths.root.rglob("*") if path.is_file() and path.name != "run.lock.json")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_browsing_reads_alone_while_a_driver_works_and_before_the_round_is_finished(paths: RunPaths) -> None:
    with driver_lock(paths):
        before = content(paths)
        browser = Browser(paths)
        finished = browser.open(1, most_cells(browser)).rows
        assert browser.rounds() == [1] and len(browser.images(1, "need")[0]) == 5 and finished
        assert content(paths) == before
    paths.round_manifest(1).unlink()
    unfinished = Browser(paths)
    assert unfinished.rounds() == [1] and unfinished.open(1, most_cells(unfinished)).rows == finished


def test_a_run_without_pseudo_labels_has_no_round(here: Path, fake_models: None) -> None:
    assert Browser(small_run(here, 0)).rounds() == []


def test_the_cells_are_those_of_the_round_and_filters_share_them_out(paths: RunPaths) -> None:
    browser = Browser(paths)
    image = browser.open(1, most_cells(browser))
    stored = {record.image_id: record.instances for record in shards.read_folder(paths.pseudo(1))}[image.image_id]
    assert stored is not None
    assert [(row.state, row.reason) for row in image.rows] == list(zip(stored.state, stored.reason, strict=True))
    parts = [image.listed(Wanted(states=(state,))) for state in ("accepted", "ignored", "rejected")]
    assert sorted(i for part in parts for i in part) == image.listed(Wanted()) == list(range(len(stored)))
    for reason in set(stored.reason) - {""}:
        assert [stored.reason[i] for i in image.listed(Wanted(reason=reason))] == [reason] * stored.reason.count(reason)
    middle = sorted(stored.quality.tolist())[len(stored) // 2]
    listed = image.listed(Wanted(low=middle))
    assert listed == [i for i, quality in enumerate(stored.quality.tolist()) if quality >= middle]
    assert [row[0] for row in image.table(listed)] == [i + 1 for i in listed]
    assert all(len(row) == len(HEADS) for row in image.table(listed))
    x0, y0, x1, y1 = stored.bbox[0].tolist()
    h, w = image.view.ground.shape[:2]
    found = image.at(range(len(stored)), (x0 + x1) / 2 * w / stored.width, (y0 + y1) / 2 * h / stored.height)
    assert found is None or "**" + image.rows[found].state + "**" in image.sentence(found)
    with pytest.raises(UsageError, match="no image stranger"):
        browser.open(1, "stranger")


def test_the_images_with_most_need_come_first(paths: RunPaths, tmp_path: Path) -> None:
    """By the worth that `cellsemi review` gives them, though it chooses so that they also differ."""
    browser = Browser(paths)
    images, count = browser.images(1, "need")
    ranked = offer(paths, read_config(paths), WantedImages(5, "coco", tmp_path / "out"), lambda *_: None).chosen
    totals = {each.record.image_id: each.worth.total for each in ranked}
    values = [totals[name] for _, name in images if name in totals]
    assert count == 5 and values == sorted(values, reverse=True) and len(values) > 1
    name = images[0][1]
    assert browser.images(1, "name", name[-5:].upper())[0] == [(name, name)]


def test_marks_become_human_labels_and_the_rest_is_not_labelled(paths: RunPaths) -> None:
    browser, config = Browser(paths), read_config(paths)
    first, second, third = (browser.open(1, name) for _, name in browser.images(1, "need")[0][:3])
    browser.mark(first, [0], "right")
    browser.mark(first, [1], "wrong")
    drawn = [layer for layer in browser.open(1, first.image_id).draw([], None) if len(layer.cells)]
    assert [layer.cells.rle for layer in drawn] == [first.cells.rle[:1], first.cells.rle[1:2]]  # what was marked
    browser.complete(second, True)
    browser.mark(third, [0], "ignore")
    taken = hand_over(paths, config)
    assert taken.from_round == 2 and taken.left == {third.image_id: ONLY_IGNORED}
    part, whole = taken.images[first.image_id], taken.images[second.image_id]
    assert (part.kept, part.removed, part.partly) == (1, 1, True)
    assert (whole.kept, whole.partly) == (second.cells.state.count("accepted"), False)
    added = {record.image_id: record.instances for record in shards.read_folder(batches(paths)[0])}
    cells = added[first.image_id]
    assert cells is not None and cells.rle[0] == first.cells.rle[0] and cells.reason[-1] == NOT_LABELLED
    assert read_batch(batches(paths)[0]).by == "the pseudo-labels of round 1"
    words = words_of(taken)
    assert "2 images are human labels from round 2 on" in words and f"{third.image_id}: left as it was" in words
    again = hand_over(paths, config)
    assert again.left == {third.image_id: ONLY_IGNORED, first.image_id: ALREADY, second.image_id: ALREADY}
    assert len(batches(paths)) == 1 and words_of(again).startswith("Nothing was handed over.")
    browser.mark(first, [1], None)  # a second thought counts
    assert list(hand_over(paths, config).images) == [first.image_id]
    assert first.image_id not in {name for _, name in browser.images(1, "need")[0]}
    assert "1 cells, 0 masks that are none, the rest is not labelled" in browser.open(1, first.image_id).note
    assert "From round 2 on it teaches with these labels" in browser.open(1, second.image_id).note


def test_while_a_driver_works_marks_wait(paths: RunPaths) -> None:
    browser = Browser(paths)
    image = browser.open(1, most_cells(browser))
    with driver_lock(paths):
        browser.mark(image, [0], "right")
        with pytest.raises(RunError, match="another cellsemi is working on this run"):
            hand_over(paths, browser.config)
    assert list(hand_over(paths, browser.config).images) == [image.image_id]
