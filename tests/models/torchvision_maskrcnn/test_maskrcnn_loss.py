"""The losses of Mask R-CNN: torchvision's own without ignored areas; weights of cells, ignored areas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.box_crops import crop_of
from helpers.small_maskrcnn import losses_of, network, small
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import roi_align

from cellsemi.models.crops.crop import Crop
from cellsemi.models.detector.loss import ignored_share
from cellsemi.models.detector.targets import DetectorTarget, batch_of, target_of
from cellsemi.models.torchvision_maskrcnn.loss import match
from cellsemi.models.torchvision_maskrcnn.net import MaskRcnn
from cellsemi.rounds.cells.instance_map import IGNORE


def as_torchvision(target: DetectorTarget) -> dict[str, torch.Tensor]:
    drawn = torch.stack([target.instance_map == number for number in range(1, len(target.boxes))])
    return {"boxes": target.boxes[1:], "labels": target.labels[1:], "masks": drawn.to(torch.uint8)}


def test_without_ignored_areas_the_losses_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(small())
    batch = batch_of([crop_of(0), crop_of(1)], 1.0, {})
    images, features = net._features(batch.images)
    features = {name: level.detach() for name, level in features.items()}
    images = ImageList(images.tensors, images.image_sizes)
    plain = [as_torchvision(target) for target in batch.targets]
    torch.manual_seed(3)
    proposals, expected = RegionProposalNetwork.forward(_plain_rpn(net), images, features, plain)
    torch.manual_seed(3)
    found = net.rpn(images, features, batch.targets)
    assert found.losses["rpn_objectness"].item() == pytest.approx(expected["loss_objectness"].item(), rel=1e-5)
    assert found.losses["rpn_box"].item() == pytest.approx(expected["loss_rpn_box_reg"].item(), rel=1e-5)
    torch.manual_seed(4)
    # torchvision samples the masks half a pixel off, with as many points as fit: the same truth for both here.
    monkeypatch.setattr(
        "torchvision.models.detection.roi_heads.project_masks_on_boxes",
        lambda drawn, boxes, index, side: roi_align(
            drawn[:, None].float(), torch.cat([index[:, None].float(), boxes], 1), side, 1.0, 2, aligned=True
        )[:, 0],
    )
    heads = net.roi_heads
    _, expected = RoIHeads.forward(heads, features, list(proposals), images.image_sizes, plain)
    torch.manual_seed(4)
    own = heads.losses(features, list(proposals), images.image_sizes, batch.targets)
    for name, theirs in (("classifier", "loss_classifier"), ("box", "loss_box_reg"), ("mask", "loss_mask")):
        assert own[name].item() == pytest.approx(expected[theirs].item(), rel=1e-4), name


def _plain_rpn(net: MaskRcnn) -> RegionProposalNetwork:
    rpn = net.rpn
    kept = {"training": 100, "testing": 100}
    return RegionProposalNetwork(rpn.anchor_generator, rpn.head, 0.7, 0.3, 64, 0.5, kept, kept, 0.7).train()


def test_each_loss_is_the_mean_over_cells_by_their_weights() -> None:
    """Of one-hot weights come the cells' own losses; no proposals, so that only the cells are sampled."""
    net = network(small()).eval()
    crop = crop_of(0)

    def losses(*weights: float) -> dict[str, float]:
        light = Crop(crop.pixels, crop.instance_map, crop.cell_class, np.array([1, *weights], np.float32))
        batch = batch_of([light], 1.0, {})
        images, features = net._features(batch.images)
        found = net.roi_heads.losses(features, [torch.zeros(0, 4)], images.image_sizes, batch.targets)
        return {name: value.item() for name, value in found.items()}

    with torch.no_grad():
        single = [losses(*row) for row in np.eye(4)]
        weights = (0.0, 0.25, 1.0, 0.6)
        for name, value in losses(*weights).items():
            own = [part[name] for part in single]
            assert value == pytest.approx(np.average(own, weights=weights), rel=1e-4)
            assert len(set(own)) == 4


def test_the_loss_of_the_proposals_is_the_weighted_mean_over_the_anchors() -> None:
    net = network(small(rpn_batch=100_000))
    weights = (0.0, 0.25, 1.0, 0.6)
    target = target_of(crop_of(0, weights), 1.0)
    anchors = net.rpn.anchor_generator(ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]), _levels(64))
    instance_map = match(net.rpn.proposal_matcher, target, anchors[0]).numpy()
    weight = np.array([1, *weights])[instance_map] * (instance_map >= 0)
    logits, shifts = torch.randn(len(instance_map)), torch.zeros(len(instance_map), 4)
    truth = np.where(instance_map > 0, 1.0, 0.0)
    entropy = np.log1p(np.exp(-np.where(truth, 1, -1) * logits.numpy()))
    found = net.rpn._losses(logits, shifts, anchors, [target])
    assert found["rpn_objectness"].item() == pytest.approx(np.average(entropy, weights=weight), rel=1e-5)
    cell = instance_map > 0
    moved = net.rpn.box_coder.encode_single(target.boxes[instance_map[cell]], anchors[0][cell]).numpy()
    distance = np.where(np.abs(moved) < 1 / 9, 4.5 * moved**2, np.abs(moved) - 1 / 18).sum(1)
    expected = (distance * weight[cell]).sum() / weight.sum()
    assert found["rpn_box"].item() == pytest.approx(expected, rel=1e-4)


