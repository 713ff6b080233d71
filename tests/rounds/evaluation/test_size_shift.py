"""Evaluation at the cell sizes of the unlabelled images: sizes from the scale search, and how they weigh a decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at
from helpers.image_scores import CLASSES, CONFIG, HIGH, LOW, scores
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellsemi.configs.loading import build_config
from cellsemi.models.base import Image
from cellsemi.orchestrator.runs.status import read_status
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.history import RoundManifest
from cellsemi.rounds.evaluation.promotion import Sized, decide
from cellsemi.rounds.evaluation.size_shift import ALIKE, SMALLEST_SHARE, enlargements, weighted
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.predictions import PredictionSet
from cellsemi.rounds.store.run import RunPaths

counts = st.dictionaries(st.sampled_from([0.35, 0.5, 0.71, 1.0, 1.41, 2.0]), st.integers(1, 60), min_size=1)


def test_half_the_scale_is_twice_the_size() -> None:
    assert enlargements({0.5: 30, 1.0: 70}, {1.0: 3}) == {1.0: 0.7, 2.0: 0.3}
    assert enlargements({0.5: 30, 1.0: 70}, {0.5: 3}) == {0.5: 0.7, 1.0: 0.3}, "val itself scores best at .5"
    assert enlargements({1.0: 99, 2.0: 1}, {1.0: 5}) == {1.0: 1.0}, "one image in a hundred may be an error"
    assert enlargements({}, {1.0: 5}) == {1.0: 1.0}


def test_val_images_of_the_same_sizes_stand_for_the_unlabelled_ones() -> None:
    assert enlargements({0.2: 4, 0.4: 12, 1.0: 20}, {0.4: 4, 1.0: 8}) == {1.0: 1.0}
    assert set(enlargements({0.2: 4, 0.4: 12, 1.0: 20}, {1.0: 12})) == {1.0, 2.5, 5.0}


@given(counts, counts)
def test_shares_are_those_of_the_unlabelled_images(unlabelled: dict[float, int], val: dict[float, int]) -> None:
    found = enlargements(unlabelled, val)
    each = sorted(Counter(val).elements())
    typical = each[(len(each) - 1) // 2]  # the lower median
    shares = [{scale: n / sum(of.values()) for scale, n in of.items()} for of in (unlabelled, val)]
    distance = sum(abs(shares[0].get(scale, 0) - shares[1].get(scale, 0)) for scale in {*unlabelled, *val}) / 2
    if distance < ALIKE:
        assert found == {1.0: 1.0}
        return
    wanted = Counter(round(typical / scale, 2) for scale in Counter(unlabelled).elements())
    wanted = Counter({size: n for size, n in wanted.items() if n >= SMALLEST_SHARE * sum(unlabelled.values())})
    assert found == pytest.approx({size: n / wanted.total() for size, n in wanted.items()})
    assert sum(found.values()) == pytest.approx(1)


def test_a_mean_over_sizes_is_weighted_by_their_shares() -> None:
    assert weighted([np.array([0.0, 1.0]), np.array([1.0, 1.0])], [0.25, 0.75]).tolist() == [0.75, 1.0]


def test_a_gain_at_the_sizes_of_the_unlabelled_cells_is_a_gain() -> None:
    """As they are the images show no difference; enlarged twice, as two in five unlabelled images, they do."""
    alike = Sized(1.0, 0.6, scores(LOW), scores(LOW))
    better = Sized(2.0, 0.4, scores(HIGH), scores(LOW))
    assert not decide(scores(LOW), scores(LOW), CLASSES, CONFIG, 0).promoted
    found = decide(scores(LOW), scores(LOW), CLASSES, CONFIG, 0, [alike, better])
    assert found.promoted and "at the unlabelled images' cell sizes (60% x1, 40% x2)" in found.reason
    worse = Sized(2.0, 0.4, scores(LOW), scores(HIGH))
    assert not decide(scores(HIGH), scores(LOW), CLASSES, CONFIG, 0, [alike, worse]).promoted


def test_predictions_of_enlarged_images_have_a_folder_of_their_own(tmp_path: Path) -> None:
    (fold,) = folds_of(build_config({}, "test"))
    names = [PredictionSet(0, "unet", fold, "val", scale).folder(RunPaths(tmp_path)).name for scale in (1, 0.5, 2.83)]
    assert names == ["val", "val-x0.5", "val-x2.83"]


class Preferring:
    """A fake model: unlabelled images score best at half the scale, all others at 1."""

    def __init__(self, found: object, taste: dict[int, float]) -> None:
        self._found, self._taste, self.warnings = found, taste, Counter[str]()

    def predict(self, images: Sequence[Image], zoom: float = 1.0) -> list[Instances]:
        (cells,) = self._found.predict(images)  # type: ignore[attr-defined]
        best = self._taste.get(int(np.asarray(images[0], np.int64).sum()), 1.0)
        return [cells.with_(score=cells.score if zoom == best else cells.score / 2)]

    def at_probabilities(
        self, image: Image, probabilities: Sequence[float], scale: float = 1.0
    ) -> tuple[list[Instances], NDArray[np.float32]]:
        return self.predict([image]) * len(probabilities), np.full(np.shape(image)[:2], 0.5, np.float32)


def test_a_campaign_evaluates_at_the_sizes_that_its_teachers_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_models: None
) -> None:
    from helpers import fake_family

    from cellsemi.rounds.store import shards
    from cellsemi.rounds.store.image_codec import decode_image

    settings = ("unlabelled_inference.scale_search=[0.5, 1.0]", "inference.tta=[identity]")
    plain, _ = bring(config_at(tmp_path / "plain"), 0)
    taste = {}
    for record in shards.read_folder(plain.split("unlabelled")):
        assert record.image is not None
        image = decode_image(record.image, record.image_id, 10**6)
        taste[int(np.asarray(image, np.int64).sum())] = 0.5
    load = fake_family.FakeFamily.load
    monkeypatch.setattr(fake_family.FakeFamily, "load", lambda *args: Preferring(load(*args), taste))

    paths, watcher = bring(config_at(tmp_path, *settings), 1)
    assert files.read_json(paths.sizes) == {"shares": {"2": 1.0}}
    scales = [shard.scales for shard in read_manifest(paths.predictions(0, "unet-a", "unlabelled")).shards]
    assert sum((Counter(each) for each in scales), Counter()) == {"0.5": 5}
    assert "round 1: unlabelled cells vs validation cells: 100% are 2x larger" in watcher.notes
    reason = RoundManifest.read(paths.round_manifest(1)).decision.reason
    assert "at the unlabelled images' cell sizes (100% x2)" in reason
    for round in (0, 1):  # the best so far and the candidate
        assert read_manifest(paths.predictions(round, "ensemble", "val-x2")).rows == 3
    assert any("val-x2" in stage.name for stage in read_status(paths).stages)

    off, _ = bring(config_at(tmp_path / "off", *settings, "rounds.promotion.unlabelled_sizes=false"), 1)
    assert "sizes" not in RoundManifest.read(off.round_manifest(1)).decision.reason
