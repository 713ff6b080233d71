"""The campaign in-process: what it leaves on disk, that it can be broken anywhere, and what it refuses.

A fast stand-in for the networks (fake_family) keeps this to what the orchestrator does; the real model
runs the same way in test_end_to_end.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.campaigns import Notes, bring, config_at, tables
from helpers.fake_family import DIVERGES
from PIL import Image

from cellsemi.configs.errors import ModelError, RunError, TrainingDiverged, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.models import base, registry
from cellsemi.models.model_files import WEIGHTS_FILE
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.history import read_manifests, read_verdict
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import read_fit, training_shards
from cellsemi.rounds.store.run import RunPaths, open_run
from cellsemi.rounds.store.unaltered import MANIFEST

pytestmark = pytest.mark.usefixtures("fake_models")


def test_a_run_leaves_all_its_tables_and_a_leaderboard(tmp_path: Path) -> None:
    always = ("rounds.promotion.min_probability=0", "rounds.promotion.class_margin=1")  # so one control is fair
    paths, watcher = bring(config_at(tmp_path, *always), 2)
    rows = leaderboard.read(paths.leaderboard)
    models = [(row.round, row.model) for row in rows]
    each = ["unet-a", "unet-b", "ensemble"]
    assert models == [(r, m) for r in (0, 1) for m in each] + [(2, m) for m in [*each, "control"]]
    assert paths.finished_rounds() == [0, 1, 2]
    for suffix in (".md", ".csv", ".parquet"):
        assert paths.leaderboard.with_suffix(suffix).is_file()
    pseudo = [record.instances for record in shards.read_folder(paths.pseudo(1))]
    counts = Counter(state for cells in pseudo if cells is not None for state in cells.state)
    assert set(counts) == {"accepted", "ignored", "rejected"}
    row = rows[3]
    assert (row.accepted, row.ignored, row.rejected) == tuple(counts[s] for s in ("accepted", "ignored", "rejected"))
    assert rows[0].accepted == rows[-1].accepted == 0
    assert any(note.startswith("round 2: ") and "promoted" in note for note in watcher.notes)


def test_training_shards_hold_both_kinds_with_their_provenance(tmp_path: Path) -> None:
    paths, _ = bring(config_at(tmp_path), 1)
    labels = list(shards.read_folder(paths.train(1)))
    by_split = Counter(record.split for record in labels)
    assert by_split["labelled"] == 3 and 0 < by_split["unlabelled"] <= 5
    assert all(record.image is None for record in labels), "the images stay where they are"
    listed = training_shards(paths.train(1), paths.root)
    records = shards.ShardSet(listed.labels, listed.images, listed.rows)
    given = {r.image_id: r.image for split in by_split for r in shards.read_folder(paths.split(split))}
    assert [(r.image_id, r.image) for r in records] == [(r.image_id, given[r.image_id]) for r in labels]
    for record in records:
        assert record.instances is not None
        human = record.split == "labelled"
        assert {s == "human" for s in record.instances.state} == {human}
        assert (record.instances.round == (0 if human else 1)).all()


def test_a_stated_class_of_an_unlabelled_image_comes_before_a_guess(tmp_path: Path) -> None:
    """The stand-in always says class 0; the generated pool, as Sartorius file names, states each image's class."""
    paths, _ = bring(config_at(tmp_path), 1)
    classes = ("shsy5y", "astro", "cort")
    said = list(shards.read_folder(paths.predictions(0, "unet-a", "val")))
    assert {c for r in said if r.instances is not None for c in r.instances.class_id.tolist()} == {0}, "it is judged"
    trial = [paths.predictions(0, name, "val-as-unlabelled") for name in ("unet-a", "ensemble")]
    for record in chain.from_iterable(map(shards.read_folder, [paths.pseudo(1), *trial])):
        assert record.cell_type is not None and record.instances is not None and len(record.instances)
        assert set(record.instances.class_id.tolist()) == {classes.index(record.cell_type)}


