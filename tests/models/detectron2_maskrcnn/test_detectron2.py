"""Detectron2 from shards to cells, beyond the contract: it learns, says when a cap is reached, goes in and out."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import pictures
from helpers.detectron2_small import SMALL, make_small, open_checkpoint, real_settings, stock_network
from helpers.model_folder import UNET, write_model
from helpers.pictures import discs, quiet, record
from safetensors.torch import load_file, save_file

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import Detectron2Config
from cellsemi.configs.phases import PhaseConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.detector.fit_and_predict import DetectorPredictor
from cellsemi.models.detectron2_maskrcnn.api import get_cfg
from cellsemi.models.detectron2_maskrcnn.family import FAMILY
from cellsemi.models.detectron2_maskrcnn.net import BACKBONE, build
from cellsemi.models.detectron2_maskrcnn.weights import export_detectron2
from cellsemi.models.model_files import LOSS_FILE, WEIGHTS_FILE, read_model_file
from cellsemi.models.registry import load_predictor
from cellsemi.models.training.device import compute_settings
from cellsemi.rounds.cells import masks

TRAINING = TrainingConfig(
    batch=2, crop_px=64, optimiser="sgd", lr=2e-2, weight_decay=1e-4, ema=0.9, precision="float32"
)
task_in = partial(pictures.task_in, model=SMALL, training=TRAINING)
STEPS = 40
PARTS = ("rpn_cls", "rpn_loc", "cls", "box_reg", "mask")
CASCADE = {f"{part}_stage{stage}" for stage in range(3) for part in ("cls", "box_reg")} | {"rpn_cls", "rpn_loc", "mask"}
ONE_VIEW = InferenceConfig(tta=("identity",))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def small_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, compute_settings(1):
        make_small(patch)
        yield


@pytest.fixture(scope="module")
def trained(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    result = FAMILY.fit(task_in(folder, [record(i) for i in range(5)], STEPS), quiet)
    assert result.steps == STEPS and result.resumed_at == 0
    return folder / "out"


@pytest.fixture(scope="module")
def given(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of two classes, as a file that one has."""
    path = tmp_path_factory.mktemp("given") / "weights.safetensors"
    net = build(SMALL, 2, seed=5, scratch=False)
    save_file(net.state_dict(), path)
    return path


def with_weights(path: Path, **changes: Any) -> Detectron2Config:
    return SMALL.model_copy(update={"weights": str(path), **changes})


def predictor_of(trained: Path, one_class: bool = False, **changes: Any) -> DetectorPredictor:
    config = SMALL.model_copy(update=changes)
    net = build(config, 2, 0)
    net.load_state_dict(load_file(trained / WEIGHTS_FILE))
    return DetectorPredictor(net, net.detect, config, ONE_VIEW, CPU, one_class_per_image=one_class)


def flat(cfg: Any, prefix: str = "") -> dict[str, str]:
    """Every setting by its dotted name; a tuple is as good as a list."""
    if not isinstance(cfg, dict):
        return {prefix: str(list(cfg) if isinstance(cfg, tuple | list) else cfg)}
    return {name: value for key in cfg for name, value in flat(cfg[key], f"{prefix}.{key}".strip(".")).items()}


@pytest.mark.parametrize(
    ("file", "cascade", "scratch"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", False, False),
        ("Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", True, False),
        ("Misc/scratch_mask_rcnn_R_50_FPN_3x_gn.yaml", False, True),
    ],
)
def test_the_settings_are_those_that_detectron2_is_packaged_with(file: str, cascade: bool, scratch: bool) -> None:
    packaged = get_cfg()
    packaged.merge_from_file(str(importlib.resources.files("detectron2") / "model_zoo" / "configs" / file))
    theirs, ours = flat(packaged), flat(real_settings(Detectron2Config(name="m", cascade=cascade), 80, scratch))
    caps = {f"MODEL.RPN.{when}_NMS_TOPK_{mode}" for when in ("PRE", "POST") for mode in ("TRAIN", "TEST")}
    expected = dict.fromkeys(caps, "2000") | {"TEST.DETECTIONS_PER_IMAGE": "1000", "MODEL.WEIGHTS": ""}
    compared = {"MODEL", "TEST", "VERSION"}  # the others are of its own training and data
    differ = {name for name in theirs if name.split(".")[0] in compared and ours[name] != theirs[name]}
    assert ours.keys() == theirs.keys() and ours["INPUT.FORMAT"] == theirs["INPUT.FORMAT"]
    assert differ <= expected.keys() and all(ours[name] == value for name, value in expected.items())


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
    assert set(table.column_names) == {"step", "loss", "lr", "grad_norm", *(f"{part}_loss" for part in PARTS)}
    summed = sum(table[f"{part}_loss"].to_numpy() for part in PARTS)
    np.testing.assert_allclose(summed, table["loss"].to_numpy(), rtol=1e-5)
    about = read_model_file(trained)
    assert about.started_from is None
    assert about.model == SMALL


