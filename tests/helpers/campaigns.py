"""Small campaigns in-process for tests: a config, a watcher that remembers, and what a run left on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.campaign import run_campaign
from cellsemi.orchestrator.engine.inline import InlineEngine
from cellsemi.orchestrator.events import SilentWatcher
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store import run
from cellsemi.rounds.store.run import RunPaths

# The demo without what makes it long: two models in all rounds, one magnification, images predicted at one scale.
PLAIN = [
    "models=[{kind: flow-unet, name: unet-a}, "
    "{kind: flow-unet, name: unet-b, augment: {elastic: 0.3}, seed_offset: 1}]",
    "unlabelled_inference.scale_search=null",
    "rounds.promotion.class_margin=0.05",
    "rounds.promotion.unlabelled_sizes=true",
    "data.generated.magnifications=[1.0]",
    "data.generated.densities=[1.0, 1.0]",
]
SIZES = ("labelled=3", "unlabelled=5", "val=3", "test=3", "height_px=64", "width_px=80")
SMALL = [*PLAIN, *(f"data.generated.{size}" for size in SIZES)]
LIMITS = "{accept: 0.12, reject: 0.04, min_area_px: 4}"  # qualities of the stand-ins are low: few are right
SMALL += ["data.shard_images=2", "engine.min_free_mb=0", "rounds.promotion.bootstrap=100"]
SMALL += [f"filter.thresholds={{shsy5y: {LIMITS}, astro: {LIMITS}, cort: {LIMITS}}}"]


def config_at(root: Path, *settings: str) -> Config:
    return load_config("demo", [f"run.root={root}", *SMALL, *settings]).config


class Notes(SilentWatcher):
    """Keeps what the campaign says, and stops it at a chosen event."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events = 0
        self.stop_at = stop_at
        self.notes: list[str] = []
        self.begun: list[str] = []
        self.skips: list[str] = []

    def _event(self) -> None:
        self.events += 1
        if self.events == self.stop_at:
            raise KeyboardInterrupt

    def stage(self, round: int, name: str, total: int, unit: str) -> None:
        self.begun.append(f"{round}: {name}")
        self._event()

    def advance(self, done: int) -> None:
        self._event()

    def finish(self, seconds: float) -> None:
        self._event()

    def note(self, message: str) -> None:
        self.notes.append(message)

    def skipped(self, round: int, name: str) -> None:
        self.skips.append(f"{round}: {name}")


def bring(config: Config, n: int, watcher: Notes | None = None) -> tuple[RunPaths, Notes]:
    watcher = watcher or Notes()
    paths = run.open_run(config)
    with InlineEngine(config.engine) as engine:
        run_campaign(config, n, engine, paths, watcher)
    return paths, watcher


def tables(paths: RunPaths) -> dict[str, str]:
    """Hash of every table and model of a run, without what is a time."""
    found = {
        str(path.relative_to(paths.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in (
            "part-*.parquet",
            "evaluation.parquet",
            "model.safetensors",
            "filter.json",
            "calibration.json",
            "teachers.json",
            "drift.json",
            "members.json",
        )
        for path in paths.root.rglob(pattern)
    }
    rows = [{**row.to_json(), "seconds": 0} for row in leaderboard.read(paths.leaderboard)]
    return {**found, "leaderboard": json.dumps(rows)}
