"""What is shown of a run: status, leaderboard, flow check, each for a person and as JSON."""

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.run_folders import begin_step, finish_first_round, finish_step
from helpers.terminal import cellsemi, invoke
from numpy.typing import NDArray
from rich.console import Console

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.events import EventLog, SilentWatcher
from cellsemi.orchestrator.flow_check import spread
from cellsemi.orchestrator.terminal import tables
from cellsemi.orchestrator.terminal.next_steps import next_steps
from cellsemi.rounds.cells import masks
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.figures import Interval
from cellsemi.rounds.evaluation.history import read_verdict
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.store import files, schemas, shards
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.manifest import Commit, write_commit
from cellsemi.rounds.store.run import RunPaths, open_run


def begun_run(name: str = "demo") -> RunPaths:
    """A run whose round 0 is finished and whose round 1 is at work: labelled, one student half trained."""
    paths = open_run(load_config("demo", [f"run.name={name}"]).config)
    finish_step(paths, 0, "read images", paths.data, 60, seconds=0.5)
    finish_step(paths, 0, "train unet-a", paths.model(0, "unet-a"), 300, "steps", 61.0)
    predicted = paths.predictions(0, "unet-a", "unlabelled")
    finish_step(paths, 1, "predict unlabelled with unet-a", predicted, 48, seconds=7.0)
    begin_step(paths, 1, "filter pseudo-labels", paths.pseudo(1), 48)
    for item in range(2):
        commit = Commit(item=item, fingerprint="f", file=f"part-{item}", rows=16, cells=1, sha256="")
        write_commit(paths.pseudo(1), commit)
    finish_step(paths, 1, "train unet-a", paths.model(1, "unet-a"), 300, "steps", 59.6)
    begin_step(paths, 1, "train unet-b", paths.model(1, "unet-b"), 300, "steps")
    files.write_json(paths.model(1, "unet-b") / "progress.json", {"step": 120, "steps": 300})
    finish_first_round(paths)
    EventLog(SilentWatcher(), paths.events).stage(1, "train unet-a, unet-b", 600, "steps")
    return paths


# --- status -----------------------------------------------------------------------------------------


def test_status_tells_what_is_done_and_what_is_begun(here: Path) -> None:
    paths = begun_run()
    found = json.loads(invoke("status", "--json").output)
    stages = {(s["round"], s["name"]): (s["state"], s["done"], s["total"], s["unit"]) for s in found["stages"]}
    assert stages == {
        (0, "read images"): ("done", 60, 60, "images"),
        (0, "train unet-a"): ("done", 300, 300, "steps"),
        (1, "predict unlabelled with unet-a"): ("done", 48, 48, "images"),
        (1, "filter pseudo-labels"): ("begun", 32, 48, "images"),
        (1, "train unet-a"): ("done", 300, 300, "steps"),
        (1, "train unet-b"): ("begun", 120, 300, "steps"),
    }
    assert list(stages) == sorted(stages, key=lambda key: key[0])
    assert (found["run"], found["folder"]) == ("demo", str(paths.root))
    assert (found["finished_rounds"], found["teachers"]) == ([0], "unet-a of round 0")
    assert (found["working"], found["quarantined"]) == (False, None)
    last = found["last_event"]
    assert (last["event"], last["round"], last["stage"]) == ("stage", 1, "train unet-a, unet-b")


def test_status_for_a_person_holds_the_same(here: Path) -> None:
    begun_run()
    text = invoke("status").output
    for words in ("no driver is working", "2 stages", "1 min 02 s", "120 of 300 steps", "32 of 48 images"):
        assert words in text
    assert max(len(line) for line in text.splitlines() if "train" in line) <= 80


def test_status_sees_the_driver_at_work(here: Path) -> None:
    with driver_lock(begun_run()):
        assert json.loads(invoke("status", "--json").output)["working"] is True


