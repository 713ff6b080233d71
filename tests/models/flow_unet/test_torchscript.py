"""The TorchScript file predicts what the model itself predicts: any size, dtype, colour, view and window."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_folder import CELLPOSE, at_scale, write_model
from helpers.pictures import discs
from numpy.typing import NDArray

from cellsemi.configs.errors import ModelError
from cellsemi.configs.training import GridConfig, InferenceConfig, View
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.flow_unet.graph import flow_turned_back, normalised, turn
from cellsemi.models.flow_unet.torchscript import ABOUT, compiled, quiet, to_torchscript
from cellsemi.models.inference import tta
from cellsemi.rounds.cells.masks import from_label_map, iou_matrix
from cellsemi.rounds.store.image_codec import HIGH, LOW, LUMINANCE, SAMPLE

VIEWS: tuple[View, ...] = ("identity", "flip_x", "flip_y", "rot90", "rot180", "rot270")
Labels = NDArray[np.int64]


def labels_of(module: Callable[[torch.Tensor], torch.Tensor], image: NDArray[Any]) -> Labels:
    """The label map that a loaded file gives for an image."""
    channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    found = module(torch.from_numpy(np.ascontiguousarray(channels[None], np.float32)))
    assert found.shape == (1, 1, *image.shape[:2]) and found.dtype == torch.float32
    return found[0, 0].numpy().astype(np.int64)


def same_cells(folder: Path, inference: InferenceConfig, images: list[NDArray[Any]], out: Path) -> int:
    """How many masks both find in some images, each of one equal to one of the other."""
    to_torchscript(folder, inference, out)
    with quiet():
        module = torch.jit.load(out)
    total = 0
    for image in images:
        (ours,) = FAMILY.load(folder, inference, "cpu").predict([image])
        theirs = from_label_map(labels_of(module, image))
        assert len(ours) == len(theirs), image.shape
        if len(ours):
            iou = iou_matrix(ours, theirs)
            assert iou.max(0).min() > 0.95 and iou.max(1).min() > 0.95, image.shape
        total += len(ours)
    return total


def images() -> list[NDArray[Any]]:
    """Discs on grounds of several sizes, most of them no multiple of the network's stride."""
    wide = np.concatenate([discs(seed)[0] for seed in (1, 2, 3)], axis=1)
    tall = np.concatenate([wide, np.flipud(wide)])
    found: list[NDArray[Any]] = [discs(0)[0], wide[:61, :203], tall[:130, :97], tall, wide[:16, :16], tall[:7, :9]]
    return [*found, np.zeros((20, 30), np.uint8), np.full((20, 30), 7, np.uint16)]


@pytest.mark.parametrize("views", [VIEWS[:1], ("identity", "flip_x"), VIEWS])
def test_sizes_and_views(trained: Path, tmp_path: Path, views: tuple[View, ...]) -> None:
    inference = InferenceConfig(tta=views, cell_probability=0.4, min_area_px=5)
    assert same_cells(trained, inference, images(), tmp_path / "m.pt") > 30


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.6])
def test_the_size_of_the_crops_and_the_scales_are_in_the_file(trained: Path, tmp_path: Path, scale: float) -> None:
    at_scale(trained, tmp_path, scale)
    inference = InferenceConfig(cell_probability=0.4, min_area_px=5, tta=("identity", "rot90"), tile_px=(72, 64))
    assert same_cells(tmp_path, inference, images(), tmp_path / "m.pt") > 5
    both = inference.model_copy(update={"scales": (1.0, 1.3)})
    assert same_cells(tmp_path, both, images()[:3], tmp_path / "both.pt") > 5
    extra = {ABOUT: ""}
    with quiet():
        torch.jit.load(tmp_path / "m.pt", _extra_files=extra)
    assert json.loads(extra[ABOUT])["cell_size"] == {"diameter_px": None, "scale": scale, "resize_px": None}


def test_windows(trained: Path, tmp_path: Path) -> None:
    inference = InferenceConfig(tile_px=(72, 64), overlap=0.4, tta=("identity", "rot90"))
    assert same_cells(trained, inference, images(), tmp_path / "m.pt") > 30


def test_intensities_and_colours(trained: Path, tmp_path: Path) -> None:
    pixels = discs(4)[0]
    colours = np.stack([pixels, pixels // 2, pixels // 3], axis=-1)
    bright = pixels.astype(np.uint16) * 200 + 3000
    broken = pixels.astype(np.float32) * 1e-3
    broken[0, :3] = np.nan, np.inf, -np.inf
    assert same_cells(trained, InferenceConfig(), [pixels, colours, bright, broken], tmp_path / "m.pt") > 15


@pytest.mark.parametrize("shape", [(1, 1), (40, 57), (1100, 1301), (30, 40, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_intensity_range_is_carried_exactly(shape: tuple[int, ...], dtype: type) -> None:
    image = (np.random.default_rng(0).gamma(2, 20, shape)).astype(dtype)
    channels = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]
    red, green, blue = LUMINANCE.tolist()
    pixels = torch.from_numpy(np.ascontiguousarray(channels, np.float32))
    found = normalised(pixels, (red, green, blue), (LOW, HIGH), SAMPLE).numpy()
    if image.ndim == 2:
        assert np.array_equal(found, normalise(image))
    else:
        np.testing.assert_allclose(found, normalise(image), rtol=0, atol=1e-6)  # the order of a sum of three


@pytest.mark.parametrize("view", VIEWS)
def test_views_turn_as_everywhere(view: View) -> None:
    outputs = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    assert np.array_equal(turn(torch.from_numpy(outputs), view).numpy(), tta.turn(outputs, view))
    turned = np.ascontiguousarray(tta.turn(outputs, view))
    back = flow_turned_back(torch.from_numpy(turned), view).numpy()
    assert np.array_equal(back, tta.turn_outputs_back(turned, view))


def test_images_of_a_batch_are_apart(trained: Path) -> None:
    module = compiled(trained, InferenceConfig())
    first, second = discs(5)[0], discs(6)[0] // 3
    both = module(torch.from_numpy(np.stack([first, second])[:, None].astype(np.float32)))[:, 0].numpy()
    assert np.array_equal(both[0], labels_of(module, first)) and np.array_equal(both[1], labels_of(module, second))


def test_the_file_says_what_it_is_and_what_it_lacks(trained: Path, tmp_path: Path) -> None:
    grid = GridConfig(rows=4, columns=4, window_rows=2, window_columns=2)
    inference = InferenceConfig(scale_search=(1.0, 2.0), grid=grid, precision="bfloat16", cell_probability=0.35)
    opens, *notes = to_torchscript(trained, inference, tmp_path / "m.pt")
    assert "torch.jit.load" in opens
    for word in ("score", "grid", "classes", "scale_search", "float32"):
        assert any(word in note for note in notes), word
    extra = {ABOUT: ""}
    with quiet():
        module = torch.jit.load(tmp_path / "m.pt", _extra_files=extra)
    about = json.loads(extra[ABOUT])
    assert about["classes"] == ["a", "b"] and about["differs"] == notes and module.threshold == 0.35
    assert len(to_torchscript(trained, InferenceConfig(cell_probability=0.5), tmp_path / "m.pt")) == 3


def test_a_model_of_another_family_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cellpose-sam"):
        to_torchscript(write_model(tmp_path, CELLPOSE), InferenceConfig(), tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()
