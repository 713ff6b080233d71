"""Changed settings: what is kept, what is done again, and that the result is that of a fresh run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from helpers.campaigns import Notes, bring, config_at
from helpers.terminal import invoke

from cellsemi.configs.errors import DataError, EngineError, RunError, UsageError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator import campaign
from cellsemi.orchestrator.runs.plan import PlannedStep, accept_changes, adopt_steps, make_plan
from cellsemi.orchestrator.runs.report import collect
from cellsemi.orchestrator.runs.status import read_status
from cellsemi.orchestrator.steps.context import Context, do
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.run import RunPaths, open_run, read_config
from cellsemi.rounds.store.steps import Step, read_steps

pytestmark = pytest.mark.usefixtures("fake_models")
# The thresholds are chosen, so that filter.f_beta is read.
CHOSEN = ("filter.thresholds=auto", "filter.min_samples=1")


def rows(paths: RunPaths) -> dict[str, object]:
    """Every table of a run, row by row; the config hash in their metadata and times do not count."""
    found: dict[str, object] = {}
    for path in sorted(paths.root.rglob("*.parquet")):
        table = pq.read_table(path)
        listed = table.select([name for name in table.column_names if name != "seconds"]).to_pylist()
        found[str(path.relative_to(paths.root))] = repr(listed)
    return found


def everything(paths: RunPaths) -> dict[str, str]:
    files = (path for path in paths.root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed(root: Path, *settings: str, first: tuple[str, ...] = CHOSEN, n: int = 1) -> tuple[RunPaths, Config]:
    """A finished run, and its config with some settings changed."""
    paths, _ = bring(config_at(root, *first), n)
    return paths, config_at(root, *first, *settings)


def names(steps: tuple[PlannedStep, ...], state: str) -> set[str]:
    return {f"{step.round}: {step.name}" for step in steps if step.state == state}


def accepted(config: Config, paths: RunPaths, n: int) -> Notes:
    accept_changes(config, paths)
    return bring(config, n)[1]


def test_a_changed_filter_keeps_round_0_and_what_comes_out_is_a_fresh_run(tmp_path: Path) -> None:
    paths, config = changed(tmp_path, "filter.f_beta=2.0")
    plan = make_plan(config, 1)
    assert plan.changes == ("filter.f_beta: 0.5 -> 2.0",)
    assert {step.round for step in plan.steps if step.state == "redone"} == {1}
    assert {step.because for step in plan.steps if step.state == "redone"} == {"filter.f_beta: 0.5 -> 2.0"}
    kept = names(plan.steps, "kept")
    assert {"0: finish the round", "1: predict unlabelled with unet-a", "1: train control"} <= kept
    watcher = accepted(config, paths, 1)
    begun = {name.split(" of ")[0] for name in watcher.begun}
    assert "1: train unet-a, unet-b, control" in begun and "1: filter pseudo-labels" in begun
    assert not [name for name in watcher.begun if name.startswith("0:") or " unlabelled with" in name]
    fresh, _ = bring(config_at(tmp_path / "fresh", *CHOSEN, "filter.f_beta=2.0"), 1)
    assert rows(paths) == rows(fresh)
    assert make_plan(config, 1).changes == () and {step.state for step in make_plan(config, 1).steps} == {"kept"}


def test_a_changed_promotion_trains_nothing(tmp_path: Path) -> None:
    never = ("rounds.promotion.min_probability=1", "rounds.promotion.class_margin=0")
    paths, config = changed(tmp_path, *never, n=2)
    watcher = accepted(config, paths, 2)
    assert not [name for name in watcher.begun if "train " in name and name.startswith(("0:", "1:"))]
    fresh, _ = bring(config_at(tmp_path / "fresh", *CHOSEN, *never), 2)
    assert rows(fresh).items() <= rows(paths).items()  # predictions of teachers that teach no more are left over


def test_the_old_files_stay_until_the_round_is_finished(tmp_path: Path) -> None:
    paths, config = changed(tmp_path, "filter.f_beta=2.0")
    old = paths.filter(1).read_bytes()
    accept_changes(config, paths)
    assert (paths.superseded / paths.filter(1).relative_to(paths.root)).read_bytes() == old
    assert not paths.filter(1).exists() and paths.finished_rounds() == [0]
    bring(config, 1)
    assert not paths.superseded.exists() and paths.finished_rounds() == [0, 1]


@pytest.mark.parametrize("stop_at", [1, 5, 20, 45])
def test_a_change_that_is_broken_off_is_finished_by_the_next_call(tmp_path: Path, stop_at: int) -> None:
    paths, config = changed(tmp_path, "filter.f_beta=2.0")
    accept_changes(config, paths)
    with pytest.raises(KeyboardInterrupt):
        bring(config, 1, Notes(stop_at))
    bring(config, 1)
    fresh, _ = bring(config_at(tmp_path / "fresh", *CHOSEN, "filter.f_beta=2.0"), 1)
    assert rows(paths) == rows(fresh)


def test_a_model_more_is_trained_and_the_others_are_kept(tmp_path: Path) -> None:
    two = "models=[{kind: flow-unet, name: a}, {kind: flow-unet, name: b, seed_offset: 1}]"
    three = two.replace("]", ", {kind: flow-unet, name: c, seed_offset: 2}]")
    paths, config = changed(tmp_path, three, first=(*CHOSEN, two))
    stamp = (paths.model(0, "a") / "model.safetensors").stat().st_mtime_ns
    accepted(config, paths, 1)
    assert (paths.model(0, "a") / "model.safetensors").stat().st_mtime_ns == stamp
    fresh, _ = bring(config_at(tmp_path / "fresh", *CHOSEN, three), 1)
    assert rows(paths) == rows(fresh)


def test_folds_that_change_divide_anew(tmp_path: Path) -> None:
    paths, config = changed(tmp_path, "rounds.folds=3", first=(*CHOSEN, "rounds.folds=2"), n=0)
    accepted(config, paths, 0)
    fresh, _ = bring(config_at(tmp_path / "fresh", *CHOSEN, "rounds.folds=3"), 0)
    assert rows(paths) == rows(fresh)


def test_a_run_of_other_settings_is_refused_with_what_they_would_redo(tmp_path: Path) -> None:
    paths, config = changed(tmp_path, "filter.f_beta=2.0")
    with pytest.raises(UsageError, match=r"filter.f_beta: 0.5 -> 2.0(.|\n)*--accept-changes"):
        open_run(config)
    before = everything(paths)
    settings = [word for setting in _settings(tmp_path, "filter.f_beta=2.0") for word in ("--set", setting)]
    done = invoke("round", "--n", "1", "--config", "demo", "--engine", "inline", *settings)
    assert isinstance(done.exception, UsageError)
    assert "1: filter pseudo-labels" in str(done.exception).replace("round 1", "1")
    assert everything(paths) == before


def call(root: Path, *settings: str) -> Result:
    options = [word for setting in _settings(root, *settings) for word in ("--set", setting)]
    return invoke("round", "--n", "0", "--config", "demo", "--engine", "inline", *options)


def test_a_failed_first_call_does_not_refuse_the_corrected_one(tmp_path: Path) -> None:
    failed = call(tmp_path, f"data.label_issues={tmp_path / 'absent.csv'}", "filter.f_beta=2.0")
    assert isinstance(failed.exception, DataError)
    done = call(tmp_path)
    assert done.exit_code == 0, done.output
    paths = RunPaths(tmp_path / "demo")
    assert read_config(paths).filter == config_at(tmp_path, *CHOSEN).filter and paths.finished_rounds() == [0]
    assert isinstance(call(tmp_path, "training.batch=3").exception, UsageError)


def test_what_no_finished_work_was_made_with_changes_without_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that needs too much memory is tried again with a smaller batch: the images that were read are kept."""
    with monkeypatch.context() as patch:
        patch.setattr("helpers.fake_family.FakeFamily.fit", lambda *_: 1 / 0)
        assert isinstance(call(tmp_path, "training.batch=3").exception, EngineError)
    read = everything(RunPaths(tmp_path / "demo" / "data"))
    assert call(tmp_path, "training.batch=2").exit_code == 0
    assert read.items() <= everything(RunPaths(tmp_path / "demo" / "data")).items()