def test_a_window_of_any_size_is_detected_and_may_be_without_a_proposal(trained: Path) -> None:
    predictor = predictor_of(trained, upscale=0.5)
    for shape in ((1, 1, 3), (2, 90, 3)):
        found = predictor.look_at([np.random.default_rng(0).random(shape, np.float32)])[0].cells().encode()
        assert (found.height, found.width) == shape[:2]
    predictor = predictor_of(trained, score_threshold=0.999)
    assert predictor.look_at([np.zeros((40, 40, 3), np.float32)])[0].cells().crops == []


def test_scales_and_flips_still_find_the_cells(trained: Path) -> None:
    inference = InferenceConfig(tta=("identity", "flip_y"), scales=(0.9, 1.0, 1.1))
    pixels, labels = discs(100)
    (found,) = FAMILY.load(trained, inference, "cpu").predict([pixels])
    truth = masks.from_label_map(labels)
    assert (masks.iou_matrix(truth, found).max(1) > 0.5).sum() >= 4
    assert found.score.max() <= 1 and len(set(map(tuple, found.bbox.tolist()))) == len(found)


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


@pytest.mark.parametrize(("before", "after"), [(2, 2000), (2000, 2)])
def test_a_reached_cap_of_proposals_is_warned_of(trained: Path, before: int, after: int) -> None:
    config = SMALL.model_copy(update={"rpn_proposals": 2000})
    net = build(config, 2, 0)
    net.load_state_dict(load_file(trained / WEIGHTS_FILE))
    predictor = DetectorPredictor(net, net.detect, config, ONE_VIEW, CPU, one_class_per_image=False)
    with torch.no_grad():  # every anchor scores as a cell
        net.proposal_generator.rpn_head.objectness_logits.bias += 50
    predictor.predict([discs(100)[0]])
    assert not predictor.warnings
    net.proposal_generator.pre_nms_topk[False], net.proposal_generator.post_nms_topk[False] = before, after
    predictor.predict([discs(100)[0]])
    assert "(rpn_proposals) was reached" in next(iter(predictor.warnings))


def test_one_class_per_image_is_the_one_with_most_area(trained: Path) -> None:
    pixels = discs(100)[0]
    (free,) = predictor_of(trained).predict([pixels])
    (locked,) = predictor_of(trained, one_class=True).predict([pixels])
    votes = np.bincount(free.class_id, weights=free.area * free.score)
    assert len(set(locked.class_id)) == 1 and locked.class_id[0] == votes.argmax() and locked.rle == free.rle


def test_a_cell_has_one_class(trained: Path) -> None:
    net = build(SMALL, 2, 0)
    net.load_state_dict(load_file(trained / WEIGHTS_FILE))
    with torch.no_grad():  # both classes are as likely, and their boxes the same
        for part in (net.roi_heads.box_predictor.cls_score, net.roi_heads.box_predictor.bbox_pred):
            for value in part.parameters():
                half = 4 if part is net.roi_heads.box_predictor.bbox_pred else 1
                value[half : 2 * half] = value[:half]
    predictor = DetectorPredictor(net, net.detect, SMALL, ONE_VIEW, CPU, one_class_per_image=False)
    found = predictor.look_at([normalise(discs(100)[0], 3)])[0].cells().encode()
    iou = masks.iou_matrix(found, found)
    assert len(found) >= 4 and (iou - np.eye(len(found))).max() < 0.9


