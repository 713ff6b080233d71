"""The supervised control of a campaign: what it has, when it is delivered, and that it teaches nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import fake_family
from helpers.campaigns import bring, config_at

from cellsemi.orchestrator.runs.export import ExportRequest, choose
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import standing
from cellsemi.rounds.evaluation.history import delivered_model, read_manifests, read_verdict
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.steps import read_steps

pytestmark = pytest.mark.usefixtures("fake_models")


def test_longer_training_that_wins_is_delivered_and_teaches_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in's control sees the truth: it has the most steps."""
    settings = ("rounds.promotion.min_probability=0.9", "rounds.promotion.class_margin=1")
    plain, _ = bring(config_at(tmp_path / "plain"), 0)
    truth = {}
    for split in ("val", "test"):
        for record in shards.read_folder(plain.split(split)):
            assert record.image is not None and record.instances is not None
            image = decode_image(record.image, record.image_id, 10**6)
            truth[int(np.asarray(image, np.int64).sum())] = record.instances.with_(state="predicted")

    class Knowing(fake_family.FakePredictor):
        def predict(self, images, zoom=1.0):  # type: ignore[no-untyped-def]
            return [truth[int(np.asarray(image, np.int64).sum())] for image in images]

    load = fake_family.FakeFamily.load
    monkeypatch.setattr(
        fake_family.FakeFamily,
        "load",
        lambda self, folder, *rest: Knowing(0) if folder.name == "control" else load(self, folder, *rest),
    )
    paths, watcher = bring(config_at(tmp_path, *settings), 1)
    manifest = read_manifests(paths)[1]
    assert manifest.control.promoted and delivered_model(paths) == (1, "control")
    assert read_verdict(paths).startswith("Use the control of round 1 (")
    rows = {row.model: row for row in leaderboard.read(paths.leaderboard)}
    assert rows["control"].recommended and not rows["control"].promoted
    assert not rows["ensemble"].recommended
    assert any(note.startswith("round 1: control: recommended: ") for note in watcher.notes)
    assert "control" not in standing(paths).members
    assert "control of round 1" in choose(str(paths.root), ExportRequest()).sentence


def test_a_control_that_is_no_better_is_not_delivered(tmp_path: Path) -> None:
    paths, watcher = bring(config_at(tmp_path, "rounds.promotion.min_probability=1"), 1)
    manifest = read_manifests(paths)[1]
    assert not manifest.control.promoted
    assert delivered_model(paths) == (standing(paths).round, "ensemble")
    assert any(note.startswith("round 1: control: not recommended: ") for note in watcher.notes)
    few = "only 3 validation images decide thresholds and promotion, too few to tell a gain from chance"
    assert f"{few}; rounds.folds: 5 would let all 6 labelled images decide, at 5 times the training" in watcher.notes


def test_a_larger_student_takes_over_and_the_control_copies_it(tmp_path: Path) -> None:
    small = "{kind: flow-unet, name: small, last_round: 0}"
    large = "{kind: flow-unet, name: large, first_round: 1, width: 32, training: {steps: 7}}"
    config = config_at(tmp_path, f"models=[{small}, {large}]", "rounds.promotion.min_probability=0",
                       "rounds.promotion.class_margin=1")  # fmt: skip
    paths, _ = bring(config, 2)
    rows = [(row.round, row.model) for row in leaderboard.read(paths.leaderboard)]
    assert rows == [(0, "small"), (0, "ensemble"), (1, "large"), (1, "ensemble"),
                    (2, "large"), (2, "ensemble"), (2, "control")]  # fmt: skip
    assert read_fit(paths.model(2, "control")).steps == config.training.steps + 7 + 7
    assert read_manifests(paths)[2].steps == config.training.steps + 14
    predicted = {record.name: set(record.settings) for record in read_steps(paths) if record.round == 2}
    for split in ("val", "test"):
        assert "models[large].inference" in predicted[f"predict {split} with control"], "the model that it copies"
