"""How far a run is, read from its folder alone: no driver is asked, so it may be dead or on another node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import config_hash
from cellsemi.models.base import PROGRESS_FILE
from cellsemi.orchestrator import judging
from cellsemi.orchestrator.progress import Event, read_events
from cellsemi.rounds import files, run
from cellsemi.rounds.promotion import Decision
from cellsemi.rounds.run import COMMITS, ENSEMBLE, MANIFEST, RunPaths

RUNS = Path("runs")
StageState = Literal["done", "begun"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a round that is done or begun; `done` and `total` count `unit`s, None where unknown."""

    round: int
    name: str
    state: StageState
    done: int | None
    total: int | None
    unit: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """What `cellsemi status` says. `teachers` are those of the next round, "" while there are none."""

    run: str
    folder: str
    config_hash: str
    finished_rounds: tuple[int, ...]
    working: bool
    stages: tuple[Stage, ...]
    teachers: str
    decisions: tuple[str, ...]
    quarantined: int | None
    last_event: Event | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def find_run(name: str | None) -> RunPaths:
    """The run of a name below ./runs or of a folder; None means the one worked on last.

    UsageError, naming what there is, when there is no such run.
    """
    if name is None:
        runs = known_runs()
        if not runs:
            raise UsageError(f"no run below ./{RUNS}; `cellsemi round --n 3` starts one, or name a run's folder")
        return runs[0]
    for folder in (RUNS / name, Path(name)):
        paths = RunPaths(folder.resolve())
        if paths.config.is_file():
            return paths
    names = ", ".join(sorted(paths.name for paths in known_runs())) or "none"
    raise UsageError(f"no run is called {name!r} and no folder {name} holds one; below ./{RUNS} there are: {names}")


def known_runs() -> list[RunPaths]:
    """The runs below ./runs, the one worked on last first."""
    folders = sorted(RUNS.iterdir()) if RUNS.is_dir() else []
    runs = [RunPaths(folder.resolve()) for folder in folders]
    return sorted((paths for paths in runs if paths.config.is_file()), key=_last_change, reverse=True)


def _last_change(paths: RunPaths) -> float:
    return max(path.stat().st_mtime for path in (paths.config, paths.events) if path.is_file())


def read_status(paths: RunPaths) -> Status:
    """Everything that the run's folder says; RunError when it is damaged."""
    config = run.read_config(paths)
    decisions = judging.decisions(judging.read_manifests(paths))
    last = None
    for last in read_events(paths.events):  # noqa: B007 - the last one is what is asked for
        pass
    return Status(
        run=paths.name,
        folder=str(paths.root),
        config_hash=config_hash(config),
        finished_rounds=tuple(paths.finished_rounds()),
        working=run.is_locked(paths),
        stages=tuple(stages(paths)),
        teachers=_teachers(paths, decisions),
        decisions=tuple(f"round {round}: {made.reason}" for round, made in decisions.items()),
        quarantined=_quarantined(paths),
        last_event=last,
    )


def stages(paths: RunPaths) -> Iterator[Stage]:
    """Every stage that left something on disk, in the order of the work and with the names of the events.

    What teachers said of the unlabelled images lies in their own folder, but is work of the round after.
    """
    for split in run.SPLITS:
        yield from _shard_stage(0, f"read {split}", paths.split(split), None)
    for folder in sorted(paths.root.glob("round-*")):
        round = int(folder.name.removeprefix("round-"))
        unlabelled = _rows(paths.split("unlabelled"))
        yield from _predictions(paths, round, round - 1, "unlabelled")
        yield from _shard_stage(round, "screen pseudo-labels", paths.pseudo(round), unlabelled)
        yield from _shard_stage(round, "build the training set", paths.train(round), None)
        for model in _models(paths, round):
            yield from _training(round, model, paths.model(round, model))
        for split in ("val", "test"):
            yield from _predictions(paths, round, round, split)


def _models(paths: RunPaths, round: int) -> list[str]:
    """The models of a round by name, the ensemble last: it is made of the others."""
    folder = paths.round(round) / "students"
    return sorted((path.name for path in folder.glob("*")), key=lambda name: (name == ENSEMBLE, name))


def _predictions(paths: RunPaths, round: int, model_round: int, split: str) -> Iterator[Stage]:
    for model in _models(paths, model_round) if model_round >= 0 else []:
        name = f"fuse {split}" if model == ENSEMBLE else f"predict {split} with {model}"
        yield from _shard_stage(round, name, paths.predictions(model_round, model, split), _rows(paths.split(split)))


def _shard_stage(round: int, name: str, folder: Path, total: int | None) -> Iterator[Stage]:
    if (folder / MANIFEST).is_file():
        manifest = run.read_manifest(folder)
        rows = manifest.get("rows")
        yield Stage(round, name, "done", rows, rows, "images", manifest["seconds"])
    elif commits := list((folder / COMMITS).glob("*.json")):
        done = sum(files.read_json(path)["rows"] for path in commits)
        yield Stage(round, name, "begun", done, total, "images", None)


def _training(round: int, model: str, folder: Path) -> Iterator[Stage]:
    name = f"train {model}"
    if (folder / MANIFEST).is_file():
        manifest = run.read_manifest(folder)
        steps = manifest.get("steps")
        yield Stage(round, name, "done", steps, steps, "steps", manifest["seconds"])
    elif (folder / PROGRESS_FILE).is_file():
        progress = files.read_json(folder / PROGRESS_FILE)
        yield Stage(round, name, "begun", progress["step"], progress["steps"], "steps", None)


def _rows(folder: Path) -> int | None:
    return run.read_manifest(folder)["rows"] if (folder / MANIFEST).is_file() else None


def _teachers(paths: RunPaths, decisions: Mapping[int, Decision]) -> str:
    """The models that teach the next round, once there are any."""
    if not decisions:
        return ""
    teachers = judging.standing(paths)
    return f"{', '.join(teachers.names)} of round {teachers.round}"


def _quarantined(paths: RunPaths) -> int | None:
    if not paths.quarantine.is_file():
        return None
    import pyarrow.parquet as pq

    return int(pq.read_metadata(paths.quarantine).num_rows)