def test_a_cascade_is_trained_and_predicts(tmp_path: Path) -> None:
    task = task_in(tmp_path, [record(0)], 3, model=SMALL.model_copy(update={"cascade": True}))
    FAMILY.fit(task, quiet)
    table = pq.read_table(tmp_path / "out" / LOSS_FILE)
    assert set(table.column_names) == {"step", "loss", "lr", "grad_norm", *(f"{part}_loss" for part in CASCADE)}
    (found,) = FAMILY.load(tmp_path / "out", ONE_VIEW, "cpu").predict([discs(0)[0]])
    assert len(found)


def test_it_trains_in_bfloat16_from_images_without_cells(tmp_path: Path) -> None:
    empty = record(0)
    assert empty.instances is not None
    empty = replace(empty, instances=empty.instances.select([]))
    training = TRAINING.model_copy(update={"precision": "bfloat16"})
    assert np.isfinite(FAMILY.fit(task_in(tmp_path, [empty], 2, training=training), quiet).loss)


def test_given_weights_are_the_start_and_the_first_stages_are_never_trained(given: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(
        update={"phases": (PhaseConfig(steps=1, frozen="body"), PhaseConfig(steps=2)), "lr": 1e-3, "ema": 0.0}
    )
    task = task_in(tmp_path, [record(0)], 3, model=with_weights(given), training=training)
    FAMILY.fit(task, quiet)
    start = read_model_file(tmp_path / "out").started_from
    assert start is not None and start.weights == str(given) and start.random == ()
    before, after = load_file(given), load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(("backbone.bottom_up.stem", "backbone.bottom_up.res2")) for name in changed)
    for part in ("backbone.bottom_up.res3", "backbone.bottom_up.res5", "backbone.fpn", "proposal_gen", "roi_heads"):
        assert any(name.startswith(part) for name in changed), part
    FAMILY.load(tmp_path / "out", ONE_VIEW, "cpu").predict([discs(0)[0]])


def test_in_the_first_of_two_stages_only_the_heads_learn(given: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"frozen": "body", "lr": 1e-3, "ema": 0.0})
    FAMILY.fit(task_in(tmp_path, [record(0)], 2, model=with_weights(given), training=training), quiet)
    before, after = load_file(given), load_file(tmp_path / "out" / WEIGHTS_FILE)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(BACKBONE) for name in changed)


@pytest.mark.parametrize("cascade", [False, True])
def test_detectron2_opens_what_is_exported_and_detects_the_same(cascade: bool, tmp_path: Path) -> None:
    model = SMALL.model_copy(update={"cascade": cascade})
    FAMILY.fit(task_in(tmp_path, [record(0), record(1)], 6, model=model), quiet)
    export_detectron2(tmp_path / "out", tmp_path / "stock.pth")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "stock.yaml"))
    stock: Any = stock_network(cfg).eval()
    open_checkpoint(stock, tmp_path / "stock.pth")
    weights = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert stock.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in stock.state_dict().items())
    net = build(model, 2, 0).eval()
    net.load_state_dict(weights)
    light = torch.from_numpy(np.random.default_rng(0).random((3, 50, 70), np.float32))
    with torch.inference_mode():
        ((found, _),) = net.detect(light[None])
        theirs = stock.inference([{"image": light.flip(0) * 255}], do_postprocess=False)[0]
    assert len(found.scores)
    for box, score, label, mask in zip(found.boxes, found.scores, found.labels, found.masks, strict=True):
        same = (theirs.pred_boxes.tensor - box).abs().amax(1) + (theirs.scores - score).abs()
        best = int(same.argmin())
        assert same[best] < 1e-4 and theirs.pred_classes[best] == label - 1
        assert torch.allclose(theirs.pred_masks[best, 0], mask, atol=1e-5)


def test_only_its_own_models_are_exported(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\.pth"):
        export_detectron2(trained, tmp_path / "model.bin")
    write_model(tmp_path / "unet", UNET)
    with pytest.raises(ModelError, match="flow-unet"):
        export_detectron2(tmp_path / "unet", tmp_path / "model.pth")
    assert not (tmp_path / "model.pth").exists() and not (tmp_path / "model.yaml").exists()
