"""How long a fit takes: doubled until it no longer helps; the best is kept; an interrupted search goes on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import fake_family
from helpers.campaigns import bring, config_at
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.models.base import FitResult, FitTask
from cellsemi.models.model_files import read_model_file, read_weights
from cellsemi.models.validation import find_steps
from cellsemi.models.validation.choose_probabilities import OnValidation
from cellsemi.models.validation.find_steps import PARTS, Search
from cellsemi.rounds.evaluation.history import RoundManifest
from cellsemi.rounds.store.manifest import FoundSteps, read_fit
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.steps import read_steps

pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Validation mAP by steps so far; a test fills it in."""
    found: dict[int, float] = {}

    def score(_: OnValidation, model: Path, left_out: dict[str, str]) -> float:
        return found[int(model.name)]

    monkeypatch.setattr(find_steps, "_validation_map", score)
    return found


def found_by(paths: RunPaths, round: int = 0, model: str = "unet-a") -> tuple[int, list[str]]:
    fit = read_fit(paths.model(round, model))
    assert fit.found_steps is not None and fit.steps == fit.found_steps.steps
    return fit.steps, [str(steps) for steps, _ in fit.found_steps.curve]


AUTO = ("training.steps=auto", "training.first_steps=10", "training.max_steps=70", "training.min_gain=0.01")


@given(st.integers(1, 50), st.integers(1, 400))
def test_each_trial_doubles_the_steps_up_to_the_most(first: int, most: int) -> None:
    totals = Search(first, most, 0.01, validation=None).totals()  # type: ignore[arg-type]
    assert totals[-1] == most and totals[0] == min(first, most)
    assert all(later == 2 * before for before, later in itertools.pairwise(totals[:-1]))
    assert all(before < later <= 2 * before for before, later in itertools.pairwise(totals))


def test_it_stops_where_twice_as_many_steps_no_longer_help(tmp_path: Path, scores: dict[int, float]) -> None:
    scores.update({10: 0.2, 20: 0.3, 40: 0.305, 70: 0.9})
    paths, notes = bring(config_at(tmp_path, *AUTO), 0)
    assert found_by(paths) == (40, ["10", "20", "40"])
    folder = paths.model(0, "unet-a")
    assert read_model_file(folder).training.steps == 40 and not (folder / PARTS).exists()
    assert pq.read_table(folder / "loss.parquet")["step"].to_pylist() == list(range(1, 41))
    assert json.loads(read_weights(folder))["cells"] > 0  # it was given the human labels
    said = "round 0: unet-a is trained for 40 steps (val mAP 0.200 after 10, 0.300 after 20, 0.305 after 40)"
    assert said in notes.notes


def test_a_part_that_harms_is_not_kept(tmp_path: Path, scores: dict[int, float]) -> None:
    scores.update({10: 0.2, 20: 0.3, 40: 0.29})
    paths, _ = bring(config_at(tmp_path, *AUTO), 0)
    assert found_by(paths) == (20, ["10", "20", "40"])
    assert pq.read_table(paths.model(0, "unet-a") / "loss.parquet").num_rows == 20


def test_it_ends_at_the_most_steps(tmp_path: Path, scores: dict[int, float]) -> None:
    scores.update({10: 0.1, 20: 0.2, 40: 0.3, 70: 0.4})
    assert found_by(bring(config_at(tmp_path, *AUTO), 0)[0]) == (70, ["10", "20", "40", "70"])


def test_later_rounds_take_half_and_the_control_as_many_as_all(tmp_path: Path, scores: dict[int, float]) -> None:
    scores.update({10: 0.2, 20: 0.3, 40: 0.305})
    paths, _ = bring(config_at(tmp_path, *AUTO), 1)
    steps = {record.name: record.parameters["steps"] for record in read_steps(paths) if "train " in record.name}
    assert steps["train unet-b"] == 20 and steps["train control"] == 60
    assert [RoundManifest.read(paths.round_manifest(round)).steps for round in (0, 1)] == [40, 60]


def test_an_interrupted_search_goes_on_where_it_was(
    tmp_path: Path, scores: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores.update({10: 0.2, 20: 0.3, 40: 0.305})
    plain, _ = bring(config_at(tmp_path / "plain", *AUTO), 0)
    fits: list[int] = []
    own = fake_family.FakeFamily.fit

    def fit(self: fake_family.FakeFamily, task: FitTask, progress: object) -> FitResult:
        fits.append(task.steps)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return own(self, task, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(fake_family.FakeFamily, "fit", fit)
    config = config_at(tmp_path / "cut", *AUTO)
    with pytest.raises(KeyboardInterrupt):
        bring(config, 0)
    paths, _ = bring(config, 0)
    assert fits == [10, 10, 20, 20, 10, 10, 20]  # the third was cut off and is done again; then the second model
    for name in ("unet-a", "unet-b"):
        one, other = (read_model_file(each.model(0, name)) for each in (plain, paths))
        assert one == other and found_by(plain, 0, name) == found_by(paths, 0, name)


def test_the_curve_goes_by_the_number_of_steps() -> None:
    assert FoundSteps(steps=9, scores={"1000": 0.3, "500": 0.2}).curve == [(500, 0.2), (1000, 0.3)]


def test_a_search_of_one_trial_is_a_fit_of_so_many_steps(tmp_path: Path, scores: dict[int, float]) -> None:
    scores[5] = 0.1
    settings = ("training.steps=auto", "training.first_steps=10", "training.max_steps=5")
    assert found_by(bring(config_at(tmp_path, *settings), 0)[0]) == (5, ["5"])
