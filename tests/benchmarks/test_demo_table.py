"""The benchmark of the demo: how its table is made of finished runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from helpers.benchmark_scripts import script
from helpers.run_folders import finish_first_round, finish_fit

from cellsemi.configs.loading import load_config
from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.history import RoundManifest
from cellsemi.rounds.evaluation.metrics import ImageScore, Tally
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.evaluation.verdict import AgainstControl
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE, open_run

demo = script("demo")


def evaluated(round: int, model: str, split: str, tenths: list[int]) -> Evaluation:
    """Images of one cell each that is right at so many of the ten thresholds: scores in tenths."""
    tallies = [Tally(1, 1, tuple(int(t < n) for t in range(10)), 0.9) for n in tenths]
    scores = tuple(ImageScore(f"i{k}", tally, {0: tally}) for k, tally in enumerate(tallies))
    return Evaluation(round, model, split, Cutoffs.same(0.5, 1), scores)


def finished_run(out: Path, regime: str, seed: int, student: int, control: int) -> None:
    """A run of three rounds whose last student and control score so many tenths on each of eight test images."""
    name = demo.run_name(regime, seed)
    paths = open_run(load_config("demo", [f"run.root={out}", f"run.name={name}"]).config)
    first = evaluated(0, ENSEMBLE, "test", [2] * 8)
    rival = evaluated(3, CONTROL, "test", [control] * 8)
    models = [(round, ENSEMBLE, 2 + round) for round in range(4)] + [(3, "student", student), (3, CONTROL, control)]
    rows = [
        leaderboard.make_row(
            evaluated(round, model, "val", [5]),
            evaluated(round, model, "test", [tenths] * 8),
            baseline=first if model == ENSEMBLE and round else None,
            control=rival if model == "student" else None,
            classes=("shsy5y", "astro", "cort"),
            counts={"accepted": 0, "ignored": 0, "rejected": 0},
            promoted=model == ENSEMBLE and round < 3,
            seconds=30.0,
            config=PromotionConfig(bootstrap=100),
            seed=0,
        )
        for round, model, tenths in models
    ]
    leaderboard.write(paths.leaderboard, rows, "", "")
    for round in range(4):
        finish_first_round(paths, round)
    # What teaches in the end is round 2; the verdict says how its first model compares with the control.
    compared = AgainstControl(2, "student", 3, CONTROL, rows[-2].vs_control)
    last = RoundManifest.read(paths.round_manifest(3))
    refused = Decision(False, 0.1, "not promoted: not clearly better")
    last.model_copy(update={"against_control": compared, "decision": refused}).write(paths.round_manifest(3))
    finish_fit(paths.model(3, CONTROL), 1600, 1.0)


def test_the_share_of_seeds_is_counted_and_a_run_on_its_way_left_out(tmp_path: Path) -> None:
    for seed, (student, control) in enumerate([(7, 4), (6, 5), (3, 5)]):
        finished_run(tmp_path, "uncovered", seed, student, control)
    seeds = [demo.Seed.read(seed, tmp_path / demo.run_name("uncovered", seed)) for seed in range(4)]
    assert seeds[3] is None
    text = demo.section("uncovered", seeds[:3])
    assert (
        "beat the control of equal steps in 2 of 3 seeds" in text
        and "above zero in\n2 of 3, and below zero in 1" in text
    )
    lines = [line for line in text.splitlines() if line.startswith("| 0")]
    figures = "0.200 | 0.300 | 0.400 | 0.500 | 0.400 (1600) | +0.300 (+0.300 to +0.300) | 0.400 (round 2)"
    assert lines == [f"| 0 | {figures} | The rounds helped | 2.0 |"]
    mean = next(line for line in text.splitlines() if line.startswith("| mean"))
    assert mean == "| mean | 0.200 | 0.300 | 0.400 | 0.500 | 0.467 | +0.067 | 0.400 |  |  |"


@pytest.mark.parametrize("regime", demo.REGIMES)
def test_a_line_is_the_command_of_the_demo(regime: str, tmp_path: Path) -> None:
    words = demo.command(regime, 3, tmp_path, ["training.precision=float32"])
    assert words[:6] == ["cellsemi", "round", "--n", "3", "--config", "demo"]
    settings = [value for word, value in itertools.pairwise(words) if word == "--set"]
    config = load_config("demo", settings).config
    assert config.run.seed == 3 and config.training.precision == "float32"
    assert (len(config.data.generated.magnifications) > 1) == (regime == "uncovered")
