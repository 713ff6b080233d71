"""A run keeps the weights that its models start from: rounds do not mix starts, and other machines have the file."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from helpers import fake_family
from helpers.campaigns import Notes, bring, config_at
from helpers.model_folder import facts_of
from safetensors.torch import save

from cellsemi.configs.errors import ModelError, RunError
from cellsemi.configs.models import FlowUnetConfig, MaskRcnnConfig
from cellsemi.models import weight_files
from cellsemi.models.base import FitResult, FitTask, Progress
from cellsemi.models.model_files import StartWeights, read_weights, write_model_file
from cellsemi.orchestrator.runs.plan import accept_changes, adopt_steps
from cellsemi.rounds.evaluation.seen import SEEN_FILE, SeenImages, seen_by_starts
from cellsemi.rounds.store.kept_weights import KeptWeights, copy_files, read_kept
from cellsemi.rounds.store.run import RunPaths, open_run, read_config
from cellsemi.rounds.store.shards import read_columns
from cellsemi.rounds.store.steps import read_steps

pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weight_files.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[FitTask]:
    """The tasks that are fitted."""
    seen: list[FitTask] = []

    def fit(task: FitTask, progress: Progress) -> FitResult:
        seen.append(task)
        return fake_family.FakeFamily().fit(task, progress)

    monkeypatch.setattr(fake_family, "FAMILY", replace(fake_family.FAMILY, fit=fit))
    return seen


def file_of(path: Path, value: float) -> str:
    torch.save({"a": torch.full((3,), value)}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def named(value: str, *more: str) -> tuple[str, ...]:
    models = ", ".join(f"{{kind: flow-unet, name: {name}, weights: {value}}}" for name in ("unet", *more))
    return (f"models=[{models}]", "data.classes=[cell]", "filter.thresholds=auto")


def train_steps(paths: RunPaths) -> dict[tuple[int, str], object]:
    steps = (step for step in read_steps(paths) if step.name.startswith("train "))
    return {(step.round, step.name): step.parameters.get("weights_sha256") for step in steps}


def test_a_name_is_resolved_once_and_all_rounds_start_from_the_run_s_copy(home: Path, tasks: list[FitTask]) -> None:
    first = file_of(home / "a.pth", 1.0)
    weight_files.add(Path("a.pth"), "mine")
    config = config_at(home / "runs", *named("mine", "unet-b"))
    paths, watcher = bring(config, 0)
    kept = read_kept(paths)
    place = paths.root / kept["unet"].kept
    assert kept["unet"] == kept["unet-b"] and (kept["unet"].sha256, kept["unet"].source) == (first, str(home / "a.pth"))
    assert hashlib.sha256(place.read_bytes()).hexdigest() == first
    assert len(list(paths.weights.rglob("*.pth"))) == 1, "equal files are kept once"
    assert yaml.safe_load(paths.config.read_text())["weights"]["unet"]["sha256"] == first
    assert any(note.startswith(f"unet: mine is {home / 'a.pth'} (sha256 {first[:8]})") for note in watcher.notes)

    second = file_of(home / "b.pth", 2.0)
    weight_files.add(Path("b.pth"), "mine", replaces=True)
    paths, watcher = bring(config, 1)
    assert read_kept(paths) == kept and set(train_steps(paths).values()) == {first}
    assert {(task.weights, task.weights_sha256) for task in tasks} == {(str(place), first)}
    said = f"unet: mine now stands for {home / 'b.pth'} (sha256 {second[:8]}); the run goes on with its own copy in "
    assert any(note.startswith(said) for note in watcher.notes)
    assert read_config(paths) == config


def test_what_was_loaded_is_a_line_on_the_terminal_and_in_the_report(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(task: FitTask, progress: Progress) -> FitResult:
        result, folder = fake_family.FakeFamily().fit(task, progress), Path(task.out_dir)
        start = StartWeights(weights="a.pth", sha256=task.weights_sha256 or "", loaded=5, random=("head.bias",))
        write_model_file(folder, read_weights(folder), facts_of(task.model, task.classes).model_copy(
            update={"started_from": start, "teacher_sha256": task.teacher and "0" * 64}))  # fmt: skip
        return result

    monkeypatch.setattr(fake_family, "FAMILY", replace(fake_family.FAMILY, fit=fit))
    sha256 = file_of(home / "a.pth", 1.0)
    paths, watcher = bring(config_at(home / "runs", *named("a.pth")), 1)
    first = f"unet starts from a.pth (sha256 {sha256[:8]}): 5 tensors are loaded, 1 start anew (head)"
    later = f"unet starts from its teacher, which goes back to a.pth (sha256 {sha256[:8]})"
    assert first in watcher.notes and later in watcher.notes
    for round, line in ((0, first), (1, later)):
        assert f"- {line}.\n" in (paths.round(round) / "report.md").read_text()


def test_on_a_machine_without_the_file_the_copy_is_used(home: Path) -> None:
    file_of(home / "a.pth", 1.0)
    config = config_at(home / "runs", *named("a.pth"))
    bring(config, 0)
    (home / "a.pth").unlink()
    paths, watcher = bring(config, 1)
    assert len(paths.finished_rounds()) == 2
    assert any("unet: a.pth is no longer found (it was" in note for note in watcher.notes)


def test_a_lost_copy_is_made_anew_from_the_same_file_and_from_no_other(home: Path) -> None:
    file_of(home / "a.pth", 1.0)
    config = config_at(home / "runs", *named("a.pth"))
    paths, _ = bring(config, 0)
    shutil.rmtree(paths.weights)
    bring(config, 1)
    assert len(list(paths.weights.rglob("a.pth"))) == 1
    (kept,) = paths.weights.rglob("a.pth")
    kept.write_bytes(b"altered")
    file_of(home / "a.pth", 2.0)
    with pytest.raises(ModelError, match=r"unet: the run's copy cannot be used .*nor its source"):
        bring(config, 2)


def test_the_weights_are_part_of_what_a_fit_is_and_another_file_is_taken_when_it_is_stated(home: Path) -> None:
    first = file_of(home / "a.pth", 1.0)
    paths, _ = bring(config_at(home / "runs", *named("a.pth")), 0)
    second = file_of(home / "a.pth", 2.0)
    changed = config_at(home / "runs", named("a.pth")[0].replace("a.pth", f"a.pth, weights_sha256: {second}"),
                        *named("a.pth")[1:])  # fmt: skip
    assert "train unet" in [step.name for step in accept_changes(changed, paths)]
    assert read_kept(paths)["unet"].sha256 == first, "the settings that are written leave the table"
    bring(changed, 0)
    assert read_kept(paths)["unet"].sha256 == second and train_steps(paths) == {(0, "train unet"): second}


def test_an_ablation_s_runs_start_from_the_same_copy(home: Path) -> None:
    first = file_of(home / "a.pth", 1.0)
    source, _ = bring(config_at(home / "runs", *named("a.pth")), 0)
    file_of(home / "a.pth", 2.0)
    config = config_at(home / "runs", *named("a.pth"), "run.name=other", "fusion.iou=0.3")
    target = open_run(config)
    adopt_steps(source, target, config)
    bring(config, 1)
    assert read_kept(target)["unet"].sha256 == first and set(train_steps(target).values()) == {first}


def trained(folder: Path, model: FlowUnetConfig | MaskRcnnConfig, classes: tuple[str, ...] = ("cell",)) -> Path:
    write_model_file(folder / "members" / "m", save({"a": torch.zeros(2)}), facts_of(model, classes))
    return folder


def test_an_exported_folder_is_kept_whole(home: Path, tasks: list[FitTask]) -> None:
    folder = trained(home / "exported", FlowUnetConfig(name="u"))
    paths, _ = bring(config_at(home / "runs", *named("exported")), 0)
    kept = paths.root / read_kept(paths)["unet"].kept
    assert sorted(path.name for path in kept.iterdir()) == ["model.json", "model.safetensors"]
    assert read_kept(paths)["unet"].source == str(folder / "members" / "m") and tasks[0].weights == str(kept)
    assert (kept / "model.json").read_bytes() == (folder / "members" / "m" / "model.json").read_bytes()


@pytest.mark.parametrize(
    ("model", "classes", "problem"),
    [
        (FlowUnetConfig(name="u"), ("a", "b"), "its classes are a, b, the run's are cell"),
        (MaskRcnnConfig(name="u"), ("cell",), "a torchvision-maskrcnn, not a flow-unet"),
    ],
)
def test_what_cannot_be_the_start_is_refused_before_an_image_is_read(
    home: Path, model: FlowUnetConfig | MaskRcnnConfig, classes: tuple[str, ...], problem: str
) -> None:
    trained(home / "exported", model, classes)
    config, watcher = config_at(home / "runs", *named("exported")), Notes()
    with pytest.raises(ModelError, match=problem):
        bring(config, 0, watcher)
    assert watcher.begun == [] and not open_run(config).weights.exists()


def test_val_and_test_images_that_an_earlier_model_was_trained_on_are_counted(home: Path) -> None:
    plain = ("models=[{kind: flow-unet, name: unet}]", *named("x")[1:])
    first, _ = bring(config_at(home / "first", *plain), 0)
    weights = first.model(0, "unet")
    _, same = bring(config_at(home / "same", *named(f"'{weights}'")), 0)
    assert not any("was trained on" in note for note in same.notes), "the same images are val and test again"
    rows = [row for split in ("val", "test") for row in read_columns(first.split(split), ["sha256"])]
    kept = read_kept(open_run(config_at(home / "same", *named(f"'{weights}'"))))["unet"].kept
    paths = RunPaths(home / "same" / "demo")
    SeenImages(pixels={rows[0]["sha256"]: "labelled", rows[-1]["sha256"]: "val"}, groups={}).write(
        paths.root / kept / SEEN_FILE)  # fmt: skip
    (said,) = seen_by_starts(paths)
    assert said.startswith(f"unet starts from {weights}, which was trained on 1 of 3 val images and 0 of 3 test images")
    _, watcher = bring(config_at(home / "same", *named(f"'{weights}'")), 1)
    assert said in watcher.notes and f"- {said}" in (paths.round(1) / "report.md").read_text()


def test_a_file_that_changes_while_it_is_copied_is_refused(home: Path) -> None:
    file_of(home / "a.pth", 1.0)
    paths = RunPaths(home / "run")
    with pytest.raises(RunError, match="changed while it was copied"):
        copy_files(paths, [home / "a.pth"], {home / "a.pth": "0" * 64})
    assert not list(paths.weights.rglob("*.*"))


def test_a_damaged_table_is_said(home: Path) -> None:
    paths = RunPaths(home / "run")
    paths.root.mkdir()
    paths.config.write_text("weights: {unet: {sha256: 3}}\nconfig: {}\n")
    with pytest.raises(RunError, match=r"run\.yaml: damaged \(weights"):
        read_kept(paths)
    assert set(KeptWeights.model_fields) == {"weights", "source", "sha256", "bytes", "kept"}
