"""Trainings that are stated in epochs of the human labels, or in phases."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.campaigns import bring, config_at

from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import read_fit

pytestmark = pytest.mark.usefixtures("fake_models")


def test_epochs_are_steps_of_the_human_images_in_every_round(tmp_path: Path) -> None:
    config = config_at(tmp_path, "training.steps=auto", "training.epochs=8", "training.batch=5", "rounds.control=false")
    paths, watcher = bring(config, 1)
    images = len(list(shards.read_folder(paths.split("labelled"))))
    assert images == 3
    for round in (0, 1):
        assert read_fit(paths.model(round, "unet-a")).steps == 5  # 24 crops, 5 at once
    assert "round 0: unet-a is trained for 5 steps of 5 crops, an epoch being 3 human-labelled images" in watcher.notes


def test_phases_state_the_steps_and_a_control_keeps_their_proportions(tmp_path: Path) -> None:
    phases = "training.phases=[{epochs: 2, lr: 1.0e-3}, {steps: 4}]"
    config = config_at(tmp_path, "training.steps=auto", phases, "training.batch=2")
    paths, _ = bring(config, 1)
    assert read_fit(paths.model(0, "unet-a")).steps == 3 + 4
    assert read_fit(paths.model(1, "control")).steps == 2 * 7
    assert [phase.last for phase in config.training.in_steps(3).in_phases(14)] == [6, 14]


def test_each_fold_counts_the_images_that_it_learns_from(tmp_path: Path) -> None:
    settings = [
        "training.steps=auto",
        "training.epochs=3",
        "training.batch=1",
        "rounds.folds=3",
        "rounds.control=false",
    ]
    paths, _ = bring(config_at(tmp_path, *settings), 0)
    learnt = sum(len(list(shards.read_folder(paths.split(f"folds/fold-{k}")))) for k in (1, 2))
    assert {read_fit(paths.model(0, f"unet-a.fold-{k}")).steps for k in range(3)} == {3 * learnt}
