"""The figures of the five source reports beside the settings of their presets: the table of docs/models.md.

A test compares each row with the resolved preset, so that neither drifts from the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cellsemi.configs.schema import Config

NOT_STATED = "not stated"
A, A5, PRE = "ensemble-cellpose-maskrcnn", "ensemble-cellpose-maskrcnn-5fold", "livecell-pretraining"
B, SGD = "maskrcnn-two-stage", "maskrcnn-two-stage-sgd"
C, D = "detectron2-thresholds", "maskrcnn-center-boundary"
E, TRANSFER = "livecell-cbam", "livecell-transfer"


@dataclass(frozen=True, slots=True)
class SourceFigure:
    """One figure: the letter of its report, the preset, what it is, and what the report says.

    `path` is the setting, with the model's number (`models.0.training.batch`); None: it is part of the code or missing,
    as `why` says. `ours` is the value there. `why`: what differs from the report, and why; "" where nothing does.
    """

    letter: str
    preset: str
    what: str
    report: str
    path: str | None
    ours: Any
    why: str = ""


def resolved(config: Config, path: str) -> Any:
    """The value of a setting, those of the models completed by the common ones."""
    data: Any = config.model_dump(mode="json")
    for model, own in zip(config.models, data["models"], strict=True):
        own["training"] = config.training_of(model).model_dump(mode="json")
        own["inference"] = config.inference_of(model).model_dump(mode="json")
    for key in path.split("."):
        data = data[int(key)] if isinstance(data, list) else data[key]
    return data


PASTE = {"probability": 0.5, "select": 0.9, "keep": 0.5, "occlusion": 0.7, "min_quality": 0.8}
TILES = "an epoch of the report are 25 tiles of each image, 25 epochs here"
ANY_CROP = "crops are drawn anywhere in the images, not from a fixed set of tiles"

FIGURES: tuple[SourceFigure, ...] = (
    SourceFigure("A", A, "Cellpose-SAM, crop", "256", "models.0.training.crop_px", 256),
    SourceFigure("A", A, "windows", "301x302", "models.0.inference.tile_px", [301, 302]),
    SourceFigure("A", A, "stride of the windows", "73x134", "models.0.inference.stride_px", [73, 134]),
    SourceFigure("A", A, "epochs", "100", "models.0.training.epochs", 100.0),
    SourceFigure("A", A, "optimiser", "AdamW", "models.0.training.optimiser", "adamw"),
    SourceFigure("A", A, "learning rate", "1e-5", "models.0.training.backbone_lr", 1e-5),
    SourceFigure(
        "A", A, "learning rate of the class head", "no such head", "models.0.training.lr", 1e-3,
        "three classes need a head, which starts anew",
    ),
    SourceFigure("A", A, "weight decay", ".1", "models.0.training.weight_decay", 0.1),
    SourceFigure("A", A, "batch", "1", "models.0.training.batch", 1),
    SourceFigure(
        "A", A, "views", "7", "models.0.inference.tta",
        ["identity", "flip_x", "flip_y", "rot90", "rot180", "rot270"],
        "both flips together are the rotation by 180 degrees: six are all of them",
    ),
    SourceFigure("A", A, "flow threshold", ".4", "models.0.flow_threshold", 0.4),
    SourceFigure("A", A, "minimum size", "20", "models.0.inference.min_area_px", 20),
    SourceFigure("A", A, "copy-paste", "keep .5, select .9, occlusion .7", "models.0.augment.copy_paste", PASTE),
    SourceFigure("A", A, "loss", "flow MSE + BCE", None, None, "the same, in the code"),
    SourceFigure("A", A, "flips", ".5", "models.0.augment.flip", True),
    SourceFigure("A", A, "affine, p", ".5", "models.0.augment.affine", 0.5),
    SourceFigure("A", A, "smallest scale", ".7", "models.0.augment.scale_min", 0.7),
    SourceFigure("A", A, "largest scale", "1.3", "models.0.augment.scale_max", 1.3),
    SourceFigure("A", A, "translation", "+-.15", "models.0.augment.translate", 0.15),
    SourceFigure("A", A, "rotation", "+-180", "models.0.augment.rotate", True),
    SourceFigure("A", A, "elastic, p (one of it and the grid: .2)", ".1", "models.0.augment.elastic", 0.1),
    SourceFigure("A", A, "elastic alpha", "50", "models.0.augment.elastic_alpha_px", 50.0),
    SourceFigure("A", A, "elastic sigma", "2.5", "models.0.augment.elastic_sigma_px", 2.5),
    SourceFigure("A", A, "grid distortion, p", ".1", "models.0.augment.grid", 0.1),
    SourceFigure("A", A, "brightness and contrast", ".2", "models.0.augment.brightness", 0.2),
    SourceFigure("A", A, "brightness and contrast, p", ".3", "models.0.augment.brightness_probability", 0.3),
    SourceFigure("A", A, "blur, p", ".25", "models.0.augment.blur", 0.25),
    SourceFigure("A", A, "Detectron2, batch", "2", "models.1.training.batch", 2),
    SourceFigure("A", A, "learning rate", "5e-4", "models.1.training.lr", 5e-4),
    SourceFigure("A", A, "RoIs an image", "512", "models.1.roi_batch", 512),
    SourceFigure("A", A, "iterations", "10,000", "models.1.training.steps", 10_000),
    SourceFigure(
        "A", A, "3x schedule", "210,000 and 250,000 of 270,000", "models.1.training.decay_at", [0.7778, 0.9259]
    ),
    SourceFigure("A", A, "augmentation", "random crop alone", "models.1.augment.affine", 0.0),
    SourceFigure(
        "A", A, "test scales", "440-620", "models.1.inference.scales", [0.85, 0.92, 0.99, 1.06, 1.13, 1.19],
        "as factors of 520 pixels",
    ),
    SourceFigure("A", A, "detections near a window's centre preferred", "yes", "models.1.inference.keep", "centre"),
    SourceFigure("A", A, "score", ">= .5", "models.1.score_threshold", 0.5),
    SourceFigure(
        "A", A, "kept", ">= .7", "filter.thresholds.cort.accept", 0.7,
        "of the pseudo-labels; the threshold of what is delivered is chosen on validation images",
    ),
    SourceFigure("A", A, "views", "original, vertical flip", "models.1.inference.tta", ["identity", "flip_y"]),
    SourceFigure("A", A, "overlaps fused", "IoU > .15", "fusion.iou", 0.15),
    SourceFigure("A", A, "weighted by confidence", "yes", "fusion.method", "weighted"),
    SourceFigure(
        "A", A, "boundaries from Cellpose", "yes", "fusion.boundaries", [],
        "`fusion.method: refine` does that, and gains nothing: +.003 (-.003 to +.012), benchmarks/refine.md",
    ),
    SourceFigure("A", A, "no pixel twice", "yes", "fusion.overlaps", "resolve"),
    SourceFigure("A", A5, "folds", "5", "rounds.folds", 5, "a preset of its own: it costs five times as much"),
    SourceFigure(
        "A", PRE, "pretraining on LIVECell", "8 cell types", "data.classes", ["cell"],
        "two commands, in the preset; LIVECell's cell types are of images, its cells are one class",
    ),
    SourceFigure("B", B, "backbone", "R50-FPN", "models.0.backbone", "resnet50"),
    SourceFigure("B", B, "from COCO", "yes", "models.0.weights", "coco"),
    SourceFigure("B", B, "mask hidden layer", "128", "models.0.mask_hidden", 128),
    SourceFigure(
        "B", B, "images resized", "512", "models.0.training.resize_px", 512,
        "the longer side; the ratio of the sides is kept, and a crop is drawn around a cell",
    ),
    SourceFigure("B", B, "validation images", "10 or 20 %", "data.val_fraction", 0.1),
    SourceFigure("B", B, "stage 1, what trains", "heads", "models.0.training.phases.0.frozen", "all-but-heads"),
    SourceFigure("B", B, "stage 1, optimiser", "SGD", "models.0.training.phases.0.optimiser", "sgd"),
    SourceFigure("B", B, "stage 1, learning rate", "1e-3", "models.0.training.phases.0.lr", 1e-3),
    SourceFigure("B", B, "stage 1, warm-up", "500", "models.0.training.phases.0.warmup_steps", 500),
    SourceFigure("B", B, "stage 1, epochs", "10", "models.0.training.phases.0.epochs", 10.0),
    SourceFigure("B", B, "both stages, epochs", "50", "models.0.training.phases.1.epochs", 40.0, "50 less stage 1"),
    SourceFigure("B", B, "stage 2, optimiser", "AdamW", "models.0.training.phases.1.optimiser", "adamw"),
    SourceFigure("B", B, "stage 2, heads", "1e-4", "models.0.training.phases.1.lr", 1e-4),
    SourceFigure("B", B, "stage 2, backbone", "1e-5", "models.0.training.phases.1.backbone_lr", 1e-5),
    SourceFigure("B", B, "stage 2, weight decay", "1e-4", "models.0.training.phases.1.weight_decay", 1e-4),
    SourceFigure("B", SGD, "stage 2 with SGD, learning rate", "1e-3", "models.0.training.phases.1.lr", 1e-3),
    SourceFigure("B", SGD, "momentum", ".9", "models.0.training.phases.1.momentum", 0.9),
    SourceFigure("B", SGD, "weight decay", "5e-4", "models.0.training.phases.1.weight_decay", 5e-4),
    SourceFigure("B", SGD, "decay after epochs", "3", "models.0.training.phases.1.decay_every_epochs", 3.0),
    SourceFigure("B", SGD, "factor of the decay", ".1", "models.0.training.phases.1.decay_factor", 0.1),
    SourceFigure(
        "B", B, "gradient clipping", "yes", "models.0.training.grad_clip", 5.0, "the report states no norm; our default"
    ),
    SourceFigure("B", B, "rotations", "hurt", "models.0.augment.rotate", False),
    SourceFigure("B", B, "colour", "hurt", "models.0.augment.brightness", 0.0),
    SourceFigure("B", B, "flips", "helped", "models.0.augment.flip", True),
    SourceFigure("C", C, "holes filled before training", "yes", "data.clean.fill_holes", True),
    SourceFigure("C", C, "holes filled after inference", "yes", "inference.fill_holes", True),
    SourceFigure("C", C, "multi-scale", "yes", "models.0.augment.scale_max", 1.2, "the report states no range"),
    SourceFigure(
        "C", C, "copy-paste pretraining", "no change", "models.1.training.phases.0.augment.copy_paste.probability", 0.5,
        "of one of the two models: they are to differ",
    ),
    SourceFigure(
        "C", C, "a minimum of pixels for each class", "drastically better", "filter.thresholds.astro.min_area_px", 150,
        "the report states none of its figures, which differed between models",
    ),
    SourceFigure("C", C, "flips at test time", "hurt", "inference.tta", ["identity"]),
    SourceFigure("C", C, "mask NMS by confidence", "yes", "fusion.method", "nms"),
    SourceFigure("C", C, "no pixel twice", "rule of the competition", "fusion.overlaps", "resolve"),
    SourceFigure("D", D, "backbone", "R50-FPN or v2", "models.0.backbone", "resnet50-v2"),
    SourceFigure("D", D, "backbone trained on ImageNet", "yes", "models.0.weights", "resnet50"),
    SourceFigure("D", D, "classes", "4 and background", "data.classes", ["class1", "class2", "class3", "class4"]),
    SourceFigure("D", D, "mask hidden layer", "256", "models.0.mask_hidden", 256),
    SourceFigure("D", D, "centre head", "yes", "models.0.centre_head", True),
    SourceFigure("D", D, "boundary head", "yes", "models.0.boundary_head", True),
    SourceFigure("D", D, "sigma of a centre", "5", "models.0.centre_sigma_px", 5.0),
    SourceFigure("D", D, "weight of the heads", ".5", "models.0.extra_weight", 0.5),
    SourceFigure("D", D, "optimiser", "AdamW", "models.0.training.optimiser", "adamw"),
    SourceFigure("D", D, "learning rate", "1e-4", "models.0.training.lr", 1e-4),
    SourceFigure("D", D, "weight decay", "1e-4", "models.0.training.weight_decay", 1e-4),
    SourceFigure("D", D, "schedule", "cosine", "models.0.training.schedule", "cosine"),
    SourceFigure("D", D, "steps", NOT_STATED, "models.0.training.steps", 10_000, "the report states no length"),
    SourceFigure("D", D, "elastic, p", ".3", "models.0.augment.elastic", 0.3),
    SourceFigure("D", D, "elastic alpha", "30", "models.0.augment.elastic_alpha_px", 30.0),
    SourceFigure("D", D, "elastic sigma", "12", "models.0.augment.elastic_sigma_px", 12.0),
    SourceFigure("D", D, "flips", "none", "models.0.augment.flip", False),
    SourceFigure("D", D, "scales, rotations", "none", "models.0.augment.affine", 0.0),
    SourceFigure(
        "D", D, "torchmetrics mAP", "COCO's", "rounds.coco", True,
        "beside the Kaggle metric, without COCO's cap of 100 cells",
    ),
    SourceFigure("D", D, "normalisation", "ImageNet's", None, None, "in the network, always"),
    SourceFigure(
        "E", E, "labelled images", "70 of 100", "data.labelled_limit", 70,
        "validation and test are LIVECell's own, not 15 and 15",
    ),
    SourceFigure("E", E, "grid", "7x7", "models.0.inference.grid.rows", 7),
    SourceFigure("E", E, "window", "3x3", "models.0.inference.grid.window_rows", 3),
    SourceFigure("E", E, "kept by area in the centre cell", "yes", "models.0.inference.keep", "core"),
    SourceFigure("E", E, "tile", "300x222", "models.0.training.crop_px", 256, ANY_CROP),
    SourceFigure("E", E, "backbone", "ResNet-18, CBAM", "models.0.backbone", "resnet18-cbam"),
    SourceFigure("E", E, "anchors", "32/64/128", "models.0.anchor_px", [32, 64, 128]),
    SourceFigure("E", E, "ratios", ".5/1/2", "models.0.anchor_ratios", [0.5, 1.0, 2.0]),
    SourceFigure("E", E, "RPN samples", "128 + 128", "models.0.rpn_batch", 256),
    SourceFigure("E", E, "box layers", "1024", "models.0.box_hidden", 1024),
    SourceFigure("E", E, "score", ".4", "models.0.score_threshold", 0.4),
    SourceFigure("E", E, "NMS", ".5", "models.0.nms_iou", 0.5),
    SourceFigure("E", E, "RoIAlign, mask convolutions", "7x7, 4", None, None, "the same, in the code"),
    SourceFigure("E", E, "parameters", "31.0 M", None, None, "30,958,337"),
    SourceFigure("E", E, "optimiser", "AdamW", "models.0.training.optimiser", "adamw"),
    SourceFigure("E", E, "learning rate", "1e-4", "models.0.training.lr", 1e-4),
    SourceFigure("E", E, "decay after epochs", "2", "models.0.training.decay_every_epochs", 50.0, TILES),
    SourceFigure("E", E, "factor of the decay", ".1", "models.0.training.decay_factor", 0.1),
    SourceFigure("E", E, "epochs", "10", "models.0.training.epochs", 250.0, TILES),
    SourceFigure("E", E, "batch", "4", "models.0.training.batch", 4),
    SourceFigure("E", E, "augmentation", "none", "models.0.augment.affine", 0.0),
    SourceFigure("E", E, "gradient clipping", "none", "models.0.training.grad_clip", None),
    SourceFigure("E", TRANSFER, "backbone", "R50-FPN", "models.0.backbone", "resnet50"),
    SourceFigure("E", TRANSFER, "from COCO", "yes", "models.0.weights", "coco"),
    SourceFigure("E", TRANSFER, "stage 1, what trains", "heads", "models.0.training.phases.0.frozen", "all-but-heads"),
    SourceFigure("E", TRANSFER, "stage 1, epochs", "5", "models.0.training.phases.0.epochs", 125.0, TILES),
    SourceFigure("E", TRANSFER, "stage 1, learning rate", ".005", "models.0.training.phases.0.lr", 5e-3),
    SourceFigure("E", TRANSFER, "stage 2, epochs", "5", "models.0.training.phases.1.epochs", 125.0, TILES),
    SourceFigure("E", TRANSFER, "stage 2, learning rate", ".001", "models.0.training.phases.1.lr", 1e-3),
    SourceFigure(
        "E", TRANSFER, "stage 2, what trains", "all but stem and first stage", "models.0.training.freeze_at", 2
    ),
    SourceFigure("E", TRANSFER, "momentum", ".9", "models.0.training.momentum", 0.9),
    SourceFigure("E", TRANSFER, "weight decay", "5e-4", "models.0.training.weight_decay", 5e-4),
    SourceFigure("E", TRANSFER, "gradient clipping", "none", "models.0.training.grad_clip", None),
)  # fmt: skip


def table() -> Iterator[str]:
    """The lines of a Markdown table of all figures."""
    yield "| | preset | figure | report | ours | setting | why it differs |"
    yield "|---|---|---|---|---|---|---|"
    before = ""
    for each in FIGURES:
        preset = "" if each.preset == before else f"`{each.preset}`"
        before = each.preset
        ours, path = ("", "") if each.path is None else (f"`{json.dumps(each.ours)}`", f"`{each.path}`")
        yield f"| {each.letter} | {preset} | {each.what} | {each.report} | {ours} | {path} | {each.why} |"