def test_the_control_has_the_steps_of_the_ancestry_and_only_human_labels(tmp_path: Path) -> None:
    config = config_at(tmp_path, "rounds.promotion.min_probability=0", "rounds.promotion.class_margin=1")
    paths, _ = bring(config, 2)
    control, student = (read_fit(paths.model(2, name)) for name in ("control", "unet-a"))
    assert control.steps == 3 * student.steps == 3 * config.training.steps
    learnt = json.loads((paths.model(2, "control") / WEIGHTS_FILE).read_text())
    human = sum(len(r.instances or ()) for r in shards.read_folder(paths.split("labelled")))
    assert learnt["cells"] == human


def test_a_round_that_is_not_promoted_keeps_the_old_teachers(tmp_path: Path) -> None:
    config = config_at(tmp_path, "rounds.promotion.min_probability=1", "rounds.promotion.class_margin=0")
    paths, watcher = bring(config, 2)
    manifests = read_manifests(paths)
    assert [manifests[r].decision.promoted for r in (0, 1, 2)] == [True, False, False]
    assert manifests[2].teachers_round == 0 and manifests[2].steps == 2 * config.training.steps
    assert "2: predict unlabelled with unet-a" in watcher.skips, "the same teachers need not look twice"
    assert "did not help" in read_verdict(paths)


NEVER = ("rounds.promotion.min_probability=1", "rounds.promotion.class_margin=0")


def test_rounds_that_are_not_promoted_end_the_run_with_a_control(tmp_path: Path) -> None:
    config = config_at(tmp_path, *NEVER, "rounds.stop_after=2")
    paths, watcher = bring(config, 4)
    assert paths.finished_rounds() == [0, 1, 2]
    end = (
        "the last 2 rounds were not promoted (rounds.stop_after), and the next one would differ in nothing but its seed"
    )
    assert "100.0% needed at try 2, 100.0% at the first" in read_manifests(paths)[2].decision.reason
    assert any(note.endswith(f"no further round is run: {end}") for note in watcher.notes)
    assert f"rounds from 3 on are not run: {end}" in watcher.notes
    assert f"no further round is run: {end}" in read_verdict(paths)
    assert read_fit(paths.model(2, "control")).steps == 2 * config.training.steps
    assert not paths.model(1, "control").exists()
    # What comes out is what a run of two rounds leaves, where the control is trained beside the students.
    whole, _ = bring(config_at(tmp_path / "two", *NEVER, "rounds.stop_after=2"), 2)
    assert tables(paths) == tables(whole)
    _, later = bring(config, 6)
    assert later.begun == [] and any("rounds from 3 on are not run" in note for note in later.notes)


def test_a_run_that_ends_early_can_be_broken_while_its_control_is_made(tmp_path: Path) -> None:
    settings = (*NEVER, "rounds.stop_after=1")
    undisturbed, whole = bring(config_at(tmp_path / "whole", *settings), 3)
    expected = tables(undisturbed)
    assert undisturbed.finished_rounds() == [0, 1] and (1, "control") in control_rows(undisturbed)
    for stop_at in range(whole.events - 19, whole.events, 6):  # from the training of the control on
        config = config_at(tmp_path / str(stop_at), *settings)
        with pytest.raises(KeyboardInterrupt):
            bring(config, 3, Notes(stop_at))
        assert tables(bring(config, 3)[0]) == expected


def control_rows(paths: RunPaths) -> list[tuple[int, str]]:
    return [(row.round, row.model) for row in leaderboard.read(paths.leaderboard) if row.model == "control"]


def test_without_a_limit_rounds_go_on_however_bad(tmp_path: Path) -> None:
    paths, _ = bring(config_at(tmp_path, *NEVER), 3)
    assert paths.finished_rounds() == [0, 1, 2, 3] and control_rows(paths) == [(3, "control")]


