"""Adapts Detectron2's proposal network and region heads to ignored areas, weights of cells, and reached caps.

With no IGNORE pixel and all weights 1 the losses are Detectron2's own. A box of which more than half is
IGNORE, and which matches no cell, is no negative: in the proposal network, in the box heads and in every
stage of the cascade. A bin of a mask that touches an IGNORE pixel has no weight. The weight of a cell
multiplies all of its losses.

The targets are `DetectorTarget`, not Detectron2's Instances: one instance map instead of a bitmap per cell.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cellsemi.models.detector.loss import IGNORED_SHARE, ignored_share, mask_truth
from cellsemi.models.detector.targets import DetectorTarget
from cellsemi.models.detectron2_maskrcnn.api import (
    RPN,
    Box2BoxTransform,
    Boxes,
    CascadeROIHeads,
    FastRCNNOutputLayers,
    ImageList,
    Instances,
    Matcher,
    StandardROIHeads,
    pairwise_iou,
    subsample_labels,
)
from cellsemi.models.training.losses import weighted_mean

Features = dict[str, Tensor]
Losses = dict[str, Tensor]


def match(matcher: Matcher, target: DetectorTarget, boxes: Tensor) -> Tensor:
    """int64 (n,): the number of the cell that each box (n, 4) should find, 0 for background, -1 for neither.

    Neither is what `matcher` leaves between its thresholds, and a box without a cell of which more than
    IGNORED_SHARE is IGNORE.
    """
    index, label = matcher(pairwise_iou(Boxes(target.boxes[1:]), Boxes(boxes)))
    matched = torch.where(label == 1, index + 1, label.to(index.dtype))
    ignored = (matched == 0) & (ignored_share(target.ignored_sum, boxes) > IGNORED_SHARE)
    return torch.where(ignored, -1, matched)


def shift_loss(coder: Box2BoxTransform, beta: float, shifts: Tensor, boxes: Tensor, cells: Tensor) -> Tensor:
    """(n,): smooth L1, from `beta` on linear, of `shifts` (n, 4) against those that move `boxes` onto `cells`."""
    truth = coder.get_deltas(boxes, cells)
    return functional.smooth_l1_loss(shifts, truth, beta=beta, reduction="none").sum(1)


class ProposalNetwork(RPN):  # type: ignore[misc]
    """Detectron2's region proposal network. `capped`: likely boxes of the last image were cut off."""

    capped = False

    def forward(self, images: ImageList, features: Features, targets: Sequence[DetectorTarget] | None = None) -> Any:
        """Proposals, and in training the losses."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)  # Detectron2's anchors call it the old way
            return super().forward(images, features, targets)

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], targets: Sequence[DetectorTarget]
    ) -> tuple[list[Tensor], list[tuple[DetectorTarget, Tensor]]]:
        """Per image: 1, 0 or -1 (not sampled) for each anchor; and the target with the cell's number of each anchor."""
        boxes = Boxes.cat(anchors).tensor
        matched = [match(self.anchor_matcher, target, boxes) for target in targets]
        labels = [self._subsample_labels(numbers.clamp(max=1)) for numbers in matched]
        return labels, list(zip(targets, matched, strict=True))

    def losses(
        self,
        anchors: list[Boxes],
        objectness: list[Tensor],
        labels: list[Tensor],
        shifts: list[Tensor],
        matched: list[tuple[DetectorTarget, Tensor]],
    ) -> Losses:
        """`loss_rpn_cls` and `loss_rpn_loc`: weighted sums, over the fixed number that Detectron2 divides by."""
        boxes = Boxes.cat(anchors).tensor
        scores, moves = torch.cat(objectness, 1).float(), torch.cat(shifts, 1).float()
        entropy, distance = scores.new_zeros(()), scores.new_zeros(())
        for score, move, label, (target, numbers) in zip(scores, moves, labels, matched, strict=True):
            taken, cell = label >= 0, label == 1
            raw = functional.binary_cross_entropy_with_logits(score[taken], label[taken].float(), reduction="none")
            entropy = entropy + (raw * target.weights[numbers[taken]]).sum()
            own = numbers[cell]
            far = shift_loss(self.box2box_transform, self.smooth_l1_beta, move[cell], boxes[cell], target.boxes[own])
            distance = distance + (far * target.weights[own]).sum()
        total = self.batch_size_per_image * len(labels)
        return {"loss_rpn_cls": entropy / total, "loss_rpn_loc": distance / total}

    def predict_proposals(
        self, anchors: list[Boxes], objectness: list[Tensor], shifts: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Detectron2's proposals; outside of training it sets `capped` where the caps cut likely ones off."""
        found = super().predict_proposals(anchors, objectness, shifts, sizes)
        if not self.training:
            before, after = self.pre_nms_topk[False], self.post_nms_topk[False]
            self.capped = any(bool(((level > 0).sum(1) > before).any()) for level in objectness) or any(
                len(each) >= after and bool(each.objectness_logits.min() > 0) for each in found
            )
        return list(found)


class BoxOutputs(FastRCNNOutputLayers):  # type: ignore[misc]
    """Detectron2's last layers of a box head, with a weight for each proposal."""

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> Losses:
        """`loss_cls` and `loss_box_reg` of labelled proposals, over the sum of their weights."""
        scores, shifts = predictions[0].float(), predictions[1].float()
        label = torch.cat([each.gt_classes for each in proposals])
        weight = torch.cat([each.gt_weights for each in proposals])
        cell = torch.where(label < self.num_classes)[0]
        boxes = torch.cat([each.proposal_boxes.tensor for each in proposals])[cell]
        cells = torch.cat([each.gt_boxes.tensor for each in proposals])[cell]
        agnostic = shifts.shape[1] == 4
        own = shifts[cell] if agnostic else shifts.view(len(label), self.num_classes, 4)[cell, label[cell]]
        far = shift_loss(self.box2box_transform, self.smooth_l1_beta, own, boxes, cells)
        entropy = functional.cross_entropy(scores, label, reduction="none")
        return {
            "loss_cls": weighted_mean(entropy, weight),
            "loss_box_reg": (far * weight[cell]).sum() / weight.sum().clamp(min=1e-6),
        }


class _Aware:
    """Overrides of both kinds of region heads; a base class before Detectron2's own."""

    def forward(
        self: Any,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: Sequence[DetectorTarget] | None = None,
    ) -> tuple[list[Instances], Losses]:
        """Detections, or in training the sampled proposals and the losses."""
        if not self.training:
            return super().forward(images, features, proposals)  # type: ignore[no-any-return, misc]
        sampled = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, sampled, targets)
        return sampled, {**losses, "loss_mask": self._mask_loss(features, sampled, targets)}

    @torch.no_grad()
    def label_and_sample_proposals(
        self: Any, proposals: list[Instances], targets: Sequence[DetectorTarget]
    ) -> list[Instances]:
        """A sample of each image's proposals and cells, labelled; none is from an ignored area."""
        sampled = []
        for found, target in zip(proposals, targets, strict=True):
            every = Instances(found.image_size)
            every.proposal_boxes = Boxes(torch.cat([found.proposal_boxes.tensor, target.boxes[1:]]))
            self._label(every, target, match(self.proposal_matcher, target, every.proposal_boxes.tensor))
            classes = torch.where(every.gt_numbers < 0, -1, every.gt_classes)
            picked = subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes)
            sampled.append(every[torch.cat(picked)])
        return sampled

    def _label(self: Any, proposals: Instances, target: DetectorTarget, matched: Tensor) -> None:
        """Write the target of each proposal into it; -1 in `matched` becomes background of weight 0."""
        known = matched.clamp(min=0)
        proposals.gt_numbers = matched
        proposals.gt_classes = torch.where(known > 0, target.labels[known] - 1, self.num_classes)
        proposals.gt_boxes = Boxes(target.boxes[known])
        proposals.gt_weights = torch.where(matched < 0, 0, target.weights[known])

    def _mask_loss(
        self: Any, features: Features, sampled: list[Instances], targets: Sequence[DetectorTarget]
    ) -> Tensor:
        """Binary cross entropy of the masks of the positives' own classes, over their bins with weight."""
        cells = [each[each.gt_numbers > 0] for each in sampled]
        pooled = self.mask_pooler([features[name] for name in self.mask_in_features], [c.proposal_boxes for c in cells])
        logits = self.mask_head.layers(pooled).float()
        label = torch.cat([each.gt_classes for each in cells])
        own = logits[torch.arange(len(label), device=label.device), label]
        pairs = [
            mask_truth(target, each.gt_numbers, each.proposal_boxes.tensor, own.shape[-1])
            for target, each in zip(targets, cells, strict=True)
        ]
        truth, weight = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        hard = (truth >= 0.5).float()  # as Detectron2 rasterises them
        return weighted_mean(functional.binary_cross_entropy_with_logits(own, hard, reduction="none"), weight)


