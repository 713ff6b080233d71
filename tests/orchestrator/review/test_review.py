"""The correction loop: handed out, changed, taken back, learnt from the next round on; the rounds before stay."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import Notes, bring, config_at, tables

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, RunError, UsageError
from cellsemi.configs.formats import EDITABLE
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.review.add import ALREADY, Taken
from cellsemi.orchestrator.review.offer import REVIEW_FILE, TABLE, Wanted, offer
from cellsemi.orchestrator.review.round_trip import Rereader
from cellsemi.orchestrator.review.take import MISSING, REFUSED, UNTOUCHED, Use, take
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.check_shards import check_shards
from cellsemi.rounds.formats.label_map.writer import to_tiff
from cellsemi.rounds.pseudo_labels.training_set import LABELLED_SINCE
from cellsemi.rounds.review.added import batches, read_batch
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_label_map
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.run import CONTROL, RunPaths
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.steps import read_steps

pytestmark = pytest.mark.usefixtures("fake_models")
SETTINGS = ("rounds.start=scratch", "rounds.control=true")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("review")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> tuple[RunPaths, Config]:
    """A copy of a run of one round; the first test makes it."""
    paths, _ = bring(config_at(made, *SETTINGS), 1)
    config = config_at(tmp_path, *SETTINGS)
    shutil.copytree(paths.root, tmp_path / paths.name)
    return RunPaths(tmp_path / paths.name), config


def quiet(what: str, done: int, of: int | None) -> None:
    """Watch nothing."""


def hand_out(run: tuple[RunPaths, Config], out: Path, kind: str = "label-maps", top: int = 3) -> list[str]:
    return [each.record.image_id for each in offer(*run, Wanted(top, kind, out), quiet).chosen]


def mark(folder: Path, seen: dict[str, str]) -> None:
    """Fill the column `seen`."""
    with (folder / TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "seen": seen.get(row["image_id"], "")} for row in rows)


def redraw(folder: Path, image_id: str) -> np.ndarray:
    """Take the first cell away and draw a new one in a free corner, as a person would."""
    path = folder / "masks" / f"{image_id}_masks.tif"
    labels = decode_label_map(path.read_bytes(), str(path)).astype(np.uint16)
    labels[labels == labels[labels > 0].min()] = 0
    free = np.argwhere(labels == 0)
    y, x = next((y, x) for y, x in free if y < 60 and x < 76 and not labels[y : y + 4, x : x + 4].any())
    labels[y : y + 4, x : x + 4] = labels.max() + 1
    path.write_bytes(to_tiff(labels))
    return labels


def back(run: tuple[RunPaths, Config], folder: Path, use: Use = "whole") -> Taken:
    return take(*run, folder, use)


@pytest.mark.parametrize("kind", EDITABLE)
def test_masks_that_nobody_touched_come_back_as_they_were(
    run: tuple[RunPaths, Config], tmp_path: Path, kind: str
) -> None:
    chosen = hand_out(run, tmp_path / "out", kind)
    taken = back(run, tmp_path / "out")
    assert taken.left == dict.fromkeys(chosen, UNTOUCHED) and not batches(run[0])
    mark(tmp_path / "out", {chosen[0]: "yes"})
    taken = back(run, tmp_path / "out")
    assert list(taken.images) == [chosen[0]] and taken.images[chosen[0]].changes == 0
    pseudo = {record.image_id: record.instances for record in shards.read_folder(run[0].pseudo(1))}
    (record,) = shards.read_folder(batches(run[0])[0])
    given = pseudo[chosen[0]]
    assert given is not None and record.instances is not None and set(record.instances.state) == {"human"}
    shown = given.in_state("accepted", "ignored")
    assert taken.images[chosen[0]].kept == len(record.instances) <= len(shown)
    if kind in ("geojson", "coco"):  # these keep overlaps
        assert sorted(record.instances.rle) == sorted(shown.rle)


def test_a_corrected_image_is_a_human_label_of_the_next_round_and_the_rounds_before_stay(
    run: tuple[RunPaths, Config], tmp_path: Path
) -> None:
    paths, config = run
    before = {name: value for name, value in tables(paths).items() if name != "leaderboard"}
    chosen = hand_out(run, tmp_path / "out")
    labels = redraw(tmp_path / "out", chosen[1])
    taken = back(run, tmp_path / "out")
    assert taken.from_round == 2
    image = taken.images[chosen[1]]
    assert (image.added, image.removed, image.partly) == (1, 1, False) and set(taken.left) == set(chosen) - {chosen[1]}
    assert read_batch(batches(paths)[0]).by == "the pseudo-labels of round 1"
    watcher = Notes()
    bring(config, 2, watcher)
    assert {name: value for name, value in tables(paths).items() if name in before} == before
    counts = read_manifest(paths.train(2)).merged
    assert counts is not None and counts.human_images == 4 and counts.left_out[LABELLED_SINCE] == 1
    learnt = {record.image_id: record for record in shards.read_folder(paths.train(2))}
    cells = learnt[chosen[1]].instances
    assert cells is not None and learnt[chosen[1]].split == "labelled"
    assert np.array_equal(masks.to_label_map(cells) > 0, labels > 0)
    (control,) = (step for step in read_steps(paths) if step.round == 2 and step.name == f"train {CONTROL}")
    assert [record.image_id for record in shards.read_folder(paths.human(2))][-1] == chosen[1]
    assert "round-02/human" in control.inputs
    assert any(f"1 ({LABELLED_SINCE})" in note for note in watcher.notes)
    for split in ("val", "test"):
        assert chosen[1] not in {record.image_id for record in shards.read_folder(paths.split(split))}


def test_what_was_taken_is_not_taken_again_and_is_no_longer_handed_out(
    run: tuple[RunPaths, Config], tmp_path: Path
) -> None:
    chosen = hand_out(run, tmp_path / "out")
    redraw(tmp_path / "out", chosen[0])
    back(run, tmp_path / "out")
    assert back(run, tmp_path / "out").left[chosen[0]] == ALREADY and len(batches(run[0])) == 1
    redraw(tmp_path / "out", chosen[0])  # a second thought counts
    assert list(back(run, tmp_path / "out").images) == [chosen[0]] and len(batches(run[0])) == 2
    assert chosen[0] not in hand_out(run, tmp_path / "again", top=5)


def test_the_column_seen_has_the_last_word(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    chosen = hand_out(run, tmp_path / "out")
    for image_id in chosen:
        redraw(tmp_path / "out", image_id)
    mark(tmp_path / "out", {chosen[0]: "no", chosen[1]: " Part "})
    (tmp_path / "out" / "masks" / f"{chosen[2]}_masks.tif").unlink()
    taken = back(run, tmp_path / "out")
    assert taken.left == {chosen[0]: REFUSED, chosen[2]: MISSING}
    assert taken.images[chosen[1]].partly
    (record,) = shards.read_folder(batches(run[0])[0])
    assert record.instances is not None and record.instances.state[-1] == "ignored"


def test_changed_images_may_count_in_part(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    chosen = hand_out(run, tmp_path / "out")
    redraw(tmp_path / "out", chosen[0])
    assert back(run, tmp_path / "out", "part").images[chosen[0]].partly


def test_a_damaged_mask_leaves_its_image_as_it_was(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    chosen = hand_out(run, tmp_path / "out")
    redraw(tmp_path / "out", chosen[0])
    (tmp_path / "out" / "masks" / f"{chosen[1]}_masks.tif").write_bytes(b"II*\0 no picture")
    taken = back(run, tmp_path / "out")
    assert list(taken.images) == [chosen[0]] and f"{chosen[1]}_masks.tif" in taken.left[chosen[1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",,", ",perhaps,", 1), r"review.csv, line 2: seen is 'perhaps', expected yes"),
        (lambda text: text.replace("image_id", "name"), "no column image_id"),
        (lambda text: text + "9,stranger,yes,1,1,1,1,,x\n", "'stranger' was not handed out"),
    ],
)
def test_a_wrong_table_is_named(run: tuple[RunPaths, Config], tmp_path: Path, change: object, message: str) -> None:
    hand_out(run, tmp_path / "out")
    table = tmp_path / "out" / TABLE
    table.write_text(change(table.read_text()))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        back(run, tmp_path / "out")


def test_a_folder_of_another_run_is_refused(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    hand_out(run, tmp_path / "out")
    other = bring(config_at(tmp_path / "other", *SETTINGS, "run.seed=1"), 1)[0]
    with pytest.raises(UsageError, match=r"holds images of the run .* other unlabelled images"):
        take(other, run[1], tmp_path / "out", "whole")
    (tmp_path / "out" / REVIEW_FILE).unlink()
    with pytest.raises(UsageError, match="no folder of `cellsemi review`"):
        back(run, tmp_path / "out")


def test_a_run_without_pseudo_labels_says_what_to_do(tmp_path: Path) -> None:
    config = config_at(tmp_path, *SETTINGS)
    paths, _ = bring(config, 0)
    with pytest.raises(RunError, match=r"no round has labelled the unlabelled images yet.*--n 1"):
        offer(paths, config, Wanted(3, "coco", tmp_path / "out"), quiet)


def test_a_refused_round_is_followed_by_another_once_there_are_new_labels(tmp_path: Path) -> None:
    config = config_at(tmp_path, *SETTINGS, "rounds.promotion.min_probability=0.999", "rounds.stop_after=1")
    paths, _ = bring(config, 2)
    assert paths.finished_rounds() == [0, 1]  # stopped
    chosen = hand_out((paths, config), tmp_path / "out")
    redraw(tmp_path / "out", chosen[0])
    take(paths, config, tmp_path / "out", "whole")
    bring(config, 3)
    assert paths.finished_rounds() == [0, 1, 2]


def test_with_folds_corrected_images_teach_no_fold_that_their_group_evaluates(tmp_path: Path) -> None:
    config = config_at(tmp_path, *SETTINGS, "rounds.folds=3", "rounds.promotion.class_margin=1")
    paths, _ = bring(config, 1)
    chosen = hand_out((paths, config), tmp_path / "out")
    mark(tmp_path / "out", dict.fromkeys(chosen, "yes"))
    take(paths, config, tmp_path / "out", "whole")
    bring(config, 2)
    groups = {record.image_id: record.group for record in shards.read_folder(paths.split("unlabelled"))}
    for number in range(3):
        judges = {record.group for record in shards.read_folder(paths.split(f"folds/fold-{number}"))}
        learnt = {record.image_id for record in shards.read_folder(paths.train(2, f".fold-{number}"))}
        for image_id in chosen:
            assert (image_id in learnt) == (groups[image_id] not in judges)


def test_cells_keep_their_classes(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    """In a format that names classes they come back; an unmarked image gives nothing to compare."""
    chosen = hand_out(run, tmp_path / "out", "coco")
    mark(tmp_path / "out", dict.fromkeys(chosen, "yes"))
    back(run, tmp_path / "out")
    pseudo = {record.image_id: record.instances for record in shards.read_folder(run[0].pseudo(1))}
    for record in shards.read_folder(batches(run[0])[0]):
        given = pseudo[record.image_id]
        assert given is not None and record.instances is not None
        assert _classes(given.in_state("accepted", "ignored")) == _classes(record.instances)


def _classes(cells: Instances) -> dict[bytes, int]:
    return dict(zip(cells.rle, cells.class_id.tolist(), strict=True))


def test_new_cells_without_a_class_take_that_of_the_masks_around_them(tmp_path: Path) -> None:
    """Formats without classes, and images whose class nobody states: what was handed out there decides."""
    reader_of = DataConfig(classes=("a", "b"))
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 2:6], labels[10:14, 20:26], labels[17:19, 2:4] = 1, 2, 3
    (tmp_path / "im_masks.tif").write_bytes(to_tiff(labels))
    given = masks.from_label_map(np.where(labels < 3, labels, 0), class_id=[0, 1], state="human")
    record = ImageRecord("im", 20, 30, "unlabelled")
    found = Rereader(tmp_path, reader_of, ["im"]).cells(record, given)
    assert found is not None and found.class_id.tolist() == [0, 1, 0]
    stated = Rereader(tmp_path, reader_of, ["im"]).cells(record.with_(cell_type="b"), given)
    assert stated is not None and stated.class_id.tolist() == [1, 1, 1]


def test_altered_labels_are_named_with_the_remedy(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    chosen = hand_out(run, tmp_path / "out")
    redraw(tmp_path / "out", chosen[0])
    back(run, tmp_path / "out")
    (shard,) = batches(run[0])[0].glob("part-*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RunError, match=r"altered since it was written. Remove .*added/000 and take its labels again"):
        bring(run[1], 2)
    (problem,) = check_shards(run[0].root, lambda done: None).problems
    assert problem.place == "added/000/part-00000.parquet"