def test_a_greedy_ensemble_teaches_and_all_students_stay_on_the_leaderboard(tmp_path: Path) -> None:
    config = config_at(tmp_path, "rounds.ensemble=greedy", "rounds.promotion.min_probability=0")
    paths, watcher = bring(config, 1)
    manifest = read_manifests(paths)[0]
    rows = {row.model: row for row in leaderboard.read(paths.leaderboard) if row.round == 0}
    assert set(rows) == {"unet-a", "unet-b", "ensemble"}
    best = max(("unet-a", "unet-b"), key=lambda name: rows[name].val_map.value)
    members = manifest.students
    assert members[0] == best and f"{best} ({rows[best].val_map.value:.3f})" in manifest.why_these_students
    assert rows["ensemble"].val_map.value >= rows[best].val_map.value
    assert [name for name in ("unet-a", "unet-b") if rows[name].promoted] == sorted(members)
    assert f"1: label unlabelled with {', '.join(members)}" in watcher.begun
    seen = {name for name in ("unet-a", "unet-b") if paths.predictions(0, name, "unlabelled").is_dir()}
    assert seen == set(members)
    assert len(members) == 1, "this seed is one where the other student does not help"
    assert bring(config, 1)[1].begun == []


def test_drift_is_noted_and_kept(tmp_path: Path) -> None:
    paths, watcher = bring(config_at(tmp_path), 2)
    content = json.loads(paths.drift(2).read_text())
    assert content["before"] is not None and json.loads(paths.drift(1).read_text())["before"] is None
    accepted = leaderboard.read(paths.leaderboard)[6].accepted
    assert sum(each["cells"] for each in content["now"]["classes"].values()) == accepted
    said = [note.removeprefix("round 2: drift: ") for note in watcher.notes if note.startswith("round 2: drift: ")]
    assert said == content["alarms"]


def test_a_finished_run_does_nothing_and_a_larger_n_goes_on(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    paths, _ = bring(config, 1)
    before = tables(paths)
    assert bring(config, 1)[1].begun == []
    assert tables(paths) == before
    _, watcher = bring(config, 2)
    assert {event.partition(":")[0] for event in watcher.begun} == {"2"}


@pytest.mark.parametrize("every", [25, pytest.param(3, marks=pytest.mark.slow)])
def test_an_interruption_anywhere_changes_nothing_in_the_end(tmp_path: Path, every: int) -> None:
    undisturbed, watcher = bring(config_at(tmp_path / "whole"), 1)
    expected = tables(undisturbed)
    for stop_at in range(1, watcher.events + 1, every):
        config = config_at(tmp_path / str(stop_at))
        with pytest.raises(KeyboardInterrupt):
            bring(config, 1, Notes(stop_at))
        paths, _ = bring(config, 1)
        assert tables(paths) == expected, f"stopped at event {stop_at} of {watcher.events}"


def test_repeated_interruptions_still_come_to_an_end(tmp_path: Path) -> None:
    config = config_at(tmp_path / "often")
    for _ in range(30):
        try:
            paths, _ = bring(config, 1, Notes(stop_at=30))
            break
        except KeyboardInterrupt:
            continue
    else:
        pytest.fail("every call must get a little further")
    assert tables(paths) == tables(bring(config_at(tmp_path / "whole"), 1)[0])


def test_the_inputs_of_a_done_stage_must_not_change(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        bring(config, 1, Notes(stop_at=60))
    paths = open_run(config)
    manifest = paths.split("labelled") / MANIFEST
    content = json.loads(manifest.read_text())
    content["shards"][0]["sha256"] = "altered"
    manifest.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"data: altered since it was written. It is of the step .read images."):
        bring(config, 1)


def test_without_unlabelled_images_rounds_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    config, notes = config_at(tmp_path, "data.generated.unlabelled=0"), Notes()
    with pytest.raises(UsageError, match=r"nothing to pseudo-label(.|\n)*generated.unlabelled=48(.|\n)*--n 0 trains"):
        bring(config, 1, notes)
    assert {name.split(":")[1].strip() for name in notes.begun} == {"read images"}
    with_a_pool, _ = bring(config_at(tmp_path), 0)  # the remedy needs no consent: nothing was made
    assert len(list(shards.read_folder(with_a_pool.split("unlabelled")))) == 5
    paths, _ = bring(config_at(tmp_path / "alone", "data.generated.unlabelled=0"), 0)
    assert paths.finished_rounds() == [0]


def test_one_model_is_a_campaign_too(tmp_path: Path) -> None:
    paths, _ = bring(config_at(tmp_path, "models=[{kind: flow-unet, name: only}]"), 1)
    names = [row.model for row in leaderboard.read(paths.leaderboard)]
    assert names == ["only", "ensemble", "only", "ensemble", "control"]


def test_a_student_that_diverges_is_left_out_and_said(tmp_path: Path) -> None:
    config = config_at(tmp_path, f"training.lr={DIVERGES + 1}")
    paths, watcher = bring(config, 1)
    assert any("unet-b is left out, its training diverged" in note for note in watcher.notes)
    names = [row.model for row in leaderboard.read(paths.leaderboard)]
    assert "unet-b" not in names and names.count("unet-a") == 2


def test_where_fewer_teachers_are_left_than_votes_asked_for_all_of_them_must_agree_and_it_is_said(
    tmp_path: Path,
) -> None:
    paths, watcher = bring(config_at(tmp_path, f"training.lr={DIVERGES + 1}", "fusion.min_votes=2"), 1)
    sentence = "round 1: fusion.min_votes is 2, but of the teachers only unet-a is left: 1 asked for in this round"
    assert sentence in watcher.notes
    accepted = {row.model: row.accepted for row in leaderboard.read(paths.leaderboard) if row.round == 1}
    assert accepted["unet-a"] > 0
    asked_for_one, watcher = bring(config_at(tmp_path / "one", f"training.lr={DIVERGES + 1}"), 1)
    assert not any("min_votes" in note for note in watcher.notes)
    rows = leaderboard.read(asked_for_one.leaderboard)
    assert {row.model: row.accepted for row in rows if row.round == 1} == accepted


def test_no_student_left_is_an_error_that_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"no student is left(.|\n)*loss is nan"):
        bring(config_at(tmp_path, f"training.lr={DIVERGES}"), 1)


