"""Whatever the scale at which a network sees an image, its cells come back in the pixels of the image."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.training import InferenceConfig, View
from cellsemi.models.base import Image
from cellsemi.models.flow.cells import LabelledCells, cells_of
from cellsemi.models.flow.predictor import FlowPredictor
from cellsemi.models.flow.targets import flow_targets
from cellsemi.rounds.cells import masks

Pixels = NDArray[np.float32]


class Oracle(FlowPredictor):
    """A network that answers with the truth of the image as it sees it: each connected bright spot is a cell."""

    def __init__(self, inference: InferenceConfig) -> None:
        super().__init__(inference, torch.device("cpu"))
        self.seen: list[tuple[int, ...]] = []

    def _pixels(self, image: Image) -> Pixels:
        return np.asarray(image, np.float32)

    def _tiled(self, images: list[Pixels]) -> list[Pixels]:
        return [self._truth(pixels) for pixels in images]

    def _truth(self, pixels: Pixels) -> Pixels:
        self.seen.append(pixels.shape)
        labels = ndimage.label(pixels > 0.5)[0].astype(np.int32)
        return np.concatenate([(labels > 0)[None].astype(np.float32), flow_targets(labels, "geodesic")])

    def _cells(self, mean: Pixels, spread: Pixels, inference: InferenceConfig) -> LabelledCells:
        return cells_of(mean, spread, inference, "geodesic", one_class_per_image=False)


@settings(max_examples=25, deadline=None)
@given(
    model_scale=st.floats(0.4, 1.8),
    asked=st.sampled_from([0.7, 1.0, 1.3]),
    sides=st.tuples(st.integers(90, 140), st.integers(90, 140)),
    view=st.sampled_from(["identity", "flip_x", "rot90"]),
    seed=st.integers(0, 999),
)
def test_cells_of_an_oracle_come_back(
    model_scale: float, asked: float, sides: tuple[int, int], view: View, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros(sides, np.int32)
    y, x = np.ogrid[: sides[0], : sides[1]]
    for number, (top, left) in enumerate([(22, 22), (22, 68), (68, 22), (68, 68)], 1):
        radius = rng.uniform(9, 18)
        labels[(y - top) ** 2 + (x - left) ** 2 <= radius**2] = number
    oracle = Oracle(InferenceConfig(tta=(view,)).scaled(model_scale))
    (found,) = oracle.predict([(labels > 0).astype(np.float32)], asked)
    height, width = (max(1, round(side * (asked * model_scale))) for side in sides)
    assert oracle.seen == [(width, height) if view == "rot90" else (height, width)]
    truth = masks.from_label_map(labels)
    assert (found.height, found.width) == sides and len(found) == len(truth) == 4
    iou = masks.iou_matrix(found, truth)
    assert iou.max(axis=0).min() > 0.8 and iou.max(axis=1).min() > 0.8
