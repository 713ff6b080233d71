"""Builds Mask R-CNN of torchvision's parts (He et al. 2017; FPN: Lin et al. 2017), for many small cells.

The names of the weights are torchvision's, so that its files can be loaded (weights.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.misc import FrozenBatchNorm2d

from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.models.detector.detections import Detections
from cellsemi.models.detector.targets import DetectorBatch
from cellsemi.models.torchvision_maskrcnn.cbam import Cbam
from cellsemi.models.torchvision_maskrcnn.centre_boundary import map_head, map_loss
from cellsemi.models.torchvision_maskrcnn.heads import (
    STRIDES,
    Anchors,
    Features,
    FixedRoIAlign,
    ProposalNetwork,
    RegionHeads,
)
from cellsemi.models.training.schedule import Parts

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels
STRIDE = 32  # sides are filled up to a multiple of it, with the mean
BACKBONE = "backbone.body"  # prefix of the ResNet's weights
PARTS = Parts(
    body=(f"{BACKBONE}.",),
    backbone=("backbone.",),
    heads=("roi_heads.", "extra_heads."),
    predictors=("roi_heads.box_predictor.", "roi_heads.mask_predictor."),
    stages=tuple(
        tuple(f"{BACKBONE}.{name}." for name in names)
        for names in (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    ),
)
CHANNELS = 256  # of the pyramid
BOX_PX, MASK_PX = 7, 14  # sides of the pooled boxes; a mask has 2 x MASK_PX


@dataclass(frozen=True, slots=True)
class Form:
    """What of a network depends on the weights that it starts from, beside its settings.

    `frozen`: the statistics of the backbone's batch norm stay as they came. `mask_width` is the number of channels of
    all layers of the mask head but the last hidden one.
    """

    frozen: bool
    mask_width: int


class MaskRcnn(nn.Module):
    """The network of a MaskRcnnConfig for some number of classes, with random weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: MaskRcnnConfig, classes: int, form: Form) -> None:
        super().__init__()
        self.backbone = _backbone(config, form.frozen)
        self.rpn = _proposal_network(config)
        self.roi_heads = _region_heads(config, classes + 1, form.mask_width)
        heads = {"centre": config.centre_head, "boundary": config.boundary_head}
        self.extra_heads = nn.ModuleDict({name: map_head(CHANNELS) for name, wanted in heads.items() if wanted})
        self._extra_weight = config.extra_weight
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def losses(self, batch: DetectorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """What a step minimises, and its parts by name. The sampling draws from torch's global generator."""
        images, features = self._features(batch.images)
        proposals = self.rpn(images, features, batch.targets)
        parts = dict(proposals.losses)
        parts |= self.roi_heads.losses(features, proposals.boxes, images.image_sizes, batch.targets)
        total = torch.stack(list(parts.values())).sum()
        for name, head in self.extra_heads.items():
            parts[name] = map_loss(head(features["0"]), batch.maps[name], batch.weight)
            total = total + self._extra_weight * parts[name]
        return total, parts

    def detect(self, pixels: Tensor) -> list[tuple[Detections, bool]]:
        """The detections of each image (B, 3, h, w) in [0, 1], and whether the cap on proposals was reached."""
        with torch.inference_mode():
            images, features = self._features(pixels)
            proposals = self.rpn(images, features)
            found = self.roi_heads.detect(features, proposals.boxes, images.image_sizes)
        return list(zip(found, proposals.capped, strict=True))

    def _features(self, images: Tensor) -> tuple[ImageList, Features]:
        height, width = images.shape[2:]
        scaled = (images - self.mean) / self.std
        padded = functional.pad(scaled, (0, -width % STRIDE, 0, -height % STRIDE))
        return ImageList(padded, [(height, width)] * len(images)), self.backbone(padded)


def build(config: MaskRcnnConfig, classes: int, seed: int, form: Form | None = None) -> MaskRcnn:
    """A fresh network, the same for the same seed; torch's global generator is left as it was.

    `form` is that of the weights that it shall hold (weights.form_of); None: from scratch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MaskRcnn(config, classes, form or Form(frozen=False, mask_width=config.mask_hidden))


def anchor_sizes(config: MaskRcnnConfig) -> tuple[tuple[int, ...], ...]:
    """The anchor sizes of each level: one each when there are as many as levels, otherwise all on each."""
    if len(config.anchor_px) == len(STRIDES):
        return tuple((size,) for size in config.anchor_px)
    return (config.anchor_px,) * len(STRIDES)


def _backbone(config: MaskRcnnConfig, frozen: bool) -> BackboneWithFPN:
    """ResNet and pyramid."""
    v2 = config.backbone == "resnet50-v2"
    make = resnet.resnet50 if config.backbone.startswith("resnet50") else resnet.resnet18
    body = make(weights=None, norm_layer=FrozenBatchNorm2d if frozen else nn.BatchNorm2d)
    channels = [body.inplanes // 8 * 2**stage for stage in range(4)]
    if config.backbone == "resnet18-cbam":
        for stage, width in enumerate(channels, start=1):
            getattr(body, f"layer{stage}").append(Cbam(width))
    levels = {f"layer{stage + 1}": str(stage) for stage in range(4)}
    return BackboneWithFPN(body, levels, channels, CHANNELS, norm_layer=nn.BatchNorm2d if v2 else None)


def _proposal_network(config: MaskRcnnConfig) -> ProposalNetwork:
    sizes = anchor_sizes(config)
    anchors = Anchors(sizes, (config.anchor_ratios,) * len(sizes))
    depth = 2 if config.backbone == "resnet50-v2" else 1
    kept = {"training": config.rpn_proposals, "testing": config.rpn_proposals}
    return ProposalNetwork(
        anchors,
        RPNHead(CHANNELS, anchors.num_anchors_per_location()[0], conv_depth=depth),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.rpn_batch,
        positive_fraction=0.5,
        pre_nms_top_n=kept,
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )


def _region_heads(config: MaskRcnnConfig, labels: int, width: int) -> RegionHeads:
    """Box and mask heads for so many labels, background included."""
    norm: Callable[..., nn.Module] | None = nn.BatchNorm2d if config.backbone == "resnet50-v2" else None
    if norm:
        box_head = FastRCNNConvFCHead((CHANNELS, BOX_PX, BOX_PX), [CHANNELS] * 4, [config.box_hidden], norm)
    else:
        box_head = TwoMLPHead(CHANNELS * BOX_PX**2, config.box_hidden)
    mask_predictor = MaskRCNNPredictor(width, config.mask_hidden, labels)
    # As in Detectron2. torchvision's start grows as the classes get fewer: with two, the first mask loss is 10.
    nn.init.normal_(mask_predictor.mask_fcn_logits.weight, std=0.001)
    nn.init.zeros_(mask_predictor.mask_fcn_logits.bias)
    return RegionHeads(
        FixedRoIAlign(BOX_PX),
        box_head,
        FastRCNNPredictor(config.box_hidden, labels),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.roi_batch,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_iou,
        detections_per_img=config.max_detections,
        mask_roi_pool=FixedRoIAlign(MASK_PX),
        mask_head=MaskRCNNHeads(CHANNELS, [width] * 4, 1, norm),
        mask_predictor=mask_predictor,
    )
