"""Masks of another tool as a teacher's cells: their scores, their classes, and images that they lack."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.mask_folder import FoundMasks, MaskFiles
from cellsemi.rounds.datasets.teacher_masks import MISSING, MaskScores, TeacherMasks
from cellsemi.rounds.formats.coco.writer import write_coco
from cellsemi.rounds.formats.measurements import write_measurements
from cellsemi.rounds.store.image_codec import pixel_sha256, to_png
from cellsemi.rounds.store.schemas import ImageRecord

LABELS = np.zeros((20, 30), np.uint16)
LABELS[2:8, 3:9], LABELS[10:18, 12:25], LABELS[0:2, 20:30] = 1, 2, 7
PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)


def record(image_id: str = "a", cell_type: str | None = None) -> ImageRecord:
    return ImageRecord(image_id, 20, 30, "val", to_png(PIXELS), sha256=pixel_sha256(PIXELS), cell_type=cell_type)


def cells(state: str = "human", **columns: object) -> Instances:
    return masks.from_label_map(LABELS, state=state, **columns)


def teacher(found: FoundMasks | None, classes: tuple[str, ...] = ("cell",), **class_map: str) -> TeacherMasks:
    data = DataConfig(classes=classes, class_map=class_map)
    return TeacherMasks(lambda record: found, data, "masks")


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    return path


# --- scores --------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_table(tmp_path: Path) -> None:
    path = table(tmp_path, "score,other,cell,image_id\n.5,x,2,a\n.25,x,1,a\n1,x,3,a\n0,x,1,b\n")
    scored = MaskScores(path).apply("a", cells())
    assert scored.score.tolist() == [0.25, 0.5, 1.0]


def test_the_table_of_measurements_is_one(tmp_path: Path) -> None:
    """`cellsemi predict --format measurements` beside `--format label-maps`."""
    predicted = cells("predicted", score=[0.1234, 0.5, 0.75])
    write_measurements([record().with_(instances=predicted)], tmp_path / "cells.csv", ("cell",))
    scored = MaskScores(tmp_path / "cells.csv").apply("a", cells())
    assert scored.score == pytest.approx(predicted.score, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image_id,score\na,1\n", "no column cell; expected image_id, cell, score"),
        ("image_id,cell,score\na,1,1\na,x,1\n", "line 3: expected a whole number `cell`"),
        ("image_id,cell,score\na,1,\n", "line 2: expected a whole number `cell` and a number"),
        ("image_id,cell,score\na,1,1.5\n", "line 2: expected a cell from 1 on and a score from 0 to 1"),
        ("image_id,cell,score\na,1,nan\n", "line 2: expected a cell from 1 on and a score from 0 to 1"),
        ("image_id,cell,score\na,0,1\n", "line 2: expected a cell from 1 on"),
        ("image_id,cell,score\na,1,1\na,1,.5\n", "line 3: a second score of the same cell"),
    ],
)
def test_wrong_tables_name_the_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        MaskScores(table(tmp_path, text))


def test_scores_that_do_not_fit_the_masks_make_the_image_missing(tmp_path: Path) -> None:
    scores = MaskScores(table(tmp_path, "image_id,cell,score\na,1,1\na,2,1\n"))
    with pytest.raises(ImageError, match="2 scores of 'a', which has 3 masks"):
        scores.apply("a", cells())
    asked = TeacherMasks(lambda record: FoundMasks(cells(), ()), DataConfig(classes=("cell",)), "masks", scores)
    warnings: Counter[str] = Counter()
    assert asked.cells(record(), warnings) is None
    ((sentence, times),) = warnings.items()
    assert times == 1 and sentence.endswith("; the image is missing there")


def test_coco_keeps_the_scores_of_a_tool_and_refuses_those_that_are_none(tmp_path: Path) -> None:
    from cellsemi.rounds.datasets.mask_folder import open_masks
    from cellsemi.rounds.inspect.detect import detect

    def recognise(path: Path) -> DataConfig:
        found = detect(path)
        return DataConfig.model_validate({"source": found.source, **found.settings})

    (tmp_path / "a.png").write_bytes(to_png(PIXELS))
    written = record().with_(instances=cells("predicted", score=[0.25, 0.5, 0.75]), source="a.png")
    write_coco([written], tmp_path / "tool.json", ("cell",))
    found = open_masks(tmp_path / "tool.json", ["a"], recognise)(record())
    assert found is not None and found.cells.score.tolist() == [0.25, 0.5, 0.75]
    text = (tmp_path / "tool.json").read_text()
    assert text.count('"score"') == 3
    (tmp_path / "tool.json").write_text(text.replace("0.25", "7"))
    with pytest.raises(ImageError, match="score is 7, expected a number from 0 to 1"):
        open_masks(tmp_path / "tool.json", ["a"], recognise)(record())


# --- classes and images --------------------------------------------------------------------------------


def test_classes_are_led_to_those_of_the_run() -> None:
    own = FoundMasks(cells(class_id=[0, 1, 2]), ("neuron", "glia", "dirt"))
    warnings: Counter[str] = Counter()
    found = teacher(own, ("glia", "nerve"), neuron="nerve", dirt="ignore").cells(record(), warnings)
    assert found is not None and found.class_id.tolist() == [1, 0]
    assert set(found.state) == {"predicted"} and found.votes.tolist() == [1, 1]
    assert warnings == {"masks left out, as class_map or their file says": 1}
    assert teacher(own, ("glia", "nerve")).cells(record(), Counter()) is None, "neuron is led nowhere"


def test_masks_without_a_class_take_that_of_their_image_or_what_is_said_of_all() -> None:
    plain = FoundMasks(cells(), ())
    assert teacher(plain).cells(record(), Counter()).class_id.tolist() == [0, 0, 0]
    two = ("a", "b")
    assert teacher(plain, two).cells(record(cell_type="b"), Counter()).class_id.tolist() == [1, 1, 1]
    assert teacher(plain, two, **{"*": "b"}).cells(record(), Counter()).class_id.tolist() == [1, 1, 1]
    warnings: Counter[str] = Counter()
    assert teacher(plain, two).cells(record(), warnings) is None
    assert "nothing says which of a, b the cells" in next(iter(warnings))


def test_a_file_without_a_cell_is_an_answer_and_no_file_is_none() -> None:
    warnings: Counter[str] = Counter()
    empty = teacher(FoundMasks(Instances.empty(20, 30), ())).cells(record(), warnings)
    assert empty is not None and len(empty) == 0 and not warnings
    assert teacher(None).cells(record(), warnings) is None and warnings == {MISSING: 1}


def test_an_image_is_found_by_its_id_then_by_its_pixels(tmp_path: Path) -> None:
    """Some images have other names in the folder: those that lie beside their masks are known by their pixels."""
    tifffile.imwrite(tmp_path / "here_masks.tif", LABELS)
    tifffile.imwrite(tmp_path / "renamed_masks.tif", LABELS[:, ::-1])
    (tmp_path / "renamed.png").write_bytes(to_png(PIXELS))
    (tmp_path / "broken_masks.tif").write_bytes((tmp_path / "here_masks.tif").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = MaskFiles(tmp_path)
    by_id, by_pixels = files.find(record("here")), files.find(record("elsewhere"))
    assert by_id is not None and np.array_equal(masks.to_label_map(by_id.cells) > 0, LABELS > 0)
    assert by_pixels is not None and np.array_equal(masks.to_label_map(by_pixels.cells) > 0, LABELS[:, ::-1] > 0)
    other = record("elsewhere").with_(sha256="0" * 64)
    assert files.find(other) is None
