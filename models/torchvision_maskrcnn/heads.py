"""Adapts torchvision's proposal network and region heads to ignored areas, weights of cells, and reached caps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, nms, remove_small_boxes
from torchvision.ops.poolers import LevelMapper

from cellsemi.models.detector.detections import Detections
from cellsemi.models.detector.loss import mask_truth
from cellsemi.models.detector.targets import DetectorTarget
from cellsemi.models.torchvision_maskrcnn.loss import box_loss, match
from cellsemi.models.training.losses import weighted_mean

STRIDES = (4, 8, 16, 32, 64)  # of the levels of the pyramid; the last is pooled and serves the proposals only


MIN_BOX_PX = 1e-2  # boxes narrower than this are nothing


Features = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes (n, 4) per image, best first, with the probabilities (n,) of a cell.

    `capped` per image: likely boxes were cut off; losses in training.
    """

    boxes: list[Tensor]
    scores: list[Tensor]
    capped: tuple[bool, ...]
    losses: dict[str, Tensor]


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors at the strides of the pyramid, in float32.

    torchvision divides the size of the image by that of each level, which is not its stride when that level
    was rounded up, and takes the dtype of the features: in bfloat16 pixels 257 and 258 are one number.
    """

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The same anchors (A, 4) for each image."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        sizes = [level.shape[-2:] for level in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, [(stride, stride) for stride in STRIDES]))
        return [anchors] * len(image_list.image_sizes)


class FixedRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]
    """RoIAlign over the first four levels at their strides.

    torchvision guesses the strides from the first image it is given, and wrongly so from a small one.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__([str(level) for level in range(4)], output_size, sampling_ratio=2)
        self.scales = [1 / stride for stride in STRIDES[:4]]
        self.map_levels = LevelMapper(2, 5)


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """The region proposal network (Ren et al. 2015); boxes in ignored areas are not background."""

    def forward(
        self, images: ImageList, features: Features, targets: Sequence[DetectorTarget] | None = None
    ) -> Proposals:
        """Proposals of each image, and the losses `rpn_objectness` and `rpn_box` when there are targets."""
        levels = list(features.values())
        objectness, shifts = self.head(levels)
        anchors = self.anchor_generator(images, levels)
        counts = [level[0].numel() for level in objectness]
        objectness, shifts = (flat.float() for flat in concat_box_prediction_layers(objectness, shifts))
        decoded = self.box_coder.decode(shifts.detach(), anchors).view(len(anchors), -1, 4)
        boxes, scores = self.filter_proposals(decoded, objectness, images.image_sizes, counts)
        if targets is not None:
            return Proposals(boxes, scores, (), self._losses(objectness, shifts, anchors, targets))
        return Proposals(boxes, scores, self._capped(objectness.view(len(anchors), -1), counts, scores), {})

    def _capped(self, objectness: Tensor, counts: list[int], scores: list[Tensor]) -> tuple[bool, ...]:
        """Whether boxes more likely a cell than not were cut off, on a level before suppression or at the end."""
        levels = [(level > 0).sum(1) for level in torch.split(objectness, counts, 1)]
        before = (torch.stack(levels).amax(0) > self.pre_nms_top_n()).tolist()
        most = self.post_nms_top_n()
        return tuple(b or bool(len(s) >= most and s.min() > 0.5) for b, s in zip(before, scores, strict=True))

    def _losses(
        self, objectness: Tensor, shifts: Tensor, anchors: list[Tensor], targets: Sequence[DetectorTarget]
    ) -> dict[str, Tensor]:
        matched = [match(self.proposal_matcher, *pair) for pair in zip(targets, anchors, strict=True)]
        picked = _picked(self.fg_bg_sampler, matched)
        matched = [numbers[index] for numbers, index in zip(matched, picked, strict=True)]
        taken = torch.cat([index + i * len(anchors[0]) for i, index in enumerate(picked)])
        weight = torch.cat([target.weights[numbers] for target, numbers in zip(targets, matched, strict=True)])
        cell = torch.cat(matched) > 0
        entropy = functional.binary_cross_entropy_with_logits(
            objectness.flatten()[taken], cell.float(), reduction="none"
        )
        chosen = [anchor[index] for anchor, index in zip(anchors, picked, strict=True)]
        truth = _shifts_to_cells(self.box_coder, targets, matched, chosen)
        box = box_loss(shifts[taken[cell]], truth, weight[cell], weight.sum())
        return {"rpn_objectness": weighted_mean(entropy, weight), "rpn_box": box}