def gradients(net: MaskRcnn, crop: Crop, makers: dict[str, Any] | None = None) -> tuple[float, list[Any]]:
    net.zero_grad(set_to_none=True)
    total, _ = losses_of(net, batch_of([crop], 1.0, makers or {}))
    total.backward()
    return total.item(), [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def test_what_an_ignored_cell_is_changes_no_gradient() -> None:
    first = crop_of(0)
    ignored = np.where(first.instance_map == 2, IGNORE, first.instance_map).astype(np.int32)
    other = np.array([0, 0, 0, 0, 1]), np.array([1, 1, 7, 1, 1], np.float32)  # class and weight of the ignored cell
    net = network(small()).eval()  # fixed statistics; `losses` does not ask for the mode
    loss, expected = gradients(net, Crop(first.pixels, ignored, first.cell_class, first.cell_weight))
    again, found = gradients(net, Crop(first.pixels, ignored, *other))
    assert again == loss
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    background = np.where(first.instance_map == 2, 0, first.instance_map).astype(np.int32)
    assert gradients(net, Crop(first.pixels, background, first.cell_class, first.cell_weight))[0] != loss


def test_what_a_network_says_of_an_ignored_area_changes_no_loss() -> None:
    """Logits of anchors and proposals in it may be anything."""
    crop = crop_of(0)
    instance_map = crop.instance_map.copy()
    instance_map[:, 40:] = IGNORE
    target = target_of(Crop(crop.pixels, instance_map, crop.cell_class, crop.cell_weight), 1.0)
    net = network(small(rpn_batch=100_000))
    anchors = net.rpn.anchor_generator(ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]), _levels(64))
    inside = ignored_share(target.ignored_sum, anchors[0]) > 0.5
    assert 0.2 < inside.float().mean() < 0.6
    cells = match(net.rpn.proposal_matcher, target, anchors[0]) > 0
    results = []
    for shift in (0.0, 9.0):
        objectness = torch.zeros(len(anchors[0]), requires_grad=True)
        shifts = torch.zeros(len(anchors[0]), 4, requires_grad=True)
        losses = net.rpn._losses(objectness + shift * (inside & ~cells), shifts, anchors, [target])
        sum(losses.values()).backward()
        assert objectness.grad is not None and not objectness.grad[inside & ~cells].any()
        results.append([value.item() for value in losses.values()])
    assert results[0] == results[1]


def _levels(side: int) -> list[torch.Tensor]:
    return [torch.zeros(1, 256, -(-side // s), -(-side // s), dtype=torch.bfloat16) for s in (4, 8, 16, 32, 64)]


def test_crops_without_cells_and_crops_of_nothing_but_ignored_areas_train() -> None:
    nothing = crop_of(0, empty=True)
    blank = Crop(nothing.pixels, np.full_like(nothing.instance_map, IGNORE), nothing.cell_class, nothing.cell_weight)
    for backbone in ("resnet18", "resnet50-v2"):
        net = network(small(backbone=backbone))
        for crops in ([nothing], [blank], [blank, crop_of(1)]):
            total, parts = losses_of(net, batch_of([*crops, *crops], 1.0, {}))
            total.backward()
            assert all(torch.isfinite(part) for part in parts.values())
            assert (parts["mask"] == 0) == (len(crops) == 1)  # only the last has cells
            assert all(part == 0 for part in parts.values()) == (crops[-1] is blank)
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        assert all(torch.isfinite(value.float()).all() for value in net.state_dict().values())


def test_only_boxes_without_a_cell_are_ignored() -> None:
    instance_map = np.full((32, 32), IGNORE, np.int32)
    instance_map[:, :8] = 0
    instance_map[10:14, 10:14] = 1  # a cell amid ignored ones
    crop = Crop(np.zeros((32, 32, 3), np.float32), instance_map, np.array([0, 0]), np.ones(2, np.float32))
    boxes = torch.tensor([[10.0, 10, 14, 14], [20, 20, 28, 28], [0, 0, 8, 8], [4, 4, 12, 12], [3, 3, 12, 12]])
    assert match(Matcher(0.5, 0.5), target_of(crop, 1.0), boxes).tolist() == [1, -1, 0, 0, 0]
    without = np.where(instance_map == 1, IGNORE, instance_map).astype(np.int32)
    nothing = Crop(crop.pixels, without, crop.cell_class, crop.cell_weight)
    assert match(Matcher(0.5, 0.5), target_of(nothing, 1.0), boxes).tolist() == [-1, -1, 0, 0, 0]