class RegionHeads(_Aware, StandardROIHeads):  # type: ignore[misc]
    """The heads of Mask R-CNN."""

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        made = super()._init_box_head(cfg, input_shape)
        return {**made, "box_predictor": _weighted(cfg, made["box_head"], made["box_predictor"])}

    def _forward_box(self, features: Features, proposals: list[Instances], targets: Any = None) -> Any:
        return super()._forward_box(features, proposals)


class CascadeHeads(_Aware, CascadeROIHeads):  # type: ignore[misc]
    """The heads of Cascade Mask R-CNN: each stage labels the boxes of the one before."""

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        made = super()._init_box_head(cfg, input_shape)
        pairs = zip(made["box_heads"], made["box_predictors"], strict=True)
        return {**made, "box_predictors": [_weighted(cfg, *pair) for pair in pairs]}

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: Sequence[DetectorTarget]
    ) -> list[Instances]:
        for each, target in zip(proposals, targets, strict=True):
            self._label(each, target, match(self.proposal_matchers[stage], target, each.proposal_boxes.tensor))
        return proposals


def _weighted(cfg: Any, head: Any, plain: FastRCNNOutputLayers) -> BoxOutputs:
    return BoxOutputs(cfg, head.output_shape, box2box_transform=plain.box2box_transform)
