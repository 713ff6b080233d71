"""The report of a round: a real tiny campaign against its own tables, what it says of trouble, the command."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers.campaigns import bring, config_at
from helpers.run_folders import vouch_for
from helpers.terminal import invoke
from PIL import Image

from cellsemi.configs.errors import RunError
from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.engine.protocol import Incident
from cellsemi.orchestrator.engine.usage import Seconds, Usage
from cellsemi.orchestrator.events import EventLog, SilentWatcher
from cellsemi.orchestrator.runs import report
from cellsemi.orchestrator.runs.page import Written
from cellsemi.rounds.evaluation.history import RoundManifest, read_verdict
from cellsemi.rounds.report.round_report import TrainingSet, to_markdown
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import RunPaths, open_run

# Nobody is sure of anything here: one class is accepted, one left to the loss, one rejected.
LIMITS = {"shsy5y": (0.02, 0.01), "astro": (0.9, 0.01), "cort": (0.9, 0.5)}
LIMITED = ", ".join(f"{name}: {{accept: {accept}, reject: {reject}}}" for name, (accept, reject) in LIMITS.items())
SETTINGS = (f"filter.thresholds={{{LIMITED}}}", "filter.min_samples=10")
STATES = ("accepted", "ignored", "rejected")

pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture
def finished(folder: Path) -> tuple[RunPaths, Config]:
    """One run for all tests: the first makes it, the others find it done."""
    config = config_at(folder, *SETTINGS)
    return bring(config, 1)[0], config


def section(text: str, title: str) -> list[str]:
    return text.split(f"## {title}\n")[1].split("\n## ", maxsplit=1)[0].splitlines()


def cells_of_table(lines: list[str], first: str) -> list[list[str]]:
    """The rows of the table whose header begins with `first`."""
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : end]]


def test_the_report_holds_the_decision_and_the_rows(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    for round in (0, 1):
        text = report.write_report(config, paths, round).read_text()
        manifest = RoundManifest.read(paths.round_manifest(round))
        reason = manifest.decision.reason
        assert text.splitlines()[2].startswith("**Use the ensemble of round ")
        assert text.splitlines()[4] == f"This round: {reason}."
        rows = cells_of_table(section(text, "Did it help?"), "model")
        assert [row[0] for row in rows] == [row["model"] for row in manifest.rows]
        for shown, row in zip(rows, manifest.rows, strict=True):
            assert shown[2] == f"{row['test_map']:.3f} (n = 3: too few)"
            assert (shown[3] == "-") == (round == 0) and (shown[5] == "promoted") == row["promoted"]
        assert manifest.why_these_students in text
        assert ("vs control: " in text) == (round == 1)
    assert "Teachers: unet-a, unet-b of round 0." in text
    assert report.collect(config, paths, 1).verdict == read_verdict(paths)  # of the last round: that of the run
    assert "No round has been run yet" in report.collect(config, paths, 0).verdict


def test_pseudo_labels_are_counted_as_they_stand_in_the_shards(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    text = report.write_report(config, paths, 1).read_text()
    images = pd.concat(pd.read_parquet(path) for path in shards.shard_paths(paths.pseudo(1)))
    counts: Counter[tuple[str, str, str]] = Counter()
    for cells in images["instances"]:
        for cell in cells if cells is not None else ():
            counts[cell["state"], cell["reason"], config.data.classes[cell["class_id"]]] += 1
    rows = cells_of_table(section(text, "What did it learn from?"), "state")
    found = {
        (row[0], row[1], name): int(cell)
        for row in rows[:-1]
        for name, cell in zip(config.data.classes, row[2:-1], strict=True)
        if cell != "0"
    }
    assert found == counts and {state for state, _, _ in counts} == set(STATES)
    assert [int(cell) for cell in rows[-1][2:]] == [
        *(sum(n for key, n in counts.items() if key[2] == name) for name in config.data.classes),
        sum(counts.values()),
    ]
    assert f"found in {len(images)} unlabelled images" in text
    human = [r.instances for r in shards.read_folder(paths.train(1)) if r.split == "labelled"]
    taught = sum(r.split == "unlabelled" for r in shards.read_folder(paths.train(1)))
    (learnt,) = cells_of_table(section(text, "What did it learn from?"), "human images")
    assert learnt[:3] == [str(len(human)), str(sum(len(cells or ()) for cells in human)), str(taught)]
    assert taught < len(images) and learnt[3] == f"{len(images) - taught} (no cell accepted)"


def test_every_calibration_is_shown_with_its_error(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    path = report.write_report(config, paths, 1)
    text = path.read_text()
    known = {
        ("teacher", name): content
        for name, content in files.read_json(paths.teachers_calibration(1))["members"].items()
    }
    known["teachers together", "ensemble"] = files.read_json(paths.filter(1))["calibration"]
    known |= {("student", n): c for n, c in files.read_json(paths.calibration(1))["members"].items()}
    rows = cells_of_table(section(text, "Can the scores be trusted?"), "whose")
    assert {(row[0], row[1]) for row in rows} == set(known) and len(rows) == 3 * len(known)
    for whose, model, name, samples, right, _, error in rows:
        curve = known[whose, model][name]
        assert (int(samples), int(right)) == (curve["samples"], curve["positives"])
        if curve["samples"]:
            assert error == f"{curve['ece_before']:.3f} -> {curve['ece_after']:.3f}"
    seen = [r.instances for r in shards.read_folder(paths.predictions(0, "unet-a", "val"))]
    total = sum(int(row[3]) for row in rows if row[:2] == ["teacher", "unet-a"])
    assert total == sum(len(cells or ()) for cells in seen) > 0
    assert "](reliability.png)" in text and "### " not in text  # the bins are in the picture
    with Image.open(path.with_name("reliability.png")) as drawn:
        assert drawn.format == "PNG"


def test_the_files_it_names_are_there_and_a_second_report_is_the_same(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    path = report.write_report(config, paths, 1)
    first = path.read_bytes(), path.with_name("reliability.png").read_bytes()
    named = [line.split("`")[1] for line in section(path.read_text(), "Where is it?") if line]
    assert {"round-01/pseudo", "round-01/students/unet-a", "run.yaml"} <= set(named)
    assert all((paths.root / name).exists() for name in named)
    assert report.write_report(config, paths, 1) == path
    assert (path.read_bytes(), path.with_name("reliability.png").read_bytes()) == first
    assert not list(paths.root.rglob("*.tmp"))


def test_the_time_of_every_stage_is_that_of_its_manifest(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    facts = report.collect(config, paths, 1)
    names = [name for name, _, _ in facts.times]
    assert {"predict unlabelled with unet-a", "filter pseudo-labels", "train unet-b", "fuse test"} <= set(names)
    steps = read_fit(paths.model(1, "unet-b")).steps
    assert ("train unet-b", f"{steps} steps") in [time[:2] for time in facts.times]


def test_trouble_is_said(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    facts = report.collect(config, paths, 1)

    def wrong(**changes: object) -> list[str]:
        return [line for line in section(to_markdown(replace(facts, **changes)), "What went wrong?") if line]

    assert wrong(drift=["too many", "too large."], problems=["x diverged: nan"]) == [
        "- drift: too many.",
        "- drift: too large.",
        "- x diverged: nan.",
    ]
    assert wrong(drift=[], problems=[]) == ["- no drift alarm"]
    assert wrong(drift=None, problems=[]) == ["- drift was not checked (`rounds.drift_alarms` is off)"]
    assert wrong(drift=None, problems=[], teachers_round=None) == ["- nothing that was noticed"]
    alarms = json.loads(paths.drift(1).read_text())["alarms"]
    assert [line.removeprefix("- drift: ") for line in wrong(problems=[])] == [f"{alarm}." for alarm in alarms]
    assert alarms


def test_images_that_were_left_out_and_what_models_told_are_said(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    folder = paths.predictions(0, "unet-b", "unlabelled")
    kept = (folder / "manifest.json").read_text()
    content = json.loads(kept)
    content["shards"][0] |= {"lost": {"p-1": "no memory"}, "warnings": {"a cell was cut": 2}}
    content["shards"][1] |= {"warnings": {"a cell was cut": 1}}
    try:
        files.write_json(folder / "manifest.json", content)
        vouch_for(folder)
        problems = report.collect(config, paths, 1).problems
    finally:
        (folder / "manifest.json").write_text(kept)
        vouch_for(folder)
    assert problems == [
        "unet-b on unlabelled: image p-1 was left out, on every attempt: no memory",
        "unet-b on unlabelled, 3 times: a cell was cut",
    ]
    assert report.collect(config, paths, 1).problems == []


def test_what_the_workers_did_is_told_by_stage_with_the_incidents(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    before = report.collect(config, paths, 1)
    uses = iter([used(2, gpus=0), used(30, lost=6), used(50, lost=0), used(7, lost=7), used(1, gpus=0)])
    log = EventLog(SilentWatcher(), paths.events, take_usage=lambda: next(uses, Usage()))
    log.stage(1, "predict unlabelled", 48, "images")
    log.incident(Incident("frozen", "worker 0 on item 3", "a", 3))
    log.finish(80.0)
    log.stage(0, "train", 60, "steps")
    log.finish(1.0)
    text = to_markdown(replace(before, used=report.collect(config, paths, 1).used))
    lines = section(text, "What did the workers do?")
    assert (
        lines[1]
        == "GPU-seconds: 80 reserved; of these computing 74 s (92%), starting 0 s (0%), idle 0 s (0%), lost 6 s (8%)."
    )
    assert lines[2] == "Incidents: 1 frozen."
    assert cells_of_table(lines, "stage")[-1] == ["predict unlabelled", "80.0", "74.0", "0.0", "0.0", "6.0"]
    assert "train" not in [row[0] for row in cells_of_table(lines, "stage")]  # of round 0
    paths.events.unlink()
    assert "What did the workers do?" not in report.write_report(config, paths, 1).read_text()


def used(seconds: float, lost: float = 0.0, gpus: float = 1.0) -> Usage:
    each = Seconds(seconds, computing=seconds - lost, lost=lost)
    return Usage(each, Seconds().plus(each, gpus), {})


def test_with_folds_each_training_set_has_its_row(finished: tuple[RunPaths, Config]) -> None:
    paths, config = finished
    facts = report.collect(config, paths, 1)
    sets = [TrainingSet(f"fold-{n}", 3 + n, 20, 5, {"no cell found": n} if n else {}) for n in (0, 1)]
    lines = section(to_markdown(replace(facts, training=sets)), "What did it learn from?")
    assert cells_of_table(lines, "fold") == [
        ["fold-0", "3", "20", "5", "none"],
        ["fold-1", "4", "20", "5", "1 (no cell found)"],
    ]
    assert any("each fold by teachers of its own" in line for line in lines)


def test_the_command_writes_and_names_the_reports_of_all_finished_rounds(
    finished: tuple[RunPaths, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, _ = finished
    page = Written(paths.root / "report.html", 1_200_000, 3.21)
    monkeypatch.setattr("cellsemi.orchestrator.runs.page.write_page", lambda config, paths, out: page)
    expected = [paths.round(round) / "report.md" for round in (0, 1)]
    for path in expected:
        path.unlink(missing_ok=True)
    done = invoke("report", str(paths.root), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["reports"] == [str(path) for path in expected]
    assert all(path.is_file() for path in expected)
    lines = invoke("report", str(paths.root)).output.splitlines()
    assert lines == [f"{page.path} (1.2 MB, written in 3.2 s)", *map(str, expected)]


def test_a_run_without_a_finished_round_has_no_report(here: Path) -> None:
    open_run(load_config("demo", ["run.name=new"]).config)
    done = invoke("report", "new")
    assert isinstance(done.exception, RunError) and "no round is finished yet" in str(done.exception)
