"""Names the parts of Detectron2's Mask R-CNN and Cascade that an explanation shows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cellsemi.models.detector.explain import DetectorParts
from cellsemi.models.detectron2_maskrcnn.net import LEVELS, Network
from cellsemi.models.inference.activations import Watched

NO_ATTENTION = "The network has no attention."


def explained_parts(net: Network) -> DetectorParts:
    """The stages of the ResNet, pyramid, proposal network and heads; of a cascade each box head."""
    heads = net.roi_heads
    box_heads = list(heads.box_head) if isinstance(heads.box_head, nn.ModuleList) else [heads.box_head]
    names = ["box head"] if len(box_heads) == 1 else [f"box head {i}" for i in range(1, len(box_heads) + 1)]
    head = net.proposal_generator.rpn_head
    mask_features = heads.mask_head.deconv_relu  # the head itself returns no features
    return DetectorParts(
        stages=(
            *(
                Watched(f"stage {number}", getattr(net.backbone.bottom_up, level), "backbone")
                for number, level in enumerate(LEVELS, start=1)
            ),
            Watched("pyramid", net.backbone, "pyramid"),
            Watched("proposal network", head.conv, None),
            *(Watched(name, part, None) for name, part in zip(names, box_heads, strict=True)),
            Watched("mask head", mask_features, None),
        ),
        objectness=head,
        proposals=net.proposal_generator,
        boxes_of=_boxes_of,
        box_head=box_heads[0],
        mask_head=mask_features,
        stride=net.backbone.size_divisibility,
        notes=(NO_ATTENTION,),
    )


def _boxes_of(output: Any) -> tuple[Tensor, Tensor]:
    (found,), _ = output
    return found.proposal_boxes.tensor, found.objectness_logits.sigmoid()
