"""Imports what is used of Detectron2; where it is missing, the error has the line that installs it.

`detectron2.model_zoo` is never imported: it needs pkg_resources, which setuptools no longer has, and it
downloads weights.
"""

from __future__ import annotations

import logging
import warnings

from cellsemi.configs.errors import ModelError
from cellsemi.models.detectron2_maskrcnn.install import DETECTRON2_INSTALL

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts functions for torch.jit when it is imported
        from detectron2.config import CfgNode, get_cfg
        from detectron2.modeling import GeneralizedRCNN, build_backbone
        from detectron2.modeling.box_regression import Box2BoxTransform
        from detectron2.modeling.matcher import Matcher
        from detectron2.modeling.proposal_generator.rpn import RPN
        from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, StandardROIHeads
        from detectron2.modeling.sampling import subsample_labels
        from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
        from detectron2.utils.events import EventStorage
except ModuleNotFoundError as error:
    raise ModelError(
        f"model 'detectron2-maskrcnn' needs Detectron2, which is not on the package index "
        f"({error.name} is missing): {DETECTRON2_INSTALL}"
    ) from error
except (ImportError, OSError) as error:  # a build for another version of torch
    raise ModelError(f"Detectron2 cannot be imported ({error}); build it again: {DETECTRON2_INSTALL}") from error

# Detectron2 asks torch at run time whether it is being traced, in a way that torch warns of in its log.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

__all__ = [
    "RPN",
    "Box2BoxTransform",
    "Boxes",
    "CascadeROIHeads",
    "CfgNode",
    "EventStorage",
    "FastRCNNOutputLayers",
    "GeneralizedRCNN",
    "ImageList",
    "Instances",
    "Matcher",
    "StandardROIHeads",
    "build_backbone",
    "get_cfg",
    "pairwise_iou",
    "subsample_labels",
]
