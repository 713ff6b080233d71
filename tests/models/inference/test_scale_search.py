"""Scale search: chosen by score, in the image's own pixels, for unlabelled images alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.configs.data import GeneratedConfig
from cellsemi.configs.errors import ConfigError
from cellsemi.configs.loading import build_config
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Encoded, Image, measured
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.inference.scale_search import (
    BOTH,
    ScaleSearch,
    inverted,
    search_scores,
)
from cellsemi.orchestrator.steps import jobs
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.synthetic import make
from cellsemi.rounds.store.image_codec import grey, to_png
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.predictions import as_unlabelled
from cellsemi.rounds.store.schemas import ImageRecord

pytestmark = pytest.mark.usefixtures("fake_models")


def expected_cell_px(cells: Instances) -> float:
    return Encoded(cells).measure()[1]


class AtHome:
    """It knows cells of 12 pixels across: the nearer a scale brings them there, the higher it scores them."""

    def __init__(self) -> None:
        self.warnings: Counter[str] = Counter()

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        return [self._cells(np.asarray(image), scale) for image in images]

    def _cells(self, image: np.ndarray, scale: float) -> Instances:
        across = 2 * np.sqrt(max(1, (image > 0).sum()) / np.pi) * scale
        return masks.from_label_map((image > 0).astype(np.int32), score=float(np.exp(-abs(np.log(across / 12)))))


def disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[:96, :96]
    return (((y - 48) ** 2 + (x - 48) ** 2) <= radius**2).astype(np.uint8)


@pytest.mark.parametrize(("radius", "best"), [(6, 1.0), (12, 0.5), (24, 0.25), (3, 2.0)])
def test_each_image_is_predicted_at_the_scale_that_scores_best(radius: int, best: float) -> None:
    scales = (0.25, 0.5, 1.0, 2.0)
    (found,) = ScaleSearch(AtHome(), scales).predict([disc(radius)])
    (expected,) = AtHome().predict([disc(radius)], best)
    assert found.score.tolist() == expected.score.tolist()
    assert found.score[0] > 0.9


@given(seed=st.integers(0, 99), dtype=st.sampled_from([np.uint8, np.uint16, np.float32]), colour=st.booleans())
def test_networks_see_an_image_that_is_inverted_back_as_itself(seed: int, dtype: type, colour: bool) -> None:
    """And of a negative they see what is brighter darker, or as dark where the ends of the range are cut off."""
    largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
    light = np.random.default_rng(seed).random((20, 30, 3) if colour else (20, 30)) * largest
    image: Image = light.astype(dtype)
    other = inverted(image)
    assert other.dtype == image.dtype and other.shape == image.shape
    np.testing.assert_allclose(normalise(inverted(other)), normalise(image), atol=1e-5)
    order = np.argsort(grey(image), axis=None)
    assert (np.diff(normalise(other).ravel()[order]) <= 1e-5).all() and np.ptp(normalise(other)) == 1


def test_pixels_that_are_no_numbers_are_zero_when_inverted() -> None:
    broken = np.array([[np.nan, 1.0], [3.0, np.inf]], np.float32)
    assert inverted(broken).tolist() == [[3, 2], [0, 3]]


def test_an_image_of_the_other_contrast_is_predicted_inverted_and_counted() -> None:
    """The stand-in knows bright cells of 12 pixels: it takes the ground of a negative for one large cell."""
    bright = disc(6) * np.uint8(255)
    search = ScaleSearch(AtHome(), (1.0, 0.5), BOTH)
    found = search.predict([bright, inverted(bright), inverted(disc(12) * np.uint8(255))])
    (expected,) = AtHome().predict([bright])
    assert [len(cells) for cells in found] == [1, 1, 1]
    assert found[0].area[0] == found[1].area[0] == expected.area[0] and found[2].area[0] > 400
    assert search.chosen == Counter({(1.0, "as-is"): 1, (1.0, "inverted"): 1, (0.5, "inverted"): 1})
    plain = ScaleSearch(AtHome(), (1.0,))
    assert plain.predict([inverted(bright)])[0].area[0] > 8000 and plain.chosen == Counter({(1.0, "as-is"): 1})


def test_a_shard_says_at_which_scale_and_polarity_its_images_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "load_predictor", lambda *_: ScaleSearch(AtHome(), (1.0, 0.5), BOTH))
    monkeypatch.setattr(jobs.ShardStage, "commit", lambda self, item, records, **more: more)
    small, large = disc(6) * np.uint8(255), disc(12) * np.uint8(255)
    pictures = [small, inverted(small), inverted(large), large]
    rows = [ImageRecord(str(i), 96, 96, "unlabelled", to_png(each)) for i, each in enumerate(pictures)]
    monkeypatch.setattr(jobs.ShardStage, "records", lambda self, item: iter(rows))
    stage = jobs.ShardStage(str(tmp_path), str(tmp_path), "", (), "")
    job = jobs.PredictJob(stage, "m", InferenceConfig(), "cpu", 10**6, 1, 1.0, "predict")
    worker = job.start()
    assert worker.run(0) == {"warnings": {}, "scales": {"1": 2, "0.5": 2}, "inverted": {"1": 1, "0.5": 1}}
    assert worker.run(0)["scales"] == {"1": 2, "0.5": 2}  # counted anew


def test_of_equal_candidates_an_image_stays_as_it_is() -> None:
    search = ScaleSearch(AtHome(), (0.5, 1.0), BOTH)
    search.predict([np.zeros((8, 8), np.uint8)])  # inverted it is one cell, which scores little
    half = np.zeros((8, 8), np.uint8)
    half[:4] = 255
    search.chosen.clear()
    search.predict([half])
    assert search.chosen == Counter({(1.0, "as-is"): 1})


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 99)), min_size=1, max_size=9))
def test_surety_is_the_mean_score_of_the_pixels(cells: list[tuple[float, int]]) -> None:
    score, area = (np.array(column) for column in zip(*cells, strict=True))
    single = score.astype(np.float32)
    mean, _, _ = measured(single, area, np.zeros((1, 1), np.int32))
    assert mean == pytest.approx(np.repeat(single, area).mean(), abs=1e-6)


def test_an_image_without_cells_at_any_scale_is_empty() -> None:
    assert len(ScaleSearch(AtHome(), (0.5, 1.0)).predict([np.zeros((8, 8), np.uint8)])[0]) == 0
    assert Encoded(Instances.empty(3, 3)).measure() == (0, 0, 0)


class KnowsSizes:
    """It knows the sizes of generated cells at magnification 1, and errs at others as networks do.

    A cell is found where its size at the scale is near a known one, with a score that falls with the distance. So at
    every scale the odd cell fits, and is scored high. What is enlarged too far is found in noise as well.
    """

    def __init__(self, truth: Instances, typical_px: float, noise: float) -> None:
        self.warnings: Counter[str] = Counter()
        self._truth, self._typical_px, self._noise = truth, typical_px, noise

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        octaves = np.abs(np.log2(np.sqrt(self._truth.area) * scale / self._typical_px))
        near = octaves < 0.5
        found = self._truth.select(near).with_(score=0.95 - 0.5 * octaves[near], state="predicted")
        if scale > 1 and self._noise:
            square = np.ones((9, 9), bool)
            places = [(square, x, y) for x in range(0, 240, 10) for y in range(0, 180, 10)]
            carpet = masks.from_crops(found.height, found.width, places, score=self._noise, state="predicted")
            found = Instances.concat(found.height, found.width, [found, carpet])
        return [found for _ in images]


def generated(magnification: float, count: int) -> list[Instances]:
    config = GeneratedConfig(labelled=1, unlabelled=1, val=count, test=1, magnifications=(magnification,))
    cells = [make(config, ("shsy5y",), 0, "val", index).instances for index in range(count)]
    return [each for each in cells if each is not None]


@pytest.mark.parametrize("noise", [0.0, 0.35])
def test_generated_cells_of_any_magnification_are_brought_to_the_known_size(noise: float) -> None:
    known = [float(np.median(np.sqrt(cells.area))) for cells in generated(1.0, 12)]
    typical_px, scales = float(np.median(known)), (0.5, 1.0, 2.0)
    right = Counter[str]()
    for magnification in (0.5, 1.0, 2.0):
        for truth in generated(magnification, 12):
            image = np.zeros((truth.height, truth.width), np.uint8)
            predictor = KnowsSizes(truth, typical_px, noise)
            search = ScaleSearch(predictor, scales)
            search.predict([image])
            ((chosen, _),) = search.chosen
            each = [predictor.predict([image], scale)[0] for scale in scales]
            by_mean_score = scales[int(np.argmax([Encoded(cells).measure()[0] for cells in each]))]
            right["chosen"] += chosen == 1 / magnification
            right["by mean score"] += by_mean_score == 1 / magnification
    assert right["chosen"] >= 35  # of 36: one well's cells are as small as those of the next magnification
    assert right["by mean score"] < 33  # what the search went by before: a scale at which one odd cell fits wins


def test_what_a_scale_is_worth_counts_what_it_finds() -> None:
    def squares(*boxes: tuple[int, int, int, float]) -> Instances:
        crops = [(np.ones((side, side), bool), x, y) for x, y, side, _ in boxes]
        return masks.from_crops(40, 40, crops, score=[score for *_, score in boxes], state="predicted")

    sure_of_one = squares((0, 0, 4, 0.95))
    finds_four = squares(*[(x, y, 4, 0.8) for x in (0, 20) for y in (0, 20)])
    carpet = squares((0, 0, 12, 0.4), (20, 0, 12, 0.4))
    none = Instances.empty(40, 40)
    candidates = [none, sure_of_one, finds_four, carpet]
    expected = [0.0, 16 * 0.95, 64 * 0.8, 288 * 0.4]
    assert [expected_cell_px(cells) for cells in candidates] == pytest.approx(expected)
    recall = [value / expected[3] for value in expected]
    by_hand = [1.25 * p * r / (0.25 * p + r) for p, r in zip((0.95, 0.8, 0.4), recall[1:], strict=True)]
    found = search_scores(*(np.array([Encoded(cells).measure()[i] for cells in candidates]) for i in (0, 1)))
    assert found.tolist() == pytest.approx([0.0, *by_hand], abs=1e-6)
    assert int(np.argmax(found)) == 2
    assert search_scores(np.zeros(2), np.zeros(2)).tolist() == [0.0, 0.0]


def test_a_pixel_of_several_masks_is_expected_once() -> None:
    crops = [(np.ones((4, 4), bool), 0, 0), (np.ones((4, 4), bool), 2, 0)]
    cells = masks.from_crops(9, 9, crops, score=[0.5, 1.0], state="predicted")
    assert expected_cell_px(cells) == pytest.approx(16 * 1.0 + 8 * 0.5)


def test_searched_scales_multiply_the_averaged_ones() -> None:
    assert InferenceConfig(scales=(1.0, 2.0)).scaled(0.5).scales == (0.5, 1.0)


def test_labelling_differs_only_in_what_it_names() -> None:
    config = build_config({"unlabelled_inference": {"scale_search": [0.5, 1]}, "inference": {"tta": ["rot90"]}}, "test")
    model = config.models[0]
    assert config.unlabelled_inference_of(model) == config.inference_of(model).model_copy(
        update={"scale_search": (0.5, 1.0)}
    )
    assert as_unlabelled(config) == "val-as-unlabelled"
    assert as_unlabelled(build_config({}, "test")) == "val"
    both = build_config({"unlabelled_inference": {"polarity_search": True}}, "test")
    assert both.unlabelled_inference_of(both.models[0]).searches and as_unlabelled(both) == "val-as-unlabelled"
    assert not both.unlabelled_inference_of(both.models[0]).without_search().searches
    with pytest.raises(ConfigError, match="expected scales"):
        build_config({"unlabelled_inference": {"scale_search": [0.01]}}, "test")


def test_calibration_and_thresholds_use_predictions_made_as_for_unlabelled_images(tmp_path: Path) -> None:
    """The stand-in ignores scales, so both predictions of val are equal; thresholds must come from the searched one."""
    paths, watcher = bring(config_at(tmp_path, "unlabelled_inference.tta=[identity, flip_y]"), 1)
    begun = [stage for stage in watcher.begun if stage.startswith("1: ")]
    order = ["predict val-as-unlabelled with unet-a", "fuse val-as-unlabelled", "calibrate and choose thresholds"]
    order.append("label unlabelled with unet-a, unet-b")
    assert sorted(order, key=lambda name: begun.index(f"1: {name}")) == order
    assert read_manifest(paths.predictions(0, "ensemble", "val-as-unlabelled")).rows == 3
    plain, watcher = bring(config_at(tmp_path / "plain", "data.one_class_per_image=false"), 1)
    assert not any("val-as-unlabelled" in stage for stage in watcher.begun)
    assert not plain.predictions(0, "ensemble", "val-as-unlabelled").exists()