def test_status_tells_the_drift_alarms_of_the_last_labelled_round(here: Path) -> None:
    paths = begun_run()
    assert json.loads(invoke("status", "--json").output)["drift"] is None
    assert "drift in round" not in (text := invoke("status").output) and "drift alarm" not in text
    files.write_json(paths.drift(1), {"alarms": ["cort: none was [accepted]"]})
    assert json.loads(invoke("status", "--json").output)["drift"] == {
        "round": 1,
        "alarms": ["cort: none was [accepted]"],
    }
    assert "drift in round 1: cort: none was [accepted]" in invoke("status").output
    files.write_json(paths.drift(2), {"alarms": []})
    assert json.loads(invoke("status", "--json").output)["drift"] == {"round": 2, "alarms": []}
    text = invoke("status").output
    assert "no drift alarm in round 2" in text and "cort" not in text


def test_the_newest_run_is_the_one_worked_on_last(here: Path) -> None:
    first, second = begun_run("first"), begun_run("second")
    assert json.loads(invoke("status", "--json").output)["run"] == "second"
    later = time.time() + 5
    os.utime(first.events, (later, later))
    assert json.loads(invoke("status", "--json").output)["run"] == "first"
    assert json.loads(invoke("status", str(second.root), "--json").output)["run"] == "second"
    assert json.loads(invoke("status", "runs/second", "--json").output)["run"] == "second"


def test_an_unknown_run_names_those_there_are(here: Path) -> None:
    begun_run("alpha")
    done = invoke("leaderboard", "beta")
    assert "there are: alpha" in str(done.exception)


# --- leaderboard ------------------------------------------------------------------------------------


def row(round: int, model: str, test_map: float) -> Row:
    """A row whose figures are known."""
    interval = Interval(test_map, test_map - 0.04, test_map + 0.04)
    return Row(
        round=round,
        model=model,
        val_images=12,
        val_map=interval,
        test_images=18,
        test_map=interval,
        change_images=18 if round else 0,
        change=Interval(0.02, 0.005, 0.035) if round else None,
        vs_control=Interval(0.011, -0.004, 0.026) if (round, model) == (1, "unet-a") else None,
        confidence=0.95,
        test_class_map={"shsy5y": 0.31, "astro": None, "cort": 0.51},
        precision50=0.7,
        recall50=0.66,
        f1=0.68,
        mean_iou=0.74,
        coco_map=None,
        coco_map50=None,
        cutoffs="0.41",
        accepted=1204 * round,
        ignored=300 * round,
        rejected=411 * round,
        promoted=True,
        recommended=(round, model) == (1, "ensemble"),
        seconds=137.0,
    )


def judged_run() -> RunPaths:
    """A finished run of one round."""
    paths = begun_run()
    finish_first_round(paths, 1)
    rows = [row(n, model, 0.431 + 0.02 * n) for n in (0, 1) for model in ("unet-a", "ensemble")]
    leaderboard.write(paths.leaderboard, rows, "a sentence", "hash")
    return paths


def test_the_leaderboard_as_json_is_the_table(here: Path) -> None:
    paths = judged_run()
    found = json.loads(invoke("leaderboard", "--json").output)
    assert (found["run"], found["verdict"]) == ("demo", read_verdict(paths))
    assert [(r["round"], r["model"]) for r in found["rows"]] == [
        (0, "unet-a"),
        (0, "ensemble"),
        (1, "unet-a"),
        (1, "ensemble"),
    ]
    assert found["rows"][2]["test_map"] == pytest.approx(0.451)
    assert all(Path(path).is_file() for path in found["files"]) and len(found["files"]) == 3


