"""Names the parts of torchvision's Mask R-CNN that an explanation shows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cellsemi.models.detector.explain import DetectorParts
from cellsemi.models.inference.activations import Watched
from cellsemi.models.torchvision_maskrcnn.cbam import SpatialAttention
from cellsemi.models.torchvision_maskrcnn.heads import Proposals
from cellsemi.models.torchvision_maskrcnn.net import STRIDE, MaskRcnn

FACTORS = "the factor of each pixel (CBAM)"
NO_ATTENTION = "The network has no attention; the backbone resnet18-cbam has."


def explained_parts(net: MaskRcnn) -> DetectorParts:
    """The stages of the ResNet, the attention after each (CBAM), pyramid, proposal network and heads."""
    body: Any = net.backbone.body
    stages = [getattr(body, f"layer{number}") for number in range(1, 5)]
    attention = [
        Watched(
            f"attention of stage {number}", part, "attention", read=_factors, note="the factor of each pixel (CBAM)"
        )
        for number, stage in enumerate(stages, start=1)
        for part in stage.modules()
        if isinstance(part, SpatialAttention)
    ]
    heads: Any = net.roi_heads
    return DetectorParts(
        stages=(
            *(Watched(f"stage {number}", stage, "backbone") for number, stage in enumerate(stages, start=1)),
            Watched("pyramid", net.backbone.fpn, "pyramid"),
            Watched("proposal network", net.rpn.head.conv, None),
            Watched("box head", heads.box_head, None),
            Watched("mask head", heads.mask_head, None),
            *attention,
        ),
        objectness=net.rpn.head,
        proposals=net.rpn,
        boxes_of=_boxes_of,
        box_head=heads.box_head,
        mask_head=heads.mask_head,
        stride=STRIDE,
        notes=() if attention else (NO_ATTENTION,),
    )


def _boxes_of(output: Proposals) -> tuple[Tensor, Tensor]:
    return output.boxes[0], output.scores[0]


def _factors(attention: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """(h, w): what each pixel is multiplied by. `forward`, since calling the module would call its hooks again."""
    factors: Tensor = attention.forward(*inputs)[0, 0]
    return factors
