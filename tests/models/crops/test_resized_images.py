"""Images that are resized to a longer side, and crops whose augmentation changes with the phase."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import pictures
from helpers.pictures import discs, quiet, record, row
from helpers.small_maskrcnn import small

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import FlowUnetConfig, ModelConfig
from cellsemi.configs.phases import NO_AUGMENTATION, AugmentConfig, PhaseConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig, resize_factor
from cellsemi.models.base import FitTask
from cellsemi.models.crops.cell_size import cell_size_of
from cellsemi.models.crops.crop import Crop
from cellsemi.models.crops.source import CropSource
from cellsemi.models.flow_unet.torchscript import compiled
from cellsemi.models.model_files import CellSize, read_model_file
from cellsemi.models.registry import family, load_predictor

TRAINING = TrainingConfig(steps=2, batch=2, crop_px=64, precision="float32", lr=1e-3)
UNET = FlowUnetConfig(name="m", width=4)
task_in = partial(pictures.task_in, model=UNET)


def resizing(folder: Path, model: ModelConfig = UNET, **changes: object) -> FitTask:
    training = TRAINING.model_copy(update={"resize_px": 96, **changes})
    return task_in(folder, [record(0), row("wide", *discs(1, 120), "labelled")], 2, model=model, training=training)


def as_bytes(crops: list[Crop]) -> list[bytes]:
    return [crop.pixels.tobytes() + crop.instance_map.tobytes() for crop in crops]


def test_each_image_has_a_factor_of_its_own(tmp_path: Path) -> None:
    """A crop of a resized image is that of the image enlarged by the factor."""
    for side in (72, 120):
        folder = tmp_path / str(side)
        task = task_in(folder, [row("one", *discs(0, side), "labelled")], 2, training=TRAINING)
        plain = CellSize(diameter_px=9.0)
        found = CropSource.of(task, AugmentConfig(), plain.model_copy(update={"resize_px": 96}))
        expected = CropSource.of(task, AugmentConfig(), plain.model_copy(update={"scale": 96 / side}))
        assert as_bytes(found(0)) == as_bytes(expected(0)) != as_bytes(CropSource.of(task, AugmentConfig(), plain)(0))
    assert resize_factor(None, 5, 7) == 1 and resize_factor(14, 5, 7) == 2


def test_a_model_says_so_and_takes_no_cell_size_besides(tmp_path: Path) -> None:
    large = [row("huge", *discs(4, 240, pictures.grid(240, 80, 30)), "labelled")]
    training = TRAINING.model_copy(update={"resize_px": 96})
    found = cell_size_of(task_in(tmp_path, large, 2, training=training))
    assert (found.resize_px, found.scale) == (96, 1)
    assert cell_size_of(task_in(tmp_path / "auto", large, 2, training=TRAINING)).scale < 1


@pytest.mark.parametrize("model", [UNET, small()], ids=["flow-unet", "torchvision-maskrcnn"])
def test_predictions_come_back_to_the_pixels_of_the_image(model: ModelConfig, tmp_path: Path) -> None:
    task = resizing(tmp_path, model)
    family(model.kind).fit(task, quiet)
    out = tmp_path / "out"
    assert read_model_file(out).cell_size.resize_px == 96
    inference = InferenceConfig(tta=("identity", "flip_x"), min_area_px=1, cell_probability=0.4)
    image = discs(2, 120)[0][:80]
    (found,) = load_predictor(out, inference, "cpu").predict([image])
    other = load_predictor(out, inference.model_copy(update={"resize_px": 120, "scales": (96 / 120,)}), "cpu")
    (expected,) = other.predict([image])
    assert (found.height, found.width) == image.shape
    assert len(found) and found.rle == expected.rle and np.array_equal(found.score, expected.score)
    if model.kind == "flow-unet":
        with pytest.raises(ModelError, match="resizes each image"):
            compiled(out, inference)


def test_the_augmentation_follows_the_phase(tmp_path: Path) -> None:
    phases = (PhaseConfig(steps=2, augment=NO_AUGMENTATION), PhaseConfig(steps=3))
    training = TRAINING.model_copy(update={"phases": phases})
    task = task_in(tmp_path, [record(0), record(1)], 5, training=training)
    size, own = CellSize(), AugmentConfig()
    both = CropSource.of(task, own, size)
    first, second = (
        CropSource.of(task_in(tmp_path / name, [record(0), record(1)], 5, training=TRAINING), augment, size)
        for name, augment in (("a", NO_AUGMENTATION), ("b", own))
    )
    found = [as_bytes(both(step)) for step in range(5)]
    assert found == [as_bytes((first if step < 2 else second)(step)) for step in range(5)]
    assert as_bytes(first(3)) != found[3]
