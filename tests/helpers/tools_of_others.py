"""Stand-ins for tools that cellsemi's environment does not hold: what docs/teachers.md calls of each, and no more.

Each finds what is darker or brighter than the background, with the signature and the results of the real one.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage


def seen(image: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """A label map, and a score for each label."""
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float64), 1.5)
    far = np.abs(smooth - np.median(smooth))
    labels, count = ndimage.label(far > 0.8 * smooth.std())
    contrast = np.asarray(ndimage.mean(far, labels, range(1, count + 1)), np.float64).reshape(-1)
    return labels, contrast / max(contrast.max(initial=0), 1e-9)


class StarDist2D:
    @classmethod
    def from_pretrained(cls, name: str) -> StarDist2D:
        assert name in ("2D_versatile_fluo", "2D_versatile_he", "2D_paper_dsb2018")
        return cls()

    def predict_instances(self, image: NDArray[Any]) -> tuple[NDArray[np.int32], dict[str, Any]]:
        labels, score = seen(image)
        return labels, {"prob": score}


class InstanSeg:
    def __init__(self, model_type: str, verbosity: int = 1) -> None:
        assert model_type == "brightfield_nuclei"

    def eval_small_image(self, image: NDArray[Any], pixel_size: float) -> tuple[NDArray[np.int32], None]:
        assert image.ndim == 3 and pixel_size == 0.5
        return seen(image[..., 0])[0][None, None], None


class Sam3Processor:
    @classmethod
    def from_pretrained(cls, name: str) -> Sam3Processor:
        assert name == "facebook/sam3"
        return cls()

    def __call__(self, images: Any, text: str, return_tensors: str) -> dict[str, Any]:
        return {"pixel_values": np.asarray(images)}

    def post_process_instance_segmentation(
        self, outputs: Any, threshold: float, mask_threshold: float, target_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Any]]:
        labels, scores = seen(outputs.image[..., 0])
        assert target_sizes == [labels.shape]
        kept = np.flatnonzero(scores >= threshold)
        return [{"masks": [labels == i + 1 for i in kept], "scores": scores[kept]}]


class Sam3Model:
    from_pretrained = classmethod(lambda cls, name: cls())

    def __call__(self, pixel_values: NDArray[Any]) -> SimpleNamespace:
        return SimpleNamespace(image=pixel_values)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put them where the real ones would be imported from."""
    content: dict[str, dict[str, Any]] = {
        "stardist": {},
        "stardist.models": {"StarDist2D": StarDist2D},
        "csbdeep": {},
        "csbdeep.utils": {"normalize": lambda image: image / 255},
        "instanseg": {"InstanSeg": InstanSeg},
        "transformers": {"Sam3Model": Sam3Model, "Sam3Processor": Sam3Processor},
    }
    for name, attributes in content.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
