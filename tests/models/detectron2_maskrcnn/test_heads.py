"""The pieces around Detectron2: losses against its own, ignored areas, weights of cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.box_crops import crop_of
from helpers.detectron2_small import SMALL, make_small, small_settings, stock_network

from cellsemi.models.crops.crop import Crop
from cellsemi.models.detector.loss import ignored_share, mask_truth
from cellsemi.models.detector.targets import DetectorBatch, DetectorTarget, batch_of
from cellsemi.models.detectron2_maskrcnn.api import Boxes, EventStorage, Instances
from cellsemi.models.detectron2_maskrcnn.net import Network, build
from cellsemi.models.training.device import compute_settings
from cellsemi.rounds.cells.instance_map import IGNORE

CPU = torch.device("cpu")
SIDE = 64


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    make_small(monkeypatch)
    monkeypatch.setenv("CELLSEMI_HOME", str(tmp_path / "home"))
    with compute_settings(1):
        yield


def network(**changes: Any) -> Network:
    return build(SMALL.model_copy(update=changes), 2, seed=0).train()


def batch(*crops: Crop) -> DetectorBatch:
    return batch_of(crops, 1.0, {})


def losses_of(net: Network, crops: DetectorBatch) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return net.losses(crops)[1]


def bitmasks(target: DetectorTarget) -> Any:
    from detectron2.structures import BitMasks

    return BitMasks(torch.stack([target.instance_map == number for number in range(1, len(target.boxes))]))


def as_detectron2(target: DetectorTarget) -> Instances:
    cells = Instances((SIDE, SIDE))
    cells.gt_boxes, cells.gt_classes = Boxes(target.boxes[1:]), target.labels[1:] - 1
    cells.gt_masks = bitmasks(target)
    return cells


def two_samples_a_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectron2 samples a mask with as many points as fit; two a bin and axis here, as mask_truth does."""
    from detectron2.layers import ROIAlign
    from detectron2.structures import BitMasks

    def cropped(self: Any, boxes: torch.Tensor, side: int) -> torch.Tensor:
        rois = torch.cat([torch.arange(len(boxes))[:, None].float(), boxes], 1)
        return ROIAlign((side, side), 1.0, 2, aligned=True)(self.tensor[:, None].float(), rois)[:, 0] >= 0.5

    monkeypatch.setattr(BitMasks, "crop_and_resize", cropped)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("cascade", [False, True])
