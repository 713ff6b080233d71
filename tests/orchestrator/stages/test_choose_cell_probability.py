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

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Image
from cellsemi.orchestrator.stages.choose_cell_probability import GRID, best_of
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

    def at_probabilities(self, image: Image, probabilities: Sequence[float]) -> list[Instances]:
        cells = self.truth[int(np.asarray(image, np.int64).sum())]
        none = Instances.empty(cells.height, cells.width)
        return [cells if abs(p - self.at) < 0.06 else none for p in probabilities]


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
    assert read_fit(paths.model(0, "unet-a")).cell_probability is None
    assert {probability for _, probability in knowing.loaded} == {0.55}


def test_each_fold_chooses_on_the_images_that_it_left_out(tmp_path: Path, knowing: type[Knowing]) -> None:
    config = config_at(tmp_path, "rounds.folds=2")
    paths, _ = bring(config, 0)
    for fold in folds_of(config):
        member = fold.member("unet-b")
        chosen = read_fit(paths.model(0, member)).cell_probability
        assert chosen is not None and chosen.chosen == 0.4
        assert read_manifest(paths.predictions(0, member, "val")).rows == 3
