"""The benchmark of the promotion: what becomes of candidates that are better, alike and worse."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers.benchmark_scripts import promotion
from helpers.campaigns import bring, config_at

from cellsemi.rounds.store.run import RunPaths


def draw(means: dict[str, float], noise: float, images: int = 40) -> promotion.Draw:
    """Models whose scores are their mean and noise of their own on every image."""
    rng = np.random.default_rng(0)
    models = {name: value + noise * rng.standard_normal(images) for name, value in means.items()}
    return promotion.Draw("made", models, np.arange(images) < images // 2)


def test_clear_differences_are_found_whatever_is_asked() -> None:
    found = list(promotion.simulate(draw({"round 0": 0.4, "r1": 0.5, "r2": 0.9}, 1e-6), 5, 0))
    assert len(found) == 6 * 3 * 5
    assert {decision.probability for decision in found} == {0.0, 1.0}
    for decision in found:
        assert (decision.gain > 0) == (decision.probability == 1)
    later = [decision.gain for decision in found if decision.later]
    assert sorted({round(gain, 3) for gain in later}) == [0.1, 0.5]
    for row in promotion.lines(found):
        assert row[2:6] == ["100%", "-", "0%", "+0.3000"]


def test_the_gain_is_of_other_images_than_the_decision() -> None:
    """The images that may be drawn favour one model, all others the other: every decision is wrong."""
    made = draw({"round 0": 0.5, "r1": 0.5}, 0.0)
    made.models["r1"][:] = np.where(made.like_val, 0.6, 0.3)
    for decision in promotion.simulate(made, 20, 0):
        assert (decision.probability, decision.gain < 0) == ((1.0, True) if decision.later else (0.0, False))


def test_a_row_counts_candidates_by_their_gain() -> None:
    values = itertools.product(promotion.COUNTS, [(0.9, 0.2), (0.65, 0.1), (0.7, -0.1), (0.1, -0.2), (0.5, 0.0)])
    found = [promotion.SimulatedDecision(n, chance, gain, later=gain > 0) for n, (chance, gain) in values]
    rows = {(row[0], row[1].split()[0]): row[2:] for row in promotion.lines(found)}
    assert len(rows) == len(promotion.COUNTS) * len(promotion.ASKED)
    assert rows["3", "0.5"] == ["100%", "100%", "50%", "+0.1500", "+0.0400"]
    assert rows["5", "0.7"] == ["50%", "0%", "50%", "+0.1000", "+0.0200"]
    assert rows["10", "0.95"] == ["0%", "0%", "0%", "+0.0000", "+0.0000"]


def test_a_round_0_of_other_settings_does_not_take_the_place_of_the_first() -> None:
    models: dict[str, np.ndarray] = {}
    for name, value in (("ours", 0.4), ("again", 0.4), ("plain", 0.3)):
        promotion.add(models, name, "round 0", np.full(40, value))
        promotion.add(models, name, "round 1, ensemble", np.full(40, 0.6))
    rounds = [f"{name}, round 1, ensemble" for name in ("ours", "again", "plain")]
    assert sorted(models) == sorted(["round 0", "plain, round 0", *rounds])
    assert models["round 0"][0] == 0.4
    found = promotion.simulate(promotion.Draw("made", models, np.ones(40, bool)), 1, 0)
    assert sum(decision.later for decision in found) == 3 * 2 * len(promotion.COUNTS), "students against each round 0"


def test_runs_on_the_same_images_make_one_draw(tmp_path: Path) -> None:
    for name in ("one", "two"):
        config = config_at(tmp_path, f"run.name={name}", "data.root=cells", "training.steps=1")
        bring(config, 1)
    (found,) = promotion.read(tmp_path)
    rounds = [f"{name}, round 1, {model}" for name in ("one", "two") for model in ("control", "ensemble")]
    assert sorted(found.models) == sorted(["round 0", *rounds])
    assert [len(scores) for scores in found.models.values()] == [3] * 5
    assert found.like_val.tolist() == [True] * 3, "generated images are all of one size"
    other = RunPaths(tmp_path / "two").evaluation(1)
    other.write_bytes(b"not a table")
    with pytest.raises(Exception, match=str(other)):
        promotion.read(tmp_path)
