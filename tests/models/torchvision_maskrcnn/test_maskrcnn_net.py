"""The network of Mask R-CNN: anchors, pooling, its size, given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.box_crops import crop_of
from helpers.small_maskrcnn import losses_of, network, small
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.detector.targets import batch_of
from cellsemi.models.torchvision_maskrcnn.heads import Anchors, FixedRoIAlign
from cellsemi.models.torchvision_maskrcnn.net import PARTS, anchor_sizes, build
from cellsemi.models.torchvision_maskrcnn.weights import form_of, start_from
from cellsemi.models.training.schedule import freeze


def _levels(side: int) -> list[torch.Tensor]:
    return [torch.zeros(1, 256, -(-side // s), -(-side // s), dtype=torch.bfloat16) for s in (4, 8, 16, 32, 64)]


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
        net = build(config, 1, 0)
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


@pytest.mark.parametrize(
    ("backbone", "theirs"), [("resnet50", maskrcnn_resnet50_fpn), ("resnet50-v2", maskrcnn_resnet50_fpn_v2)]
)
def test_the_weights_of_torchvision_have_a_place(backbone: Any, theirs: Any) -> None:
    with torch.device("meta"):
        reference = theirs(weights=None, weights_backbone=None).state_dict()
        config = MaskRcnnConfig(name="m", backbone=backbone)
        scratch = build(config, 90, 0).state_dict()
        published = {name: v for name, v in reference.items() if backbone != "resnet50" or "batches" not in name}
        given = build(config, 90, 0, form_of(config, published)).state_dict()
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
    batch = batch_of([crop_of(0), crop_of(1)], 1.0, {})
    body = net.backbone.body
    for trains in (False, True):
        config = TrainingConfig(frozen="none" if trains else "body")
        freeze(net.train(), PARTS, config, [name for name, _ in net.named_parameters()])
        before = body.bn1.running_mean.clone()
        losses_of(net, batch)[0].backward()
        assert torch.equal(body.bn1.running_mean, before) != trains
        assert (body.conv1.weight.grad is not None) == trains
