"""A network's output that is not finite costs pixels or an image, is counted and said, and ends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fake_family
from helpers.campaigns import bring, config_at

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import NOT_FINITE, Image
from cellsemi.models.flow.cells import LabelledCells, cells_of
from cellsemi.models.flow.predictor import BROKEN_PIXEL, FlowPredictor
from cellsemi.models.flow.targets import flow_targets
from cellsemi.models.inference.scale_search import ScaleSearch
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import read_manifest

CELLS = np.zeros((40, 60), np.int32)
CELLS[5:17, 5:17] = 1
CELLS[20:32, 40:52] = 2


class Drawn(FlowPredictor):
    """A perfect network for CELLS, with one value of its output put in the place of the true one."""

    def __init__(self, channel: int = 0, value: float = 0.0, inference: InferenceConfig | None = None) -> None:
        super().__init__(inference or InferenceConfig(tta=("identity",)), torch.device("cpu"))
        self._channel, self._value = channel, value

    def _pixels(self, image: Image) -> np.ndarray:
        return np.asarray(image, np.float32)

    def _tiled(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return [self._outputs() for _ in images]

    def _outputs(self) -> np.ndarray:
        inside = 0.9 * (CELLS > 0)
        outputs = np.concatenate([inside[None], flow_targets(CELLS, "diffusion")]).astype(np.float32)
        outputs[self._channel, 10, 10] = self._value
        return outputs

    def _cells(self, mean: np.ndarray, spread: np.ndarray, inference: InferenceConfig) -> LabelledCells:
        return cells_of(mean, spread, inference, "diffusion", False)


IMAGE = np.zeros(CELLS.shape, np.uint8)


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_not_finite_is_no_cell_and_is_counted(channel: int, value: float) -> None:
    predictor = Drawn(channel, value)
    (found,) = predictor.predict([IMAGE])
    drawn = sum(decode(rle, *CELLS.shape) for rle in found.rle)
    assert not drawn[10, 10] and len(found) == 2
    assert np.isfinite(found.score).all()
    assert dict(predictor.warnings) == {NOT_FINITE: 1, BROKEN_PIXEL: 1}
    predictor.predict([IMAGE, IMAGE])
    assert dict(predictor.warnings) == {NOT_FINITE: 3, BROKEN_PIXEL: 3}
    predictor.warnings.clear()
    assert [len(cells) for cells in predictor.at_probabilities(IMAGE, (0.3, 0.5))[0]] == [2, 2]
    assert predictor.warnings[NOT_FINITE] == 1


def test_one_broken_view_breaks_the_mean_and_a_finite_output_breaks_nothing() -> None:
    views = InferenceConfig(tta=("identity", "identity"))
    predictor = Drawn(1, np.nan, views)
    predictor.predict([IMAGE])
    assert predictor.warnings[BROKEN_PIXEL] == 1
    sound = Drawn(0, 0.9, views)
    (found,) = sound.predict([IMAGE])
    assert not sound.warnings
    assert found.area.tolist() == [144, 144]


def test_a_scale_search_says_it_too() -> None:
    search = ScaleSearch(Drawn(0, np.nan), (0.5, 1.0))
    search.predict([IMAGE])
    assert search.warnings[NOT_FINITE] == 2


@pytest.mark.usefixtures("fake_models")
def test_an_unlabelled_image_with_a_broken_output_is_left_out_and_a_validation_image_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = "models=[{kind: flow-unet, name: only}]"
    config = config_at(tmp_path, one, "data.one_class_per_image=false")
    sound, _ = bring(config, 0)
    broken = {split: next(iter(shards.read_folder(sound.split(split)))).image_id for split in ("unlabelled", "val")}
    pixels = {}
    for split, image_id in broken.items():
        (record,) = [each for each in shards.read_folder(sound.split(split)) if each.image_id == image_id]
        assert record.image is not None
        pixels[split] = decode_image(record.image, image_id, 10**8)
    predict = fake_family.FakePredictor.predict

    def breaking(self: fake_family.FakePredictor, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        for image in images:
            self.warnings[NOT_FINITE] += any(np.array_equal(image, each) for each in pixels.values())
        self.warnings += type(self.warnings)()  # zeros are no warnings
        return predict(self, images, scale)

    monkeypatch.setattr(fake_family.FakePredictor, "predict", breaking)
    paths, watcher = bring(config, 1)
    found = {r.image_id: r.instances for r in shards.read_folder(paths.predictions(0, "only", "unlabelled"))}
    assert [name for name, cells in found.items() if cells is None] == [broken["unlabelled"]]
    assert all(r.instances is not None for r in shards.read_folder(paths.predictions(1, "only", "val")))
    assert f"only on unlabelled, 1 times: {NOT_FINITE}" in watcher.notes
    assert f"only on val, 1 times: {NOT_FINITE}" in watcher.notes
    merged = read_manifest(paths.train(1)).merged
    assert merged is not None and merged.left_out["not predicted"] == 1