def test_a_full_disk_stops_before_work(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"engine\.min_free_mb"):
        bring(config_at(tmp_path, "engine.min_free_mb=1000000000"), 1)


def data_set(folder: Path, n: int = 14) -> Path:
    """A small data set on disk, with one image that is cut off."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        image, labels = rng.normal(100, 4, (48, 56)), np.zeros((48, 56), np.uint16)
        for cell in range(1, 5):
            y, x = rng.integers(4, 40), rng.integers(4, 48)
            labels[y : y + 6, x : x + 6], image[y : y + 6, x : x + 6] = cell, 200
        name = f"well [{i}] é"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
        rows.append({"id": name, "split": ["labelled", "unlabelled", "unlabelled", "val", "test"][i % 5]})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    cut = folder / "images" / f"{rows[1]['id']}.png"
    cut.write_bytes(cut.read_bytes()[:200])
    return folder


def test_one_bad_image_among_many_is_put_aside_and_the_run_goes_on(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data")
    settings = ["engine.min_free_mb=0", "rounds.promotion.bootstrap=100", "data.shard_images=2"]
    config = load_config("dsb2018", [f"data.root={root}", "data.where={}", f"run.root={tmp_path}", *settings]).config
    paths, watcher = bring(config, 1)
    table = pd.read_parquet(paths.quarantine)
    assert table.image_id.tolist() == ["well [1] é"] and "well [1] é.png" in table.path[0]
    assert any("1 images cannot be used" in note for note in watcher.notes)
    assert leaderboard.read(paths.leaderboard)[-1].test_map.value >= 0
    seen = {record.image_id for record in shards.read_folder(paths.split("unlabelled"))}
    assert len(seen) == 5 and "well [1] é" not in seen


def test_a_missing_framework_and_altered_weights_are_said_before_anything_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"x")
    stated = f"weights: {file}, weights_sha256: {'a' * 64}"
    config = config_at(tmp_path, f"models=[{{kind: torchvision-maskrcnn, name: r, {stated}}}]")
    with pytest.raises(ModelError, match=r"w\.pth: sha256 is 2d71"):
        bring(config, 0)
    monkeypatch.setattr(base, "find_spec", lambda package: None)
    monkeypatch.setitem(registry.FAMILIES, "flow-unet", "cellsemi.models.flow_unet.family")
    with pytest.raises(ModelError, match="flow-unet"):
        bring(config_at(tmp_path, "run.name=other"), 0)
    assert not list(tmp_path.glob("runs/*/data"))