def test_without_ignored_areas_losses_and_gradients_are_detectron2s(
    cascade: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_samples_a_bin(monkeypatch)
    net = network(cascade=cascade)
    stock: Any = stock_network(small_settings(SMALL.model_copy(update={"cascade": cascade}), 2)).train()
    stock.load_state_dict(net.state_dict())
    crops = batch(crop_of(0), crop_of(1))
    inputs = [
        {"image": image.flip(0) * 255, "instances": as_detectron2(target)}
        for image, target in zip(crops.images, crops.targets, strict=True)
    ]
    torch.manual_seed(3)
    with EventStorage():
        expected = stock(inputs)
    own = losses_of(net, crops)
    assert {f"loss_{name}" for name in own} == expected.keys()
    for name, value in own.items():
        assert value.item() == pytest.approx(expected[f"loss_{name}"].item(), rel=2e-3), name
    sum(own.values(), torch.zeros(())).backward()
    sum(expected.values()).backward()
    theirs = dict(stock.named_parameters())
    for name, value in net.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(value.grad, theirs[name].grad, rtol=0.02, atol=2e-3)


def test_masks_to_learn_are_those_of_detectron2_but_for_a_few_pixels_on_the_edge() -> None:
    (target,) = batch(crop_of(0)).targets
    rng = np.random.default_rng(0)
    wanted = torch.arange(1, len(target.boxes)).repeat(8)
    boxes = target.boxes[wanted] + torch.from_numpy(rng.uniform(-4, 4, (len(wanted), 4))).float()
    truth, weight = mask_truth(target, wanted, boxes, 28)
    theirs = bitmasks(target)[wanted - 1].crop_and_resize(boxes, 28)
    assert ((truth >= 0.5) == theirs).float().mean() > 0.98 and weight.min() == 1


def ignoring(crop: Crop, *cells: int) -> Crop:
    """The same crop with some cells ignored, grown by a pixel."""
    instance_map = crop.instance_map.copy()
    for cell in cells:
        rows, columns = np.nonzero(crop.instance_map == cell)
        instance_map[max(rows.min() - 1, 0) : rows.max() + 2, max(columns.min() - 1, 0) : columns.max() + 2] = IGNORE
    return Crop(crop.pixels, instance_map, crop.cell_class, crop.cell_weight)


def test_no_anchor_and_no_proposal_in_an_ignored_area_is_a_negative() -> None:
    net = network(roi_batch=2000)
    crops, free = batch(ignoring(crop_of(0), 2, 3)), batch(crop_of(0))
    _, features = net._features(crops.images)
    rpn = net.proposal_generator
    rpn.batch_size_per_image = 10_000  # all anchors
    anchors = rpn.anchor_generator([features[name] for name in rpn.in_features])
    share = ignored_share(crops.targets[0].ignored_sum, Boxes.cat(anchors).tensor)
    (label,), _ = rpn.label_and_sample_anchors(anchors, crops.targets)
    (before,), _ = rpn.label_and_sample_anchors(anchors, free.targets)
    assert (share > 0.5).sum() > 10 and (label[share > 0.5] != 0).all()
    assert (label[share == 0] == 0).any() and (before == 1).sum() > (label == 1).sum() > 0
    inside = torch.tensor([[0.0, 0, 60, 60], [40, 10, 44, 14], [2, 2, 5, 5]])
    y, x = np.argwhere(crops.targets[0].instance_map.numpy() == IGNORE).mean(0)
    inside[1] = torch.tensor([x - 1, y - 1, x + 1, y + 1])
    found = Instances((SIDE, SIDE))
    found.proposal_boxes = Boxes(torch.cat([inside, Boxes.cat(anchors).tensor[share > 0.5]]))
    (sampled,) = net.roi_heads.label_and_sample_proposals([found], crops.targets)
    assert (sampled.gt_numbers >= 0).all() and len(sampled) < len(found)
    background = sampled[sampled.gt_classes == 2].proposal_boxes.tensor
    assert len(background) and (ignored_share(crops.targets[0].ignored_sum, background) <= 0.5).all()


def test_an_ignored_cell_changes_no_gradient() -> None:
    """What a cell would have taught (class, weight, where its edge is) is gone when it is ignored."""
    net = network()
    other = crop_of(0)
    other = Crop(other.pixels, other.instance_map, 1 - other.cell_class, np.array([1, 1, 9, 9, 1], np.float32))
    same = other.cell_class.copy()
    same[[1, 4]] = crop_of(0).cell_class[[1, 4]]  # the cells that stay are as before
    other = Crop(other.pixels, other.instance_map, same, other.cell_weight)
    gradients = []
    for crop in (crop_of(0), other):
        net.zero_grad()
        sum(losses_of(net, batch(ignoring(crop, 2, 3))).values(), torch.zeros(())).backward()
        gradients.append([value.grad.clone() for value in net.parameters() if value.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert any(value.any() for value in gradients[0])


@pytest.mark.parametrize("cascade", [False, True])
def test_a_crop_that_is_ignored_whole_teaches_nothing(cascade: bool) -> None:
    net = network(cascade=cascade)
    crop = crop_of(0)
    crop = Crop(crop.pixels, np.full_like(crop.instance_map, IGNORE), crop.cell_class, crop.cell_weight)
    parts = losses_of(net, batch(crop))
    sum(parts.values(), torch.zeros(())).backward()
    assert all(value.item() == 0 for value in parts.values())
    assert all(value.grad is None or not value.grad.any() for value in net.parameters())


def test_later_stages_of_the_cascade_give_ignored_boxes_no_weight() -> None:
    net = network(cascade=True)
    (target,) = batch(ignoring(crop_of(0), 2)).targets
    cell = target.boxes[1]
    y, x = np.argwhere(target.instance_map.numpy() == IGNORE).mean(0)
    boxes = Instances((SIDE, SIDE))
    boxes.proposal_boxes = Boxes(torch.stack([cell, torch.tensor([x - 3, y - 3, x + 3, y + 3])]).float())
    (labelled,) = net.roi_heads._match_and_label_boxes([boxes], 2, [target])
    assert labelled.gt_classes.tolist() == [int(target.labels[1]) - 1, 2]
    assert labelled.gt_weights.tolist() == [1, 0] and labelled.gt_numbers.tolist() == [1, -1]


def test_the_weight_of_a_cell_multiplies_its_losses() -> None:
    net = network()
    weights = (0.0, 0.25, 1.0, 0.6)
    single = [losses_of(net, batch(crop_of(0, tuple(row)))) for row in np.eye(4)]
    found = losses_of(net, batch(crop_of(0, weights)))
    none = losses_of(net, batch(crop_of(0, (0, 0, 0, 0))))
    expected = sum(w * each["rpn_loc"].item() for w, each in zip(weights, single, strict=True))
    assert found["rpn_loc"].item() == pytest.approx(expected, rel=1e-5) and expected > 0
    ground = none["rpn_cls"].item()
    expected = ground + sum(w * (each["rpn_cls"].item() - ground) for w, each in zip(weights, single, strict=True))
    assert found["rpn_cls"].item() == pytest.approx(expected, rel=1e-5)
    assert none["rpn_loc"] == none["box_reg"] == none["mask"] == 0 < none["cls"]
    low, high = min(each["mask"].item() for each in single), max(each["mask"].item() for each in single)
    assert low < found["mask"].item() < high


def test_the_box_losses_are_weighted_means() -> None:
    predictor = network().roi_heads.box_predictor
    rng = np.random.default_rng(0)
    sampled = Instances((SIDE, SIDE))
    corner = torch.from_numpy(rng.uniform(0, 20, (5, 2))).float()
    sampled.proposal_boxes = Boxes(torch.cat([corner, corner + 12], 1))
    sampled.gt_boxes = Boxes(torch.cat([corner + 1, corner + 11], 1))
    sampled.gt_classes = torch.tensor([0, 1, 2, 2, 1])
    sampled.gt_weights = torch.tensor([1.0, 0.5, 1.0, 0.0, 0.25])
    scores, shifts = torch.from_numpy(rng.normal(0, 1, (5, 3))), torch.from_numpy(rng.normal(0, 1, (5, 8)))
    found = predictor.losses((scores, shifts), [sampled])
    logs = np.log(np.exp(scores.numpy()).sum(1)) - scores.numpy()[range(5), [0, 1, 2, 2, 1]]
    weight = sampled.gt_weights.numpy()
    assert found["loss_cls"].item() == pytest.approx((logs * weight).sum() / weight.sum(), rel=1e-5)
    # 12 px boxes to 10 px cells of the same centre, in Detectron2's units: (10, 10, 5, 5) x (shift, log of size)
    truth = np.array([0, 0, 5 * np.log(10 / 12), 5 * np.log(10 / 12)])
    far = [np.abs(shifts.numpy()[i].reshape(2, 4)[c] - truth).sum() for i, c in ((0, 0), (1, 1), (4, 1))]
    expected = (np.array(far) * weight[[0, 1, 4]]).sum() / weight.sum()
    assert found["loss_box_reg"].item() == pytest.approx(expected, rel=1e-5)


def test_a_network_is_the_same_for_the_same_seed_and_the_generator_is_left() -> None:
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, again = network(), network()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
