"""A small finished run, and its images as files, for tests of what is done with a run."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import tifffile
from helpers.campaigns import bring, config_at

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.apply.predict_files import Pool
from cellsemi.orchestrator.engine.inline import InlineEngine
from cellsemi.orchestrator.events import SilentWatcher
from cellsemi.rounds.cells import masks
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord


def small_run(root: Path, n: int = 1, *settings: str) -> RunPaths:
    """A finished run of the stand-in models, a copy below `root`/runs; the caller has the fixture `fake_models`."""
    made = _made(n, settings)
    return RunPaths(Path(shutil.copytree(made, root / "runs" / made.name)))


@functools.cache
def _made(n: int, settings: tuple[str, ...]) -> Path:
    """Made once in a process: a second or two each."""
    root = Path(tempfile.mkdtemp(prefix="cellsemi-run-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return bring(config_at(root, "filter.min_samples=1", *settings), n)[0].root


def records(paths: RunPaths, split: str) -> list[ImageRecord]:
    """The images of a split of a run, with their labels."""
    return list(shards.read_folder(paths.split(split)))


def write_images(paths: RunPaths, split: str, folder: Path, name: str = "{}.png") -> list[Path]:
    """The images of a split as files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for record in records(paths, split):
        assert record.image is not None
        written.append(folder / name.format(record.image_id))
        written[-1].write_bytes(record.image)
    return written


def write_labels(paths: RunPaths, split: str, folder: Path) -> None:
    """The human labels of a split as ID_masks.tif."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in records(paths, split):
        assert record.instances is not None
        tifffile.imwrite(folder / f"{record.image_id}_masks.tif", masks.to_label_map(record.instances).astype("uint16"))


def inline_pool() -> Pool:
    """This process, without a watcher."""
    return Pool(InlineEngine(EngineConfig(kind="inline", max_attempts=2)), SilentWatcher(), "cpu")