class RegionHeads(RoIHeads):  # type: ignore[misc]
    """The box and mask heads of Mask R-CNN (He et al. 2017); proposals in ignored areas are not background."""

    def losses(
        self,
        features: Features,
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: Sequence[DetectorTarget],
    ) -> dict[str, Tensor]:
        """`classifier`, `box` and `mask` over a sample of the proposals and the cells' own boxes."""
        boxes = self.add_gt_proposals(proposals, [target.boxes[1:] for target in targets])
        matched = [match(self.proposal_matcher, *pair) for pair in zip(targets, boxes, strict=True)]
        picked = _picked(self.fg_bg_sampler, matched)
        boxes = [box[index] for box, index in zip(boxes, picked, strict=True)]
        matched = [numbers[index] for numbers, index in zip(matched, picked, strict=True)]
        if not sum(len(numbers) for numbers in matched):  # everything is ignored
            nothing = boxes[0].new_zeros(())
            return {"classifier": nothing, "box": nothing, "mask": nothing}
        logits, shifts = self._boxes(features, boxes, sizes)
        label = torch.cat([target.labels[numbers] for target, numbers in zip(targets, matched, strict=True)])
        weight = torch.cat([target.weights[numbers] for target, numbers in zip(targets, matched, strict=True)])
        cell = label > 0
        truth = _shifts_to_cells(self.box_coder, targets, matched, boxes)
        own = shifts.view(len(label), -1, 4)[cell, label[cell]]
        return {
            "classifier": weighted_mean(functional.cross_entropy(logits, label, reduction="none"), weight),
            "box": box_loss(own, truth, weight[cell], weight.sum()),
            "mask": self._mask_loss(features, boxes, matched, sizes, targets),
        }

    def detect(self, features: Features, proposals: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """The detections of each image."""
        logits, shifts = self._boxes(features, proposals, sizes)
        counts = [len(box) for box in proposals]
        decoded = torch.split(self.box_coder.decode(shifts, proposals), counts)
        scores = torch.split(logits.softmax(1), counts)
        found = [self._best(*each) for each in zip(decoded, scores, sizes, strict=True)]
        pooled = self.mask_roi_pool(features, [boxes for boxes, _, _ in found], sizes)
        masks = self.mask_predictor(self.mask_head(pooled)).float().sigmoid()
        detections = []
        for (boxes, score, labels), own in zip(found, torch.split(masks, [len(b) for b, _, _ in found]), strict=True):
            small = own[torch.arange(len(labels), device=labels.device), labels]
            detections.append(Detections(boxes, score, labels, small, len(labels) >= self.detections_per_img))
        return detections

    def _boxes(self, features: Features, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Class logits (n, classes + 1) and box shifts (n, 4 (classes + 1)), float32, of all boxes."""
        logits, shifts = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, sizes)))
        return logits.float(), shifts.float()

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of one image after suppression over all classes: a cell has one class."""
        boxes = clip_boxes_to_image(boxes[:, 1:].reshape(-1, 4), size)
        labels = torch.arange(1, scores.shape[1], device=scores.device).expand(len(scores), -1).reshape(-1)
        scores = scores[:, 1:].reshape(-1)
        keep = torch.where(scores > self.score_thresh)[0]
        keep = keep[remove_small_boxes(boxes[keep], MIN_BOX_PX)]
        keep = keep[nms(boxes[keep], scores[keep], self.nms_thresh)][: self.detections_per_img]
        return boxes[keep], scores[keep], labels[keep]

    def _mask_loss(
        self,
        features: Features,
        boxes: list[Tensor],
        matched: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: Sequence[DetectorTarget],
    ) -> Tensor:
        """Binary cross entropy of the masks of the positives' own classes, over their pixels with weight."""
        boxes = [box[numbers > 0] for box, numbers in zip(boxes, matched, strict=True)]
        matched = [numbers[numbers > 0] for numbers in matched]
        label = torch.cat([target.labels[numbers] for target, numbers in zip(targets, matched, strict=True)])
        if not len(label):
            return boxes[0].new_zeros(())
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, sizes))).float()
        own = logits[torch.arange(len(label), device=label.device), label]
        pairs = [mask_truth(*each, own.shape[-1]) for each in zip(targets, matched, boxes, strict=True)]
        truth, weight = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        entropy = functional.binary_cross_entropy_with_logits(own, truth, reduction="none")
        return weighted_mean(entropy, weight)


def _picked(sampler: Any, matched: list[Tensor]) -> list[Tensor]:
    """The indices of the boxes of each image that torchvision's sampler draws: cells and background, never -1."""
    return [torch.where(cells | background)[0] for cells, background in zip(*sampler(matched), strict=True)]


def _shifts_to_cells(
    coder: Any, targets: Sequence[DetectorTarget], matched: list[Tensor], boxes: list[Tensor]
) -> Tensor:
    """(p, 4): what would move the boxes with a cell onto it, over all images."""
    parts = []
    for target, numbers, box in zip(targets, matched, boxes, strict=True):
        positive = numbers > 0
        parts.append(coder.encode_single(target.boxes[numbers[positive]], box[positive]))
    return torch.cat(parts)
