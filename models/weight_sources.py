"""Lists files of weights that others publish, and the line that fetches each. cellsemi itself fetches nothing.

Where the facts are from: torchvision's own tables (its `WeightsEnum`s: address, size; the eight digits in a file's
name begin its sha256, as torch.hub's `check_hash` says), Detectron2's MODEL_ZOO.md and model_zoo.py, cellpose's
models.py with huggingface.co/mouseland/cellpose-sam, and the README of github.com/sartorius-research/LIVECell. What a
publisher does not state is left empty.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

TORCHVISION = "https://download.pytorch.org/models/"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
CELLPOSE = "https://huggingface.co/mouseland/cellpose-sam/resolve/main/"
LIVECELL = "https://livecell-dataset.s3.eu-central-1.amazonaws.com/LIVECell_dataset_2021/models/"
TERMS_OF_DATA = "none stated; torchvision points to the terms of the training data"
ZOO = "CC BY-SA 3.0"
CELLPOSE_LICENCE = "BSD-3-Clause; trained on CC BY-NC data, ask its authors before commercial use"
MD5 = "the digits in its name begin its md5, not its sha256"
ON_ITS_PAGE = "huggingface.co shows its sha256 on the page of the file"


@dataclass(frozen=True, slots=True)
class WeightSource:
    """One published file.

    `sha256` is what its publisher states of it: all of it, or its beginning; empty where nothing is stated. `megabytes`
    (of 10**6 bytes) is None where nobody states the size. `kind` is the family that it fits, None where none here does;
    `settings` are what an entry of `models` states besides.
    """

    file: str
    what: str
    address: str
    licence: str
    kind: str | None
    settings: str = ""
    sha256: str = ""
    megabytes: float | None = None
    note: str = ""

    @property
    def fetch(self) -> str:
        """The line that fetches the file, for a shell with curl on a machine with a network."""
        return f"curl -L -o {shlex.quote(self.file)} {shlex.quote(self.address)}"


def _torchvision(file: str, what: str, megabytes: float, settings: str) -> WeightSource:
    return WeightSource(
        file,
        what,
        TORCHVISION + file,
        TERMS_OF_DATA,
        "torchvision-maskrcnn",
        settings,
        sha256=file.rpartition("-")[2].removesuffix(".pth"),
        megabytes=megabytes,
    )


def _detectron2(
    file: str, what: str, place: str, settings: str = "", note: str = "", megabytes: float | None = None
) -> WeightSource:
    address = DETECTRON2 + place + file
    return WeightSource(file, what, address, ZOO, "detectron2-maskrcnn", settings, "", megabytes, note)


SOURCES = (
    _torchvision("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "Mask R-CNN, trained on COCO", 178.1, "backbone: resnet50"),
    _torchvision(
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        "Mask R-CNN v2, trained on COCO",
        185.8,
        "backbone: resnet50-v2",
    ),
    _torchvision("resnet50-0676ba61.pth", "ResNet-50, trained on ImageNet", 102.5, "backbone: resnet50"),
    _torchvision("resnet18-f37072fd.pth", "ResNet-18, trained on ImageNet", 46.8, "backbone: resnet18"),
    _detectron2(
        "model_final_f10217.pkl",
        "Mask R-CNN R50-FPN 3x, trained on COCO",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/",
        note=MD5,
        megabytes=178.0,
    ),
    _detectron2(
        "model_final_480dd8.pkl",
        "Cascade Mask R-CNN R50-FPN 3x, trained on COCO",
        "Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/",
        "cascade: true",
        note=MD5,
    ),
    _detectron2("R-50.pkl", "MSRA's ResNet-50, trained on ImageNet", "ImageNetPretrained/MSRA/"),
    WeightSource(
        "cpsam",
        "Cellpose-SAM",
        f"{CELLPOSE}cpsam",
        CELLPOSE_LICENCE,
        "cellpose-sam",
        megabytes=1230.0,
        note=ON_ITS_PAGE,
    ),
    WeightSource(
        "LIVECell_anchor_based_model.pth",
        "Cascade Mask R-CNN on ResNeSt, trained on LIVECell",
        f"{LIVECELL}Anchor_based/ALL/LIVECell_anchor_based_model.pth",
        "CC BY-NC 4.0",
        None,
        note="for the fork detectron2-ResNeSt: let it write masks, and teach with `kind: masks`",
    ),
    WeightSource(
        "LIVECell_anchor_free_model.pth",
        "CenterMask2, trained on LIVECell",
        f"{LIVECELL}Anchor_free/ALL/LIVECell_anchor_free_model.pth",
        "CC BY-NC 4.0",
        None,
        note="for centermask2: let it write masks, and teach with `kind: masks`",
    ),
)
