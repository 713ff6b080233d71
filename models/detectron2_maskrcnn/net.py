"""Builds Detectron2's Mask R-CNN and Cascade Mask R-CNN, R50-FPN, and states their settings.

The settings are set in code, so that no file is needed; a test compares them with those that Detectron2 is
packaged with. The names of the weights are Detectron2's, so that its files can be loaded (weights.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from cellsemi.configs.models import Detectron2Config
from cellsemi.models.detector.detections import Detections
from cellsemi.models.detector.targets import DetectorBatch
from cellsemi.models.detectron2_maskrcnn.api import (
    CfgNode,
    EventStorage,
    GeneralizedRCNN,
    ImageList,
    build_backbone,
    get_cfg,
)
from cellsemi.models.detectron2_maskrcnn.heads import CascadeHeads, Features, ProposalNetwork, RegionHeads
from cellsemi.models.training.schedule import Parts

BACKBONE = "backbone.bottom_up"  # prefix of the ResNet's weights
PARTS = Parts(
    body=(f"{BACKBONE}.",),
    backbone=("backbone.",),
    heads=("roi_heads.",),
    predictors=("roi_heads.box_predictor.", "roi_heads.mask_head.predictor."),  # a cascade has one for each stage
    stages=tuple((f"{BACKBONE}.{name}.",) for name in ("stem", "res2", "res3", "res4", "res5")),
)
LEVELS = ["res2", "res3", "res4", "res5"]
PYRAMID = ["p2", "p3", "p4", "p5", "p6"]
GROUP_NORM = "GN"


def settings(config: Detectron2Config, classes: int, scratch: bool) -> CfgNode:
    """The settings of a config for some number of classes, as Detectron2's own CfgNode.

    With weights of others they are COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x, or for a cascade
    Misc/cascade_mask_rcnn_R_50_FPN_3x: frozen batch norm, stem and first stage never trained. From scratch
    such a network cannot learn; then it is that of Misc/scratch_mask_rcnn_R_50_FPN_3x_gn (He et al. 2019,
    "Rethinking ImageNet Pre-training"): group norm, a box head of four convolutions, nothing frozen. The caps
    are those of `config`, the same in training and testing.
    """
    cfg = get_cfg()
    model = cfg.MODEL
    model.META_ARCHITECTURE, model.MASK_ON, model.WEIGHTS = "GeneralizedRCNN", True, ""
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.DEPTH = 50
    model.RESNETS.OUT_FEATURES, model.FPN.IN_FEATURES = list(LEVELS), list(LEVELS)
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    model.RPN.IN_FEATURES, model.ROI_HEADS.IN_FEATURES = list(PYRAMID), PYRAMID[:4]
    for when in ("PRE_NMS_TOPK_TRAIN", "PRE_NMS_TOPK_TEST", "POST_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TEST"):
        model.RPN[when] = config.rpn_proposals
    model.ROI_HEADS.NAME = "CascadeROIHeads" if config.cascade else "StandardROIHeads"
    model.ROI_HEADS.NUM_CLASSES = classes
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = config.roi_batch
    model.ROI_HEADS.SCORE_THRESH_TEST = config.score_threshold
    model.ROI_HEADS.NMS_THRESH_TEST = config.nms_iou
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC, model.ROI_BOX_HEAD.POOLER_RESOLUTION = 2, 7
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = config.cascade
    model.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    model.ROI_MASK_HEAD.NUM_CONV, model.ROI_MASK_HEAD.POOLER_RESOLUTION = 4, 14
    cfg.TEST.DETECTIONS_PER_IMAGE = config.max_detections
    if scratch:
        model.BACKBONE.FREEZE_AT = 0
        model.RESNETS.STRIDE_IN_1X1 = False
        model.ROI_BOX_HEAD.NUM_CONV, model.ROI_BOX_HEAD.NUM_FC = 4, 1
        for part in (model.RESNETS, model.FPN, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD):
            part.NORM = GROUP_NORM
    return cfg


class Network(GeneralizedRCNN):  # type: ignore[misc]
    """The network of some settings, with random weights."""

    def __init__(self, cfg: CfgNode) -> None:
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        heads = CascadeHeads if cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads" else RegionHeads
        super().__init__(
            backbone=backbone,
            proposal_generator=ProposalNetwork(cfg, shape),
            roi_heads=heads(cfg, shape),
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
        )
        self._never_trained = cfg.MODEL.BACKBONE.FREEZE_AT
        self._nms_iou, self._cap = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE

    def losses(self, batch: DetectorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """What a step minimises, and its parts: Detectron2's names without `loss_`.

        The sampling draws from torch's global generator. A network that is not in training has losses, too.
        """
        self.backbone.bottom_up.freeze(self._never_trained)  # the training loop thaws the whole backbone
        images, features = self._features(batch.images)
        with EventStorage(), _with_losses(self.proposal_generator, self.roi_heads):  # the cascade insists on a storage
            proposals, parts = self.proposal_generator(images, features, batch.targets)
            _, more = self.roi_heads(images, features, proposals, batch.targets)
        parts = {name.removeprefix("loss_"): value for name, value in {**parts, **more}.items()}
        return torch.stack(list(parts.values())).sum(), parts

    def detect(self, pixels: Tensor) -> list[tuple[Detections, bool]]:
        """The detections of each image (B, 3, h, w) in [0, 1], and whether the cap on proposals was reached.

        Detectron2 suppresses within each class; here a cell has one class, so the best over all classes stays. It says
        of all images together whether the cap was reached, so they go through the network one by one.
        """
        return [self._detect(image) for image in pixels]

    def _detect(self, image: Tensor) -> tuple[Detections, bool]:
        images, features = self._features(image[None])
        proposals, _ = self.proposal_generator(images, features)
        (found,), _ = self.roi_heads(images, features, proposals)
        kept = found[nms(found.pred_boxes.tensor, found.scores, self._nms_iou)]
        detections = Detections(
            boxes=kept.pred_boxes.tensor,
            scores=kept.scores,
            labels=kept.pred_classes + 1,
            masks=kept.pred_masks[:, 0],
            capped=len(found) >= self._cap,
        )
        return detections, self.proposal_generator.capped

    def _features(self, images: Tensor) -> tuple[ImageList, Features]:
        """The images, as Detectron2 takes them (blue first, 0 to 255), and their features.

        The features are float32 whatever the precision: RoIAlign rounds its boxes to their dtype, and in bfloat16
        pixels 257 and 258 are one number.
        """
        prepared = self.preprocess_image([{"image": image} for image in images.flip(1) * 255])
        return prepared, {name: level.float() for name, level in self.backbone(prepared.tensor).items()}


@contextlib.contextmanager
def _with_losses(*parts: nn.Module) -> Iterator[None]:
    """Detectron2 computes losses in training only: inside, these parts are, and what they are made of is as it was."""
    before = [part.training for part in parts]
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part, training in zip(parts, before, strict=True):
            part.training = training


def build(config: Detectron2Config, classes: int, seed: int, scratch: bool = True) -> Network:
    """A fresh network, the same for the same seed; torch's global generator is left as it was.

    `scratch`: in the variant that is trained from scratch, which the weights of such a model need, too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(settings(config, classes, scratch))
