"""Mask R-CNN from shards to cells, beyond the contract: it learns, says when a cap is reached, starts from weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import pictures
from helpers.pictures import discs, quiet, record
from safetensors.torch import load_file, save_file

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.phases import AugmentConfig, PhaseConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.detector.cell_crops import CellCrops
from cellsemi.models.detector.fit_and_predict import DetectorPredictor
from cellsemi.models.detector.targets import resized
from cellsemi.models.inference.pipeline import Source, predict_stream
from cellsemi.models.inference.tiling import SHARED_BATCH_PX
from cellsemi.models.model_files import LOSS_FILE, WEIGHTS_FILE, read_model_file, read_weights
from cellsemi.models.registry import load_predictor
from cellsemi.models.torchvision_maskrcnn.family import FAMILY
from cellsemi.models.torchvision_maskrcnn.net import Form, MaskRcnn, build
from cellsemi.models.training.device import compute_settings
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files
from cellsemi.rounds.store.schemas import ImageRecord

MODEL = MaskRcnnConfig(
    name="m",
    backbone="resnet18",
    anchor_px=(12, 16, 20, 24, 32),
    anchor_ratios=(1.0,),
    box_hidden=64,
    mask_hidden=32,
    rpn_proposals=100,
    rpn_batch=64,
    roi_batch=16,
    augment=AugmentConfig(scale_min=1, scale_max=1, rotate=False, blur=0, noise=0),
)
TRAINING = TrainingConfig(
    batch=2, crop_px=64, optimiser="sgd", lr=2e-2, weight_decay=1e-4, ema=0.9, precision="float32"
)
task_in = partial(pictures.task_in, model=MODEL, training=TRAINING)
STEPS = 40
PARTS = ("rpn_objectness", "rpn_box", "classifier", "box", "mask")
ONE_VIEW = InferenceConfig(tta=("identity",))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with compute_settings(1):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    result = FAMILY.fit(task_in(folder, [record(i) for i in range(5)], steps=STEPS), quiet)
    assert result.steps == STEPS and result.resumed_at == 0
    return folder / "out"


def test_it_finds_the_cells_of_images_it_has_not_seen(trained: Path) -> None:
    predictor = load_predictor(trained, ONE_VIEW, "cpu")
    hits = total = 0
    for seed in range(100, 104):
        pixels, labels = discs(seed)
        truth = masks.from_label_map(labels)
        (found,) = predictor.predict([pixels])
        assert set(found.state) == {"predicted"} and found.score.min() > 0 and found.score.max() <= 1
        assert len(found) < 50
        hits += int((masks.iou_matrix(truth, found).max(1) > 0.5).sum())
        total += len(truth)
    assert hits / total > 0.6


def test_a_fit_records_each_part_of_its_loss_and_its_settings(trained: Path) -> None:
    table = pq.read_table(trained / LOSS_FILE)
    assert table.column_names == ["step", "loss", *(f"{part}_loss" for part in PARTS), "lr", "grad_norm"]
    summed = sum(table[f"{part}_loss"].to_numpy() for part in PARTS)
    np.testing.assert_allclose(summed, table["loss"].to_numpy(), rtol=1e-5)
    about = read_model_file(trained)
    assert about.started_from is None
    assert about.model == MODEL
    built = build(MODEL, 2, 0)
    assert about.training.parameters == sum(p.numel() for p in built.parameters())


def network_of(trained: Path, **changes: Any) -> MaskRcnn:
    net = build(MODEL.model_copy(update=changes), 2, 0)
    net.load_state_dict(load_file(trained / WEIGHTS_FILE))
    return net.eval()


def predictor_of(trained: Path, one_class: bool = False, **changes: Any) -> DetectorPredictor:
    net, config = network_of(trained, **changes), MODEL.model_copy(update=changes)
    return DetectorPredictor(net, net.detect, config, ONE_VIEW, torch.device("cpu"), one_class_per_image=one_class)


def test_reached_caps_are_warned_of(trained: Path) -> None:
    pixels = discs(100)[0]
    free = predictor_of(trained, rpn_proposals=2000)
    (expected,) = free.predict([pixels])
    assert not free.warnings
    capped = predictor_of(trained, rpn_proposals=2000, max_detections=2)
    (found,) = capped.predict([pixels])
    assert len(found) <= 2 < len(expected)
    (sentence,) = capped.warnings
    assert "the cap of 2 detections a tile (max_detections)" in sentence and capped.warnings[sentence] == 1
    eager = network_of(trained)
    with torch.no_grad():  # every anchor looks like a cell
        eager.rpn.head.cls_logits.bias += 50
    few = DetectorPredictor(eager, eager.detect, MODEL, ONE_VIEW, torch.device("cpu"), one_class_per_image=False)
    few.predict([pixels])
    assert any("the cap of 100 proposals a tile (rpn_proposals)" in warning for warning in few.warnings)


def test_the_boxes_of_an_enlarged_window_come_back_to_its_pixels(trained: Path) -> None:
    half = np.repeat(discs(100)[0][::2, ::2].astype(np.float32)[..., None] / 255, 3, 2)
    full = predictor_of(trained).look_at([resized(half, 2.0)])[0].cells().encode()
    small = predictor_of(trained, upscale=2.0).look_at([half])[0].cells().encode()
    assert (small.height, small.width) == (36, 36) and 0 < len(small) <= len(full)
    nearest = np.abs(2 * small.bbox[:, None] - full.bbox[None]).max(2).argmin(1)
    np.testing.assert_allclose(2 * small.bbox, full.bbox[nearest], atol=2)
    np.testing.assert_allclose(small.score, full.score[nearest], rtol=0.2)


def test_one_class_per_image_is_the_class_of_most_of_what_was_seen(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = [(np.ones((6, 6), bool), 0, 0), (np.ones((8, 8), bool), 20, 0), (np.ones((6, 6), bool), 0, 20)]
    cells = masks.from_crops(72, 72, crops, class_id=[0, 1, 0], score=[0.5, 0.9, 0.5])
    seen = CellCrops.of(72, 72, crops, [0, 1, 0], [0.5, 0.9, 0.5])
    for locked, expected in ((False, [0, 1, 0]), (True, [1, 1, 1])):
        predictor = predictor_of(trained, locked)
        monkeypatch.setattr(predictor, "look_at", lambda windows: [SimpleNamespace(cells=lambda: seen)])
        (found,) = predictor.predict([discs(100)[0]])
        assert found.class_id.tolist() == expected and found.rle == cells.rle


def test_windows_in_a_batch_as_on_a_gpu_give_the_same_detections(trained: Path) -> None:
    """Within float tolerance, each with its own caps."""
    windows = [np.repeat(discs(seed)[0][..., None] / np.float32(255), 3, 2) for seed in (100, 101, 102)]
    windows.append(np.zeros_like(windows[0]))
    apart, together = (predictor_of(trained, max_detections=2) for _ in range(2))
    one_by_one = [found for window in windows for found in apart.look_at([window])]
    for found, expected in zip(together.look_at(windows), one_by_one, strict=True):
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found.masks, expected.masks, atol=1e-4)
        assert found.class_id.tolist() == expected.class_id.tolist() and found.size == (72, 72)
    assert together.warnings == apart.warnings and sum(apart.warnings.values()) > 0
    together._most_px = SHARED_BATCH_PX  # as on a GPU
    shapes = [[part.shape[:2] for part in group] for group in together._together([*windows, windows[0][:50]])]
    assert shapes == [[(72, 72)] * 4, [(50, 72)]]


def test_threads_that_draw_beside_the_network_change_nothing(trained: Path) -> None:
    predictor = predictor_of(trained)
    images = [discs(seed)[0] for seed in (100, 101, 102)]
    rows = [Source(i, str(i), partial(np.copy, image)) for i, image in enumerate(images)]
    expected = predictor.predict(images)
    for found, cells in zip(predict_stream(predictor, rows, threads=2), expected, strict=True):
        assert found.cells.rle == cells.rle and np.array_equal(found.cells.score, cells.score)
    assert sum(map(len, expected)) > 0


def test_an_interrupted_fit_of_two_stages_with_the_extra_heads_ends_with_the_same_weights(tmp_path: Path) -> None:
    records = [record(0), record(1, "unlabelled", state="accepted", weight=0.6)]
    task = task_in(
        tmp_path,
        records,
        steps=3,
        model=MODEL.model_copy(update={"centre_head": True, "boundary_head": True}),
        training=TRAINING.model_copy(
            update={"phases": (PhaseConfig(steps=1, frozen="body"), PhaseConfig(steps=2)), "backbone_lr": 1e-4}
        ),
    )
    FAMILY.fit(task, quiet)
    whole = read_weights(tmp_path / "out")

    def interrupt(step: int, steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    again = replace(task, out_dir=str(tmp_path / "again"), checkpoint_s=0)
    with pytest.raises(KeyboardInterrupt):
        FAMILY.fit(again, interrupt)
    assert FAMILY.fit(again, quiet).resumed_at == 2
    assert read_weights(tmp_path / "again") == whole
    table = pq.read_table(tmp_path / "out" / LOSS_FILE)
    assert pq.read_table(tmp_path / "again" / LOSS_FILE).equals(table)
    assert (table["centre_loss"].to_numpy() > 0).all() and (table["boundary_loss"].to_numpy() > 0).all()
    extra = (table["centre_loss"].to_numpy() + table["boundary_loss"].to_numpy()) * 0.5
    plain = sum(table[f"{part}_loss"].to_numpy() for part in PARTS)
    np.testing.assert_allclose(plain + extra, table["loss"].to_numpy(), rtol=1e-5)


def test_a_fit_starts_from_the_stated_weights_and_from_no_others(trained: Path, tmp_path: Path) -> None:
    given = {name: value for name, value in load_file(trained / WEIGHTS_FILE).items() if "roi_heads" not in name}
    start = MODEL.model_copy(update={"weights": "x", "mask_hidden": 16})
    net = build(start, 7, 1, Form(frozen=True, mask_width=256)).state_dict()
    path = tmp_path / "seven.safetensors"
    save_file({name: given.get(name, value).contiguous() for name, value in net.items()}, path)
    sha256 = files.sha256_bytes(path.read_bytes())
    model = start.model_copy(update={"weights": str(path), "weights_sha256": sha256})
    slow = TRAINING.model_copy(update={"lr": 1e-9, "ema": 0.0})
    task = task_in(tmp_path, [record(0, state="human"), empty(1)], steps=1, model=model, training=slow)
    FAMILY.fit(task, quiet)
    start = read_model_file(tmp_path / "out").started_from
    assert start is not None and start.sha256 == sha256
    assert {name.rsplit(".", 1)[0] for name in start.random} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }
    found = load_file(tmp_path / "out" / WEIGHTS_FILE)
    for name in ("backbone.body.conv1.weight", "backbone.body.bn1.running_mean", "rpn.head.cls_logits.weight"):
        torch.testing.assert_close(found[name], given[name], atol=1e-6, rtol=1e-5)
    (cells,) = load_predictor(tmp_path / "out", ONE_VIEW, "cpu").predict([discs(3)[0]])
    assert cells.height == 72
    wrong = replace(task, model=model.model_copy(update={"weights_sha256": "0" * 64}), out_dir=str(tmp_path / "no"))
    with pytest.raises(ModelError, match="sha256"):
        FAMILY.fit(wrong, quiet)
    missing = replace(task, model=model.model_copy(update={"weights": str(tmp_path / "gone.pth")}))
    with pytest.raises(ModelError, match=r"gone\.pth"):
        FAMILY.fit(missing, quiet)


def empty(seed: int) -> ImageRecord:
    return replace(record(seed), instances=Instances.empty(72, 72))


def test_crops_too_small_for_batch_norm_are_refused(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"batch": 1, "crop_px": 32})
    with pytest.raises(ModelError, match=r"training\.batch to 2"):
        FAMILY.fit(task_in(tmp_path, [record(0)], steps=1, training=training), quiet)