@pytest.mark.parametrize(("width", "columns"), [(60, 5), (80, 6), (100, 6), (120, 8), (240, 20)])
def test_the_leaderboard_fits_the_terminal(here: Path, width: int, columns: int) -> None:
    stream = io.StringIO()
    paths = judged_run()
    tables.print_leaderboard(paths, Console(file=stream, width=width, highlight=False))
    lines = stream.getvalue().splitlines()
    rule = next(i for i, line in enumerate(lines) if "──" in line)
    head = " ".join(lines[lines.index("demo") : rule])
    header, _ = leaderboard.display_rows(leaderboard.read(paths.leaderboard))
    names = [leaderboard.column_name(name) for name in header]
    shown = [name for name in names if f" {name} " in f" {head} "]
    assert len(shown) >= columns and {"round", "model", "test mAP", "vs control"} <= set(shown)
    assert all(len(line.rstrip()) <= width for line in lines if not line.startswith("leaderboard.md"))
    said = " ".join(" ".join(lines).split())
    for name in set(names) - set(shown):
        assert name in said.partition("Not shown at this width:")[2]
    assert said.startswith(" ".join(read_verdict(paths).split())) and "n = 18" in head
    assert ".451 (.411, .491)" in said or width < 100
    assert ("+.011 (-.004, +.026)" in said) == (width >= 80)
    assert ("chosen on" in head) == ("val mAP" in shown)
    sentence = "val mAP: thresholds, promotion and rank were chosen on these images; it flatters."
    assert (sentence in said) == ("val mAP" in shown)


def test_columns_are_chosen_by_what_they_tell() -> None:
    header = ["rank", "round", "model", "val mAP (n = 9)", "test mAP"]
    cells = [["1", "0", "unet-a", "0.4 (0.3..0.5)", "0.5 (0.4..0.6)"]]
    everything, missing = tables.fit_columns(header, cells, 80)
    assert list(everything) == header and missing == []
    narrow, missing = tables.fit_columns(header, cells, 2 + 7 + 8 + 16 + 9)
    assert narrow == {"round": ["0"], "model": ["unet-a"], "val mAP (n = 9)": ["0.4"], "test mAP": ["0.5 (0.4..0.6)"]}
    assert missing == ["intervals of val mAP", "rank"]
    narrow, missing = tables.fit_columns(header, cells, 2 + 7 + 8 + 16)  # an interval comes before the next column
    assert list(narrow) == ["round", "model", "test mAP"] and missing == ["val mAP", "rank"]


def test_a_finished_call_names_the_commands_that_go_on(here: Path) -> None:
    config = load_config("demo").config
    paths = judged_run()
    assert [command for command, _ in next_steps(config, paths)] == [
        "cellsemi predict IMAGES --run demo --out DIR",
        "cellsemi report demo --open",
        "cellsemi init FOLDER",
    ]
    own = load_config("label-maps", ["data.root=x"]).config
    elsewhere = [command for command, _ in next_steps(own, RunPaths(here / "my runs" / "demo"))]
    assert elsewhere[0] == f"cellsemi predict IMAGES --run '{here}/my runs/demo' --out DIR"
    assert elsewhere[2] == f"cellsemi model export '{here}/my runs/demo' --out DIR"
    shown = cellsemi("round", "--n", "1", cwd=here).stdout
    assert shown.startswith("Use the ensemble of round 1 (cellsemi predict IMAGES --run demo --out DIR). ")
    assert [line.split("   #")[0].strip() for line in shown.splitlines()[-3:]] == [
        command for command, _ in next_steps(config, paths)
    ]


def test_no_leaderboard_yet_is_said(here: Path) -> None:
    paths = begun_run()
    done = invoke("leaderboard")
    assert isinstance(done.exception, RunError) and "though round 0 is finished" in str(done.exception)
    paths.round_manifest(0).unlink()
    done = invoke("leaderboard")
    assert isinstance(done.exception, RunError) and "no leaderboard yet" in str(done.exception)


def test_a_finished_run_is_left_alone(here: Path) -> None:
    paths = judged_run()
    before = {path: path.stat().st_mtime_ns for path in paths.root.rglob("*") if path.is_file()}
    done = cellsemi("round", "--n", "1", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "config: the built-in preset 'demo'" in done.stderr and f"run:    {paths.root}" in done.stderr
    assert "Nothing to do: round 1 is done." in done.stderr
    assert "+.011 (-.004, +.026)" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in paths.root.rglob("*") if path.is_file()}
    changed = {path.name for path in {*before, *after} if before.get(path) != after.get(path)}
    assert changed <= {"run.lock", "run.log", "told.json"}
    quiet = cellsemi("round", "--n", "1", "--json", cwd=here)
    assert json.loads(quiet.stdout)["run"] == "demo" and quiet.stderr == ""


