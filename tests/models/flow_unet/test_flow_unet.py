"""The family from shards to cells, beyond the contract: what it finds, what trains and what does not, its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import pictures
from helpers.pictures import discs, quiet, record
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.crops.crop import training_image
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.crops.source import CropSource
from cellsemi.models.flow.batch import FlowBatch, flow_batch
from cellsemi.models.flow.cells import cells_of
from cellsemi.models.flow.outputs import activate
from cellsemi.models.flow.targets import flow_targets
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.flow_unet.net import build
from cellsemi.models.model_files import LOSS_FILE, CellSize
from cellsemi.models.registry import load_predictor
from cellsemi.rounds.cells.instance_map import IGNORE
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops, from_label_map, iou_matrix, union_map
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.store.schemas import ImageRecord

TRAINING = TrainingConfig(steps=60, batch=4, crop_px=48, lr=5e-3, ema=0.9, precision="float32")
task_in = partial(pictures.task_in, model=FlowUnetConfig(name="m", width=6), training=TRAINING)


def test_it_finds_the_cells_of_images_it_has_not_seen(trained: Path) -> None:
    predictor = load_predictor(trained, InferenceConfig(tta=("identity", "rot90")), "cpu")
    hits = total = right = 0
    for seed in range(100, 106):
        pixels, labels = discs(seed)
        truth = from_label_map(labels)
        (found,) = predictor.predict([pixels])
        iou = iou_matrix(truth, found)
        assert set(found.state) <= {"predicted"} and len(found) <= 9
        hits += int((iou.max(1) > 0.7).sum())
        match = iou.argmax(1)
        expected = (np.arange(1, 7) % 2 == 0).astype(int)
        right += int((found.class_id[match] == expected).sum())
        total += len(truth)
    assert hits / total > 0.85 and right / total > 0.85


def test_a_fit_records_each_part_of_its_loss(trained: Path) -> None:
    table = pq.read_table(trained / LOSS_FILE)
    assert table.column_names == ["step", "loss", "prob_loss", "flow_loss", "class_loss", "lr", "grad_norm"]
    assert table["step"].to_pylist() == list(range(1, 151))


def test_states_decide_what_a_pixel_teaches() -> None:
    cells = record(0).instances
    assert cells is not None
    states = ("human", "accepted", "ignored", "rejected", "ignored", "human")
    weights = np.array([1, 0.5, 1, 1, 1, 0.25])
    image = training_image(replace(record(0), instances=cells.with_(state=states, weight=weights)), 2)
    bitmaps = [decode(rle, 72, 72) for rle in cells.rle]
    for cell, number in ((0, 1), (1, 2), (5, 3)):
        assert (image.instance_map[bitmaps[cell]] == number).all()
    assert (image.instance_map[bitmaps[2]] == IGNORE).all() and (image.instance_map[bitmaps[3]] == 0).all()
    grown = union_map(cells.select([2, 4]), 2)
    labelled = bitmaps[0] | bitmaps[1] | bitmaps[5]
    assert np.array_equal(image.instance_map == IGNORE, grown & ~labelled)
    np.testing.assert_allclose(image.cell_weight, [1, 1, 0.5, 0.25])
    assert image.cell_class.tolist() == [0, 0, 1, 1]


def test_where_labels_overlap_the_better_keeps_the_pixel() -> None:
    square = np.ones((20, 20), bool)
    cells = from_crops(72, 72, [(square, 10, 10), (square, 20, 10)], state="accepted", quality=[0.4, 0.9])
    image = training_image(replace(record(0), instances=cells), 0)
    assert (image.instance_map[10:30, 20:40] == 2).all() and (image.instance_map[10:30, 10:20] == 1).all()


def test_rows_that_cannot_train_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"im0: .*predicted"):
        training_image(record(0, state="predicted"), 2)
    with pytest.raises(DataError, match="no annotated image"):
        FAMILY.fit(task_in(tmp_path, [replace(record(0), instances=None)]), quiet)


def source_of(folder: Path, records: list[ImageRecord], human_fraction: float) -> Callable[[int], FlowBatch]:
    training = TRAINING.model_copy(update={"crop_px": 32, "batch": 50, "human_fraction": human_fraction})
    task = task_in(folder, records, training=training, ignore_dilation_px=0, seed=3)
    source = CropSource.of(task, task.model.augment, CellSize())
    return lambda step: flow_batch(source(step), "geodesic")


def test_human_and_pseudo_images_are_mixed_as_asked(tmp_path: Path) -> None:
    records = [record(0), *(record(i, "unlabelled", state="accepted", weight=0.5) for i in range(1, 8))]
    source = source_of(tmp_path, records, 0.3)
    pseudo = torch.cat([(b.weight == 0.5).any((1, 2)) for b in (source(0), source(1), source(2))])
    with_cells = torch.cat([(b.inside > 0).any((1, 2)) for b in (source(0), source(1), source(2))])
    assert with_cells.float().mean() > 0.85
    assert 0.6 < pseudo[with_cells].float().mean() < 0.8
    again = source_of(tmp_path, records, 0.3)(1)
    assert np.array_equal(again.images, source(1).images) and np.array_equal(again.flow, source(1).flow)


def test_images_without_cells_train_too(tmp_path: Path) -> None:
    empty = replace(record(0), instances=Instances.empty(72, 72))
    batch = source_of(tmp_path, [empty], 0.5)(0)
    assert not batch.inside.any() and not batch.flow.any() and batch.weight.any()


def fake_outputs(classes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    _, labels = discs(0)
    probability = np.where(labels > 0, 0.8, 0.1).astype(np.float32)
    flow = flow_targets(labels, "geodesic")
    return np.concatenate([probability[None], flow, classes]), labels


def test_the_score_is_the_stated_product() -> None:
    outputs, labels = fake_outputs(np.zeros((0, 72, 72), np.float32))
    spread = np.full((72, 72), 0.05, np.float32)
    cells = cells_of(outputs, spread, InferenceConfig(), "geodesic", False)
    assert len(cells.score) == labels.max()
    np.testing.assert_allclose(cells.score, 0.8 * 1.0 * 0.9, rtol=1e-4)
    worse = outputs.copy()
    worse[1:3] *= -1
    worse[1:3, 40:] *= -1
    halves = cells_of(worse, spread, InferenceConfig(), "geodesic", False)
    assert len(halves.score) == 0 or halves.score.min() < cells.score.min()


def test_the_class_is_the_most_probable_and_one_when_locked() -> None:
    _, labels = discs(0)
    second = np.where(labels == 6, 0.95, 0.3).astype(np.float32)
    outputs, _ = fake_outputs(np.stack([1 - second, second]))
    none = np.zeros((72, 72), np.float32)
    cells = cells_of(outputs, none, InferenceConfig(), "geodesic", False)
    assert cells.class_id.tolist() == [0, 0, 0, 0, 0, 1]
    assert cells_of(outputs, none, InferenceConfig(), "geodesic", True).class_id.tolist() == [0] * 6


def test_normalising() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 200, (50, 60)).astype(np.uint8)
    expected = normalise(grey)
    assert expected.dtype == np.float32 and expected.min() == 0 and expected.max() == 1
    np.testing.assert_allclose(normalise(grey.astype(np.uint16) * 257), expected, atol=1e-5)
    np.testing.assert_allclose(normalise(np.stack([grey] * 3, -1)), expected, atol=1e-5)
    assert not normalise(np.full((5, 5), 7, np.uint16)).any()
    spot = np.zeros((100, 100), np.float32)
    spot[50, 50:52] = 9
    assert normalise(spot)[50, 50] == 1 and normalise(spot).sum() == 2
    holes = grey.astype(np.float32)
    holes[0, 0] = np.nan
    assert np.isfinite(normalise(holes)).all()
    with pytest.raises(ValueError, match="shape"):
        normalise(np.zeros((3, 4, 5), np.uint8))


@pytest.mark.parametrize(("classes", "depth"), [(1, 4), (3, 4), (1, 2), (1, 5)])
def test_the_network_is_small_and_keeps_the_size(classes: int, depth: int) -> None:
    model = FlowUnetConfig(name="m", depth=depth)
    net = build(model, tuple("abc"[:classes]), 0)
    again = build(model, tuple("abc"[:classes]), 0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in net.state_dict().items())
    assert sum(p.numel() for p in net.parameters()) < 2_000_000
    channels = 3 + (classes if classes > 1 else 0)
    side = model.stride_px
    assert side == 2**depth and len(net.encoder) == depth
    raw = net(torch.zeros(2, 1, side, 3 * side))
    assert raw.shape == (2, channels, side, 3 * side)
    out = activate(raw).detach()
    assert out[:, 0].min() >= 0 and out[:, 0].max() <= 1
    if classes > 1:
        np.testing.assert_allclose(out[:, 3:].sum(1), 1, rtol=1e-5)
