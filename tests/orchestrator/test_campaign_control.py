"""The supervised control of a campaign: what it has, when it is delivered, and that it teaches nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import fake_family
from helpers.campaigns import bring, config_at

from cellsemi.models.model_files import read_weights
from cellsemi.orchestrator import campaign
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.orchestrator.runs.export import ExportRequest, choose
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import delivered, standing
from cellsemi.rounds.evaluation.evaluation_table import find, read_evaluations
from cellsemi.rounds.evaluation.history import delivered_model, read_manifests, read_verdict
from cellsemi.rounds.evaluation.metrics import image_values
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import is_control
from cellsemi.rounds.store.steps import read_steps

pytestmark = pytest.mark.usefixtures("fake_models")


def knowing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: Callable[[Path], bool]) -> None:
    """Let the models in some folders find the true cells of val and test images."""
    plain, _ = bring(config_at(tmp_path / "plain"), 0)
    truth = {}
    for split in ("val", "test"):
        for record in shards.read_folder(plain.split(split)):
            assert record.image is not None and record.instances is not None
            image = decode_image(record.image, record.image_id, 10**6)
            truth[int(np.asarray(image, np.int64).sum())] = record.instances.with_(state="predicted")

    class Knowing(fake_family.FakePredictor):
        def predict(self, images, zoom=1.0):  # type: ignore[no-untyped-def]
            sums = [int(np.asarray(image, np.int64).sum()) for image in images]
            blind = super().predict(images, zoom)
            return [truth.get(total, found) for total, found in zip(sums, blind, strict=True)]

    load = fake_family.FakeFamily.load

    def load_knowing(self, folder, *rest):  # type: ignore[no-untyped-def]
        return Knowing(0) if who(folder) else load(self, folder, *rest)

    monkeypatch.setattr(fake_family.FakeFamily, "load", load_knowing)


def test_longer_training_that_wins_is_delivered_and_teaches_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("rounds.promotion.min_probability=0.9", "rounds.promotion.class_margin=1")
    knowing(tmp_path, monkeypatch, lambda folder: folder.name == "control")
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


def refusing(monkeypatch: pytest.MonkeyPatch, *refused: int) -> None:
    """Rounds but these are promoted, whatever their scores."""

    def decide(context, round, candidate, teachers):  # type: ignore[no-untyped-def]
        return Decision(round not in refused, 0.5, "not promoted: so made" if round in refused else "promoted")

    monkeypatch.setattr(campaign, "decide_round", decide)


def test_the_verdict_is_on_what_teaches_and_not_on_the_student_that_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, 2)
    knowing(tmp_path, monkeypatch, lambda folder: folder.parts[-3:] == ("round-01", "students", "unet-a"))
    paths, _ = bring(config_at(tmp_path, "rounds.stop_after=null"), 2)
    manifest = read_manifests(paths)[2]
    found = manifest.against_control
    assert found is not None and (found.round, found.model, found.control_round) == (1, "unet-a", 2)
    classes = ("shsy5y", "astro", "cort")
    scored = [image_values(find(read_evaluations(paths.evaluation(r), classes), name, "test").scores)
              for r, name in ((1, "unet-a"), (2, "control"))]  # fmt: skip
    assert found.difference.value == pytest.approx(float((scored[0] - scored[1]).mean()))
    rows = {(row.round, row.model): row for row in leaderboard.read(paths.leaderboard)}
    assert rows[1, "unet-a"].vs_control == found.difference, "the leaderboard shows what the verdict says"
    refused = rows[2, "unet-a"].vs_control
    assert found.difference.value > 0.5 > refused.value and rows[1, "unet-b"].vs_control is None
    assert "the student of round 2 had, unet-a of round 1 differs by +" in read_verdict(paths)


def test_the_control_has_as_many_seeds_as_the_winner_had_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round 1 is refused and round 2 promoted: its labels are those of round 1, only the seed is another."""
    refusing(monkeypatch, 1)
    knowing(tmp_path, monkeypatch, lambda folder: folder.name == "control-2")
    paths, _ = bring(config_at(tmp_path, "rounds.stop_after=null", "rounds.promotion.class_margin=1"), 2)
    rows = [row.model for row in leaderboard.read(paths.leaderboard) if row.round == 2]
    assert rows == ["unet-a", "unet-b", "ensemble", "control", "control-2"]
    learnt = [json.loads(read_weights(paths.model(2, name))) for name in ("control", "control-2")]
    assert learnt[0]["cells"] == learnt[1]["cells"] and learnt[0]["seed"] != learnt[1]["seed"]
    assert read_fit(paths.model(2, "control")).steps == read_fit(paths.model(2, "control-2")).steps
    manifest = read_manifests(paths)[2]
    assert manifest.control is not None and "control-2 is the best of 2 seeds" in manifest.control.reason
    assert "95.0% needed at try 2, 90.0% at the first" in manifest.control.reason, (
        "the best of two is no single control either"
    )
    assert manifest.against_control is not None and manifest.against_control.control == "control-2"
    assert delivered_model(paths) == (2, "control-2")
    assert read_verdict(paths).startswith("Use the control-2 of round 2 (")
    assert "the supervised control of round 2" in TrainedModel.of_run(paths, delivered(paths)).recipe.title
    assert bring(config_at(tmp_path, "rounds.stop_after=null", "rounds.promotion.class_margin=1"), 2)[1].begun == []


def test_refused_rounds_at_the_end_need_no_further_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What teaches is round 1, promoted at its first try."""
    refusing(monkeypatch, 2, 3)
    paths, _ = bring(config_at(tmp_path, "rounds.stop_after=null"), 3)
    assert [row.model for row in leaderboard.read(paths.leaderboard) if is_control(row.model)] == ["control"]


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