def test_another_config_for_the_same_run_is_refused(here: Path) -> None:
    judged_run()
    done = cellsemi("round", "--n", "1", "--set", "training.steps=7", cwd=here)
    assert done.returncode == 2
    steps = load_config("demo").config.training.steps
    assert f"training.steps: {steps} -> 7" in done.stderr and "--run demo-2" in done.stderr


# --- doctor and flows -------------------------------------------------------------------------------


def test_the_doctors_exit_code_is_its_judgement(here: Path) -> None:
    done = invoke("doctor", "--json")
    report = json.loads(done.output)
    assert done.exit_code == (0 if report["healthy"] else 1)
    assert {"torch", "ray", "detectron2"} <= {package["name"] for package in report["packages"]}


def disc(y: int, x: int, radius: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:64, :64]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def shard_of(folder: Path, state: str) -> None:
    """One image with two round cells of human or other origin, and one image without cells."""
    labels = disc(20, 20, 9) + 2 * disc(45, 40, 12)
    cells = masks.from_label_map(labels.astype(np.int32), state=state)
    records = [
        schemas.ImageRecord("a", 64, 64, "val", cell_type="cort", instances=cells),
        schemas.ImageRecord("b", 64, 64, "val", cell_type="cort", instances=cells.empty(64, 64)),
    ]
    shards.write_shard(folder / shards.part_name(0), records, "hash")


def test_round_cells_come_back_whole_from_both_targets(here: Path) -> None:
    shard_of(here / "val", "human")
    done = invoke("flows", "val", "--json")
    assert done.exit_code == 0, done.output
    found = {(r["class_name"], r["target"]): r for r in json.loads(done.output)}
    assert set(found) == {("cort", "diffusion"), ("cort", "geodesic")}
    for result in found.values():
        assert (result["images"], result["cells"], result["at_50"], result["at_90"]) == (2, 2, 2, 2)
    assert "cort" in invoke("flows", "val").output


def test_only_human_cells_are_ground_truth(here: Path) -> None:
    shard_of(here / "pseudo", "accepted")
    done = invoke("flows", "pseudo")
    assert isinstance(done.exception, UsageError) and "no human-labelled cells" in str(done.exception)
    (here / "empty").mkdir()
    assert "no image shards" in str(invoke("flows", "empty").exception)


def test_the_flow_check_reads_a_data_set_and_not_its_test_images(here: Path) -> None:
    counts = {"labelled": 3, "val": 1, "test": 1, "unlabelled": 0, "height_px": 96, "width_px": 96}
    sizes = [f"data.generated.{name}={n}" for name, n in counts.items()]
    settings = [word for size in sizes for word in ("--set", size)]
    done = invoke("flows", "--config", "demo", *settings, "--json")
    assert done.exit_code == 0, done.output
    found = [r for r in json.loads(done.output) if r["target"] == "geodesic"]
    assert sum(r["images"] for r in found) == 3 + 1
    assert {r["class_name"] for r in found} == {"shsy5y", "astro", "cort"}
    assert all(r["cells"] > 0 and r["at_50"] / r["cells"] > 0.8 for r in found)
    assert list(here.iterdir()) == []


def test_a_limit_spreads_over_the_whole_data_set() -> None:
    records = [schemas.ImageRecord(str(i), 1, 1, "val") for i in range(10)]
    assert [r.image_id for r in spread(records, 4)] == ["0", "3", "6", "9"]
    assert [r.image_id for r in spread(records, 1)] == ["0"]
    assert list(spread(records, None)) == list(spread(records, 99)) == records
