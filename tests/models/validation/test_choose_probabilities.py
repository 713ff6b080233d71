"""How sure a pixel must be: the choice on val images, per model and fold, and that it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import fake_family
from helpers.campaigns import bring, config_at
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Image
from cellsemi.models.validation.choose_probabilities import BINS, GRID, _InsideCells, best_of
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import read_fit, read_manifest

pytestmark = pytest.mark.usefixtures("fake_models")


@given(st.lists(st.integers(0, 20), min_size=len(GRID), max_size=len(GRID)))
def test_the_best_probability_is_that_of_the_best_neighbourhood(scores: list[int]) -> None:
    around = [[scores[max(i - 1, 0)], score, scores[min(i + 1, len(GRID) - 1)]] for i, score in enumerate(scores)]
    most = max(map(sum, around))
    equal = [p for p, three in zip(GRID, around, strict=True) if sum(three) == most]
    found = best_of(scores)
    assert found in equal and abs(found - 0.5) == min(abs(p - 0.5) for p in equal)


class Knowing(fake_family.FakePredictor):
    """It finds the true cells around one probability, and nothing at the others."""

    truth: ClassVar[dict[int, Instances]] = {}
    at = 0.4
    loaded: ClassVar[list[Any]] = []

    def at_probabilities(
        self, image: Image, probabilities: Sequence[float], scale: float = 1.0
    ) -> tuple[list[Instances], NDArray[np.float32]]:
        cells = self.truth[int(np.asarray(image, np.int64).sum())]
        none = Instances.empty(cells.height, cells.width)
        found = [cells if abs(p - self.at) < 0.06 else none for p in probabilities]
        return found, np.where(masks.to_label_map(cells) > 0, np.float32(0.3), np.float32(0.01))


@pytest.fixture
def knowing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Knowing]:
    paths, _ = bring(config_at(tmp_path / "plain"), 0)
    Knowing.truth, Knowing.loaded = {}, []
    for split in ("val", "labelled"):
        for record in shards.read_folder(paths.split(split)):
            assert record.image is not None and record.instances is not None
            image = decode_image(record.image, record.image_id, 10**6)
            Knowing.truth[int(np.asarray(image, np.int64).sum())] = record.instances.with_(state="predicted")

    def load(_: object, folder: Path, inference: InferenceConfig, device: str) -> Knowing:
        Knowing.loaded.append((folder.name, inference.cell_probability))
        return Knowing(0)

    monkeypatch.setattr(fake_family.FakeFamily, "load", load)
    return Knowing


def test_what_is_best_on_val_is_used_from_then_on(tmp_path: Path, knowing: type[Knowing]) -> None:
    paths, _ = bring(config_at(tmp_path), 0)
    content = read_fit(paths.model(0, "unet-a")).cell_probability
    assert content is not None and content.chosen == 0.4 and content.scores["0.4"] == 1 and content.scores["0.5"] == 0
    used = {probability for name, probability in knowing.loaded if name == "unet-a" and probability != "auto"}
    assert used == {0.4}
    again, _ = bring(config_at(tmp_path), 1)
    assert again == paths
    control = read_fit(paths.model(1, "control")).cell_probability
    assert control is not None and control.chosen == 0.4


def test_a_stated_probability_is_not_touched(tmp_path: Path, knowing: type[Knowing]) -> None:
    paths, _ = bring(config_at(tmp_path, "inference.cell_probability=0.55"), 0)
    fit = read_fit(paths.model(0, "unet-a"))
    assert fit.cell_probability is None and fit.background_probability == pytest.approx(0.3)
    assert {probability for _, probability in knowing.loaded} == {0.55}


def test_each_fold_chooses_on_the_images_that_it_left_out(tmp_path: Path, knowing: type[Knowing]) -> None:
    config = config_at(tmp_path, "rounds.folds=2")
    paths, _ = bring(config, 0)
    for fold in folds_of(config):
        member = fold.member("unet-b")
        chosen = read_fit(paths.model(0, member)).cell_probability
        assert chosen is not None and chosen.chosen == 0.4
        assert read_manifest(paths.predictions(0, member, "val")).rows == 3


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1, width=32)), min_size=1, max_size=60), st.floats(0, 0.9))
def test_the_background_probability_is_the_quantile_of_the_class_that_is_the_least_sure(
    pixels: list[tuple[int, float]], share: float
) -> None:
    inside = _InsideCells(2)
    for number, probability in pixels:
        inside.add(np.array([[probability]], np.float32), masks.from_label_map(np.ones((1, 1)), class_id=number))
    each = []
    for number in {number for number, _ in pixels}:
        own = sorted(min(int(np.float32(p) * BINS), BINS - 1) for n, p in pixels if n == number)
        each.append(next(bin for i, bin in enumerate(own) if (np.searchsorted(own, bin, "right")) / len(own) > share))
    assert inside.quantile(share) == min(each) / BINS


def test_without_a_cell_there_is_no_background_probability() -> None:
    assert _InsideCells(2).quantile(0.02) is None


def test_what_teaches_and_what_measures_it_states_its_background(tmp_path: Path, knowing: type[Knowing]) -> None:
    paths, _ = bring(config_at(tmp_path), 1)
    for split, stated in (("unlabelled", True), ("val-as-unlabelled", True), ("test", False)):
        folder = paths.predictions(0, "ensemble", split)
        if split == "val-as-unlabelled" and not folder.is_dir():
            folder = paths.predictions(0, "ensemble", "val")
        found = [record.instances for record in shards.read_folder(folder)]
        assert found and all(cells is not None and (cells.background is not None) == stated for cells in found)
    train = {r.split: r.instances for r in shards.read_folder(paths.train(1, "")) if r.instances is not None}
    assert train["labelled"].background is None and train["unlabelled"].background is not None


def test_where_all_is_background_nothing_is_stated(tmp_path: Path, knowing: type[Knowing]) -> None:
    paths, _ = bring(config_at(tmp_path, "filter.background=all"), 1)
    for record in shards.read_folder(paths.pseudo(1, "")):
        assert record.instances is not None and record.instances.background is None
    assert read_fit(paths.model(0, "unet-a")).background_probability is None
