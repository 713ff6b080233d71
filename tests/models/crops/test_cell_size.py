"""The cell size of a model: measured on human labels alone, handed on by the teacher, and what the crops show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import FOUR, Layout, discs, quiet, row, task_in
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError
from cellsemi.configs.models import FlowUnetConfig, MaskRcnnConfig, ModelConfig
from cellsemi.configs.phases import AugmentConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.crops.augment import augment_crop
from cellsemi.models.crops.cell_size import cell_size_of, typical_diameter
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.model_files import CellSize, read_model_file, read_weights
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord

UNET = FlowUnetConfig(name="m", width=4)
LARGE = Layout(columns=2, first=60, down=120, right=120, squared_radius=(35**2, 45**2))
STILL = AugmentConfig(scale_min=1, scale_max=1, rotate=False, flip=False, brightness=0, blur=0, noise=0)


def diameters(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """The diameter of a disc of the area of each cell, by counting pixels."""
    return np.array([2 * np.sqrt((labels == number).sum() / np.pi) for number in np.setdiff1d(labels, [0])])


def records() -> tuple[list[ImageRecord], float]:
    """Human cells in two images, and cells that must not count: ignored, of an image that teachers labelled, none."""
    small, large = discs(0), discs(1, layout=FOUR)
    ignored = np.isin(np.setdiff1d(small[1], [0]), (1, 2))
    rows = [
        row("small", *small, "labelled", state=np.where(ignored, "ignored", "human").tolist()),
        row("large", *large, "labelled"),
        row("pseudo", *discs(2, layout=FOUR), "unlabelled", state="accepted"),
        replace(row("bare", *discs(3), "unlabelled"), instances=None),
    ]
    return rows, float(np.median(np.concatenate([diameters(small[1])[~ignored], diameters(large[1])])))


def task(folder: Path, rows: list[ImageRecord], model: ModelConfig = UNET, **training: object) -> FitTask:
    settings = TrainingConfig.model_validate({"batch": 2, "crop_px": 48, "precision": "float32", **training})
    return task_in(folder, rows, 3, model=model, training=settings)


def test_human_cells_alone_are_measured(tmp_path: Path) -> None:
    rows, expected = records()
    shards.write_folder(tmp_path, rows, 2, "x")  # in two shards, the second without a human cell
    assert typical_diameter(shards.shard_paths(tmp_path)) == pytest.approx(expected, rel=1e-12)
    assert typical_diameter(shards.shard_paths(tmp_path)[1:]) is None and typical_diameter([]) is None


def test_a_number_is_the_diameter_that_the_network_sees(tmp_path: Path) -> None:
    rows, measured = records()
    found = cell_size_of(task(tmp_path, rows, cell_px=24))
    assert found.diameter_px == pytest.approx(measured) and found.scale * measured == pytest.approx(24)
    assert cell_size_of(task(tmp_path, rows, cell_px=None)) == CellSize(diameter_px=found.diameter_px)


def test_auto_shrinks_large_cells_for_the_unet_alone(tmp_path: Path) -> None:
    """The sizes of benchmarks/cell_size.md: cells of 96 px cost a third of the mAP, those of 32 to 48 nothing."""
    small, large = records()[0], [row("huge", *discs(4, 240, LARGE), "labelled")]
    measured = float(np.median(diameters(discs(4, 240, LARGE)[1])))
    assert measured > 60
    found = cell_size_of(task(tmp_path / "unet", large))
    assert found.diameter_px == pytest.approx(measured) and found.scale == pytest.approx(40 / measured)
    assert cell_size_of(task(tmp_path / "small", small)).scale == 1
    detector = MaskRcnnConfig(name="m", backbone="resnet18")
    assert cell_size_of(task(tmp_path / "rcnn", large, detector)) == CellSize(diameter_px=found.diameter_px)


def test_without_a_human_cell_only_a_number_is_refused(tmp_path: Path) -> None:
    rows = records()[0][2:]
    for plain in ("auto", None):
        assert cell_size_of(task(tmp_path, rows, cell_px=plain)) == CellSize()
    with pytest.raises(DataError, match=r"training\.cell_px is 24\.0 but no cell is human-labelled"):
        cell_size_of(task(tmp_path, rows, cell_px=24))


def test_the_measured_diameter_trains_the_same_weights_as_none(tmp_path: Path) -> None:
    """And any other diameter trains others."""
    rows, _ = records()
    measured = cell_size_of(task(tmp_path, rows)).diameter_px
    weights = {}
    for name, cell_px in (("none", None), ("measured", measured), ("half", measured and measured / 2)):
        fitted = task(tmp_path / name, rows, cell_px=cell_px)
        FAMILY.fit(fitted, quiet)
        weights[name] = read_weights(Path(fitted.out_dir))
    assert weights["none"] == weights["measured"] != weights["half"]


def test_a_student_sees_cells_as_its_teacher_does(tmp_path: Path) -> None:
    """Though its own labels are of another size, and its settings name another one."""
    rows, _ = records()
    teacher = task(tmp_path / "teacher", rows, cell_px=20)
    FAMILY.fit(teacher, quiet)
    student = replace(task(tmp_path / "student", rows[1:2], cell_px=40), teacher=teacher.out_dir)
    FAMILY.fit(student, quiet)
    taught, learned = (read_model_file(Path(each.out_dir)).cell_size for each in (teacher, student))
    assert taught == learned and taught.scale < 2


@settings(max_examples=30, deadline=None)
@given(enlarge=st.floats(0.3, 2.5), seed=st.integers(0, 99))
def test_crops_show_cells_enlarged(enlarge: float, seed: int) -> None:
    _, labels = discs(seed, side=96, layout=FOUR)
    image = (labels > 0).astype(np.float32)
    done = augment_crop(
        image, labels, (40, 40), crop_px=64, config=STILL, rng=np.random.default_rng(seed), enlarge=enlarge
    )
    assert done.scale == enlarge
    whole = [number for number in np.setdiff1d(done.instance_map, [0, -1]) if _inside(done.instance_map == number)]
    for number in whole:
        grown = (done.instance_map == number).sum() / (labels == number).sum()
        assert grown == pytest.approx(enlarge**2, rel=0.25)
    flat = (np.abs(done.pixels - 0.5) > 0.49) & (done.instance_map >= 0)  # within the image, away from averaged edges
    assert np.array_equal(done.pixels[flat] > 0.5, done.instance_map[flat] > 0)


def _inside(mask: NDArray[np.bool_]) -> bool:
    return not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
