"""The pieces of the detector: losses against torchvision's own, ignored areas, weights, targets, pasted masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.box_crops import crop_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import roi_align

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.models.crops.augment import IGNORE
from cellsemi.models.crops.crop import Crop
from cellsemi.models.detector.draw_masks import cells_in_boxes, paste_in_box
from cellsemi.models.detector.loss import ignored_share, mask_truth, sample_instance_map
from cellsemi.models.detector.targets import DetectorBatch, Target, batch_of, resized, target_of
from cellsemi.models.torchvision_maskrcnn.heads import Anchors, FixedRoIAlign
from cellsemi.models.torchvision_maskrcnn.loss import match
from cellsemi.models.torchvision_maskrcnn.net import MaskRcnn, anchor_sizes, build
from cellsemi.models.torchvision_maskrcnn.weights import start_from
from cellsemi.rounds.cells import masks

CPU = torch.device("cpu")


def small(**changes: Any) -> MaskRcnnConfig:
    settings = {"backbone": "resnet18", "anchor_px": (8, 16, 24, 32, 48), "box_hidden": 32, "mask_hidden": 16}
    settings |= {"rpn_proposals": 100, "rpn_batch": 64, "roi_batch": 32}
    return MaskRcnnConfig(name="m", **(settings | changes))


def network(config: MaskRcnnConfig, classes: int = 2) -> MaskRcnn:
    torch.set_num_threads(1)
    return build(config, classes, seed=0).train()


def losses_of(net: MaskRcnn, batch: DetectorBatch, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    return net.losses(batch)


def as_torchvision(target: Target) -> dict[str, torch.Tensor]:
    drawn = torch.stack([target.instance_map == number for number in range(1, len(target.boxes))])
    return {"boxes": target.boxes[1:], "labels": target.labels[1:], "masks": drawn.to(torch.uint8)}


def test_without_ignored_areas_the_losses_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(small())
    batch = batch_of([crop_of(0), crop_of(1)], 1.0, {}, CPU)
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
        batch = batch_of([light], 1.0, {}, CPU)
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
    total, _ = losses_of(net, batch_of([crop], 1.0, makers or {}, CPU))
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
            total, parts = losses_of(net, batch_of([*crops, *crops], 1.0, {}, CPU))
            total.backward()
            assert all(torch.isfinite(part) for part in parts.values())
            assert (parts["mask"] == 0) == (len(crops) == 1)  # only the last has cells
            assert all(part == 0 for part in parts.values()) == (crops[-1] is blank)
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        assert all(torch.isfinite(value.float()).all() for value in net.state_dict().values())


def test_targets_are_the_cells_that_can_be_seen() -> None:
    instance_map = np.zeros((32, 32), np.int32)
    instance_map[2:8, 3:10] = 4
    instance_map[20, 5:12] = 2  # one pixel high
    instance_map[25:27, 25] = 1
    instance_map[10:14, 20:22] = 3
    instance_map[0, 31] = IGNORE
    crop = Crop(np.zeros((32, 32, 3), np.float32), instance_map, np.array([0, 5, 6, 7, 8]), np.array([1, 2, 3, 4, 5.0]))
    target = target_of(crop, 1.0)
    assert target.boxes.tolist() == [[0, 0, 0, 0], [20, 10, 22, 14], [3, 2, 10, 8]]
    assert target.labels.tolist() == [0, 8, 9] and target.weights.tolist() == [1, 4, 5]
    assert (target.instance_map.numpy() == IGNORE).sum() == 1 + 7 + 2 == target.ignored_sum[-1, -1]
    assert (target.instance_map[2:8, 3:10] == 2).all() and (target.instance_map[10:14, 20:22] == 1).all()
    larger = target_of(crop, 2.0)
    assert larger.instance_map.shape == (64, 64) and larger.boxes.tolist()[-1] == [6, 4, 20, 16]
    assert len(larger.boxes) == 5  # at twice the size all can be seen


@pytest.number.parametrize(("scale", "shape"), [(1.0, (5, 7, 3)), (2.5, (12, 18, 3)), (0.1, (1, 1, 3))])
def test_a_scale_keeps_a_pixel(scale: float, shape: tuple[int, ...]) -> None:
    pixels = np.full((5, 7, 3), 0.5, np.float32)
    found = resized(pixels, scale)
    assert found.shape == shape and found.dtype == np.float32
    np.testing.assert_allclose(found, 0.5, rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_the_ignored_share_of_a_box_is_counted_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outside = rng.random((13, 17)) < 0.4
    corners = torch.from_numpy(np.pad(outside.cumsum(0).cumsum(1), ((1, 0), (1, 0))))
    low, size = rng.uniform(-8, 20, (30, 2)), rng.uniform(0, 12, (30, 2))
    boxes = np.concatenate([low, low + size], 1).astype(np.float32)
    for box, share in zip(boxes, ignored_share(corners, torch.from_numpy(boxes)).tolist(), strict=True):
        x0, y0, x1, y1 = (max(0, round(float(edge))) for edge in box)
        part = outside[y0:y1, x0:x1]
        assert share == pytest.approx(part.mean() if part.size else 0)


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


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([7, 28]))
def test_sampled_masks_are_those_of_roi_align(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    instance_map = torch.from_numpy(rng.integers(-1, 3, (20, 26)).astype(np.int32))
    low = rng.uniform(0, 15, (6, 2))
    boxes = torch.from_numpy(np.concatenate([low, low + rng.uniform(0.5, 5, (6, 2))], 1).astype(np.float32))
    wanted = torch.from_numpy(rng.integers(1, 3, 6))
    planes = torch.stack([instance_map == number for number in wanted])[:, None].float()
    rois = torch.cat([torch.arange(6.0)[:, None], boxes], 1)
    expected = roi_align(planes, rois, side, 1.0, 2, aligned=True)[:, 0]
    found = sample_instance_map(instance_map, wanted, boxes, side)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_ignored_pixels_in_the_box_of_a_cell_have_no_weight() -> None:
    crop = crop_of(0, weights=(0.5, 1, 1, 1))
    instance_map = crop.instance_map.copy()
    y0, x0 = np.argwhere(instance_map == 1).min(0)
    instance_map[y0 : y0 + 5][instance_map[y0 : y0 + 5] == 1] = IGNORE
    target = target_of(Crop(crop.pixels, instance_map, crop.cell_class, crop.cell_weight), 1.0)
    box = torch.tensor([[x0, y0, x0 + 14, y0 + 14]], dtype=torch.float32)  # two bins a pixel
    _, weight = mask_truth(target, torch.tensor([1]), box, 28)
    assert not weight[0, :10, :20].any() and (weight[0, 11:, :20] == 0.5).all()


def test_a_pasted_mask_is_the_cell_that_was_sampled() -> None:
    yy, xx = np.mgrid[:70, :80]
    rng = np.random.default_rng(0)
    for radius in (2.5, 4, 7, 15, 25):
        y, x = 35 + rng.uniform(-1, 1), 40 + rng.uniform(-1, 1)
        instance_map = ((yy - y) ** 2 + (xx - x) ** 2 < radius**2).astype(np.int32)
        rows, columns = np.nonzero(instance_map)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        box += rng.uniform(0, 0.4, 4) * [-1, -1, 1, 1]
        share = sample_instance_map(torch.from_numpy(instance_map), torch.tensor([1]), torch.from_numpy(box)[None], 28)[
            0
        ].numpy()
        cells = cells_in_boxes(70, 80, box[None], share[None], np.array([0.5]), np.array([1]))
        drawn = masks.to_label_map(cells) > 0
        assert (drawn & (instance_map > 0)).sum() / (drawn | (instance_map > 0)).sum() > 0.97
        assert cells.class_id.tolist() == [1] and 0.4 < cells.score[0] <= 0.5


def slow_paste(mask: NDArray[np.float32], box: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """Pixel by pixel, over the whole image."""
    image = np.zeros((height, width))
    side = len(mask)
    for y in range(height):
        for x in range(width):
            if box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]:
                u = np.clip((x + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5, 0, side - 1)
                v = np.clip((y + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5, 0, side - 1)
                i, j = min(int(v), side - 2), min(int(u), side - 2)
                a, b = v - i, u - j
                image[y, x] = (1 - a) * ((1 - b) * mask[i, j] + b * mask[i, j + 1]) + a * (
                    (1 - b) * mask[i + 1, j] + b * mask[i + 1, j + 1]
                )
    return image


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_a_mask_is_pasted_at_pixel_centres_and_only_in_the_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 6)).astype(np.float32)
    low = rng.uniform(-4, 12, 2)
    box = np.concatenate([low, low + rng.uniform(0.1, 9, 2)])
    probability, x, y = paste_in_box(mask, box, 10, 12)
    whole = np.zeros((10, 12))
    whole[y : y + probability.shape[0], x : x + probability.shape[1]] = probability
    np.testing.assert_allclose(whole, slow_paste(mask, box, 10, 12), atol=1e-5)


def test_a_detection_without_a_pixel_is_none() -> None:
    boxes = np.array([[1.6, 1.6, 2.4, 2.4], [0, 0, 4, 4], [0, 0, 4, 4]])
    small_masks = np.stack([np.ones((28, 28)), np.full((28, 28), 0.4), np.ones((28, 28))]).astype(np.float32)
    cells = cells_in_boxes(9, 9, boxes, small_masks, np.array([0.9, 0.8, 0.7]), np.array([0, 1, 2]))
    assert cells.class_id.tolist() == [2] and cells.score.tolist() == [np.float32(0.7)]
    assert len(cells_in_boxes(9, 9, boxes[:0], small_masks[:0], np.zeros(0), np.zeros(0, np.int64))) == 0


def test_anchors_stand_at_the_strides_of_the_pyramid_in_float32() -> None:
    config = small(anchor_px=(32, 64, 128))
    sizes = anchor_sizes(config)
    anchors = Anchors(sizes, ((0.5, 1.0, 2.0),) * 5)(ImageList(torch.zeros(1, 3, 608, 608), [(608, 608)]), _levels(608))
    assert sizes == ((32, 64, 128),) * 5 and anchor_sizes(small())[4] == (48,)
    assert anchors[0].dtype == torch.float32
    assert len(anchors[0]) == 9 * (152**2 + 76**2 + 38**2 + 19**2 + 10**2)
    last = anchors[0][-1].view(2, 2).mean(0)
    assert last.tolist() == [9 * 64, 9 * 64]


def test_the_pooled_features_do_not_depend_on_the_first_image_seen() -> None:
    """torchvision's own pooler takes the strides from it: of a 1x1 image they are wrong."""
    features = {str(i): torch.rand(1, 2, 16 // 2**i, 16 // 2**i) for i in range(4)}
    pool, box = FixedRoIAlign(7), [torch.tensor([[8.0, 8, 40, 40]])]
    pool({name: level[..., :1, :1] for name, level in features.items()}, [torch.zeros(1, 4)], [(1, 1)])
    expected = roi_align(features["0"], box, 7, 1 / 4, 2)
    assert torch.equal(pool(features, box, [(64, 64)]), expected)


def parameters(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_the_cbam_network_has_the_size_that_its_source_states() -> None:
    config = MaskRcnnConfig(name="m", backbone="resnet18-cbam", anchor_px=(32, 64, 128))
    with torch.device("meta"):
        net = MaskRcnn(config, 1)
    assert parameters(net) == pytest.approx(31.0, rel=0.01)
    attention = sum(value.numel() for name, value in net.named_parameters() if ".channel." in name or "spatial" in name)
    assert attention / 1e6 == pytest.approx(0.04, abs=0.005)
    assert parameters(net.backbone.body) == pytest.approx(11.2, rel=0.01)  # 11.7 with ImageNet's classifier
    assert parameters(net.backbone.fpn) == pytest.approx(2.6, rel=0.02)
    assert parameters(net.rpn) == pytest.approx(0.6, rel=0.02)
    assert parameters(net.roi_heads.box_head) == pytest.approx(13.9, rel=0.01)
    assert parameters(net.roi_heads.mask_head) + parameters(net.roi_heads.mask_predictor) == pytest.approx(
        2.6, rel=0.02
    )


@pytest.number.parametrize(
    ("backbone", "theirs"), [("resnet50", maskrcnn_resnet50_fpn), ("resnet50-v2", maskrcnn_resnet50_fpn_v2)]
)
def test_the_weights_of_torchvision_have_a_place(backbone: Any, theirs: Any) -> None:
    with torch.device("meta"):
        reference = theirs(weights=None, weights_backbone=None).state_dict()
        scratch = MaskRcnn(MaskRcnnConfig(name="m", backbone=backbone), 90).state_dict()
        given = MaskRcnn(MaskRcnnConfig(name="m", backbone=backbone, weights="x"), 90).state_dict()
    assert {name: value.shape for name, value in scratch.items()} == {n: v.shape for n, v in reference.items()}
    assert {name for name in reference if not name.endswith("num_batches_tracked")} >= set(
        given
    ) or backbone != "resnet50"
    assert set(given) <= set(reference)


def test_given_weights_are_loaded_whole_or_refused(tmp_path: Path) -> None:
    config, path = small(), tmp_path / "w.pth"
    given = network(config, classes=5).state_dict()
    net = network(small(centre_head=True), classes=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    new = start_from(net, given, path)
    after = net.state_dict()
    heads = [f"roi_heads.box_predictor.{a}.{b}" for a in ("bbox_pred", "cls_score") for b in ("bias", "weight")]
    heads += [f"roi_heads.mask_predictor.mask_fcn_logits.{b}" for b in ("bias", "weight")]
    extra = [name for name in before if name.startswith("extra_heads")]
    assert sorted(new) == sorted(heads + extra)
    assert all(torch.equal(after[name], before[name] if name in new else given[name]) for name in after)
    assert start_from(network(config, classes=5), given, path) == []
    with pytest.raises(ModelError, match=r"1 missing|backbone.fpn.layer_blocks.0.0.bias missing"):
        start_from(net, {n: v for n, v in given.items() if n != "backbone.fpn.layer_blocks.0.0.bias"}, path)
    with pytest.raises(ModelError, match=r"other.weight unexpected"):
        start_from(net, given | {"other.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"another shape"):
        start_from(net, given | {"backbone.body.conv1.weight": torch.zeros(64, 1, 7, 7)}, path)


def test_names_of_older_torchvision_files_are_understood(tmp_path: Path) -> None:
    net = network(small())
    given = {name: value + 1 for name, value in net.state_dict().items()}
    renamed = {_older(name): value for name, value in given.items()}
    assert set(renamed) != set(given)
    assert start_from(net, renamed, tmp_path / "w.pth") == []
    assert all(torch.equal(value, given[name]) for name, value in net.state_dict().items())


def _older(name: str) -> str:
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    for i in range(4):
        name = name.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        name = name.replace(f"_blocks.{i}.0.", f"_blocks.{i}.")
    return name


def test_a_frozen_backbone_keeps_its_statistics() -> None:
    net = network(small())
    batch = batch_of([crop_of(0), crop_of(1)], 1.0, {}, CPU)
    body = net.backbone.body
    for trains in (False, True):
        for parameter in body.parameters():
            parameter.requires_grad_(trains)
        before = body.bn1.running_mean.clone()
        losses_of(net, batch)[0].backward()
        assert torch.equal(body.bn1.running_mean, before) != trains
        assert (body.conv1.weight.grad is not None) == trains
