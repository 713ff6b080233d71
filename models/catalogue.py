"""The models that there are: size, what they need, where they start, licences. Facts; no framework is imported.

Licences of weights are those that their publishers state; they bind whoever uses the weights, and are not
legal advice. `cellsemi models` shows this table, and a test builds the networks to check the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Not on the package index; its setup imports torch, so the build must see the installed one.
DETECTRON2_INSTALL = "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"

Start = Literal["scratch", "either", "weights"]  # `either`: from scratch, or from given weights

_TORCHVISION_WEIGHTS = (
    "torchvision's own are trained on ImageNet and COCO and may carry terms of those data sets (pytorch.org/vision, "
    '"Models and pre-trained weights")'
)
_DETECTRON2_WEIGHTS = "its model zoo is CC BY-SA 3.0 by its MODEL_ZOO.md; trained on COCO"
_CELLPOSE_WEIGHTS = (
    "trained on data under CC BY-NC, as Cellpose's README says; the files themselves are published as BSD-3-Clause "
    "(huggingface.co/mouseland/cellpose-sam): ask its authors before commercial use"
)


@dataclass(frozen=True, slots=True)
class Model:
    """One model: `kind` and `settings` are what an entry of `models` in a config says.

    `parameters` is their number for one class and otherwise default settings. `packages` are the
    distributions that it needs.
    """

    name: str
    kind: str
    parameters: int
    start: Start
    packages: tuple[str, ...]
    code_licence: str
    weights_licence: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _torchvision(backbone: str, parameters: int, **settings: Any) -> Model:
    return Model(
        name=f"torchvision-maskrcnn/{backbone}",
        kind="torchvision-maskrcnn",
        parameters=parameters,
        start="either",
        packages=("torch", "torchvision"),
        code_licence="BSD-3-Clause (torchvision)",
        weights_licence=_TORCHVISION_WEIGHTS,
        settings={"backbone": backbone, **settings},
    )


def _detectron2(name: str, parameters: int, *, cascade: bool) -> Model:
    return Model(
        name=f"detectron2-maskrcnn/{name}",
        kind="detectron2-maskrcnn",
        parameters=parameters,
        start="either",
        packages=("torch", "detectron2"),
        code_licence="Apache-2.0 (Detectron2)",
        weights_licence=_DETECTRON2_WEIGHTS,
        settings={"cascade": cascade},
    )


CATALOGUE: tuple[Model, ...] = (
    Model(
        name="flow-unet",
        kind="flow-unet",
        parameters=393_372,
        start="scratch",
        packages=("torch", "cellpose"),
        code_licence="Apache-2.0 (cellsemi)",
        weights_licence="none are used",
    ),
    _torchvision("resnet18", 30_906_715),
    _torchvision("resnet18-cbam", 30_958_337, anchor_px=(32, 64, 128)),
    _torchvision("resnet50", 43_975_515),
    _torchvision("resnet50-v2", 45_880_411),
    _detectron2("r50-fpn", 45_285_974, cascade=False),
    _detectron2("cascade", 75_713_122, cascade=True),
    Model(
        name="cellpose-sam",
        kind="cellpose-sam",
        parameters=304_628_930,
        start="weights",
        packages=("torch", "cellpose"),
        code_licence="BSD-3-Clause (Cellpose), Apache-2.0 (Segment Anything)",
        weights_licence=_CELLPOSE_WEIGHTS,
    ),
)