def test_a_dry_run_prints_the_plan_and_changes_nothing(tmp_path: Path) -> None:
    paths, _ = changed(tmp_path)
    before = everything(paths)
    settings = [word for setting in _settings(tmp_path, "filter.f_beta=2.0") for word in ("--set", setting)]
    call = ("round", "--n", "2", "--config", "demo", "--engine", "inline", "--dry-run", *settings)
    found = json.loads(invoke(*call, "--json").output)
    assert found["changes"] == ["filter.f_beta: 0.5 -> 2.0"]
    assert {step["state"] for step in found["steps"]} == {"kept", "to do", "redone"}
    text = invoke(*call).output
    assert "changed: filter.f_beta: 0.5 -> 2.0" in text and "Nothing was changed" in text
    assert everything(paths) == before


def test_a_dry_run_of_a_new_run_makes_no_folder(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    assert [step.line() for step in make_plan(config, 1).steps] == [
        "round 0: all its steps: to do",
        "round 1: all its steps: to do",
    ]
    assert not list(tmp_path.iterdir())


def _settings(root: Path, *more: str) -> list[str]:
    from helpers.campaigns import SMALL

    return [f"run.root={root}", *SMALL, *CHOSEN, *more]


def test_a_stage_that_is_added_shows_in_status_resume_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = campaign.check_drift

    def with_a_stage_more(context: Context, round: int) -> None:
        checked(context, round)
        out = context.paths.round(round) / "extra.json"
        inputs = (context.paths.pseudo(round),)
        step = Step(round, "count the stars", out, context.read("filter.f_beta"), inputs, total=7)
        do(context, step, lambda: files.write_json(out, {"stars": 7}))

    monkeypatch.setattr(campaign, "check_drift", with_a_stage_more)
    config = config_at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        bring(config, 1, Notes(stop_at=80))
    paths, watcher = bring(config, 1)
    assert [(s.state, s.done) for s in read_status(paths).stages if s.name == "count the stars"] == [("done", 7)]
    assert "count the stars" in [name for name, _, _ in collect(config, paths, 1).times]
    assert "1: count the stars" in {*watcher.begun, *watcher.skips}
    changed_config = config_at(tmp_path, "filter.f_beta=2.0")
    assert "1: count the stars" in names(make_plan(changed_config, 1).steps, "redone")


def test_another_run_takes_over_what_its_settings_do_not_change(tmp_path: Path) -> None:
    base, _ = bring(config_at(tmp_path, *CHOSEN), 1)
    other = config_at(tmp_path, *CHOSEN, "run.name=other", "filter.f_beta=2.0")
    paths = open_run(other)
    assert adopt_steps(base, paths, other) > 10
    weights = "model.safetensors"
    assert (paths.model(0, "unet-a") / weights).stat().st_ino == (base.model(0, "unet-a") / weights).stat().st_ino
    assert not paths.model(1, "unet-a").exists() and paths.model(1, "control").is_dir()
    before = everything(base)
    bring(other, 1)
    assert everything(base) == before
    fresh, _ = bring(config_at(tmp_path / "fresh", *CHOSEN, "filter.f_beta=2.0"), 1)
    assert rows(paths) == rows(fresh)


def test_a_table_of_label_issues_that_was_altered_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "label_issues.csv"
    base = config_at(tmp_path, *CHOSEN)
    bring(base, 0)
    image = next(shards.read_folder(open_run(base).split("labelled")))
    assert image.instances is not None
    box = ",".join(map(str, image.instances.bbox[0].tolist()))
    header = "image_id,split,kind,cell,x0,y0,x1,y1,rle\n"
    line = f"{image.image_id},labelled,not-found,0,{box},{image.instances.rle[0]}\n"
    table.write_text(header + line)
    config = config_at(tmp_path, *CHOSEN, "run.name=t", f"data.label_issues={table}")
    bring(config, 0)
    table.write_text(header)
    with pytest.raises(RunError, match=r"label_issues.csv was altered"):
        bring(config, 1)


def test_every_setting_is_read_by_a_step(tmp_path: Path) -> None:
    """A setting that no step reads could be changed in a finished run, and nothing would be done again."""
    paths, _ = bring(config_at(tmp_path, *CHOSEN, "unlabelled_inference.tta=[identity, flip_y]"), 1)
    read = {path for record in read_steps(paths) for path in record.settings}
    of_models = {path.partition("].")[2] for path in read if path.startswith("models[") and "]." in path}
    assert of_models == {"training", "inference", "unlabelled_inference"}
    assert {"models[]", "models[unet-a]", "models[unet-b]"} <= read
    dump = read_config(paths).model_dump(mode="json")
    not_part_of_a_run = {"run.name", "run.root"}  # and `engine` and `tracking`: they may change between two calls
    leaves = {
        f"{section}.{name}"
        for section in dump
        if section not in ("engine", "tracking", "models", *of_models)
        for name in dump[section]
    }
    covered = {leaf for leaf in leaves if leaf in read or leaf.partition(".")[0] in read}
    assert leaves - covered == not_part_of_a_run
