"""Names every path of a run, creates it and reads its config.

A stage is done when its folder holds `manifest.json` with the fingerprint of its inputs; the manifest is
written last. Work inside a stage leaves a commit per shard, so that a crash costs the shards in flight.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store import files
from cellsemi.rounds.store.unaltered import MANIFEST, RUN_FILE, round_folder

if TYPE_CHECKING:  # the functions that read a config import what that takes: a table of a run is printed without
    from cellsemi.configs.schema import Config

QUARANTINE_FILE = "quarantine.parquet"
KEPT_WEIGHTS = "weights"  # the key of run.yaml for what the `weights` of its models stand for
PRECISION = "precision"  # the key of run.yaml for what `training.precision: auto` came to
SHARD_WORKERS = "shard_workers"  # the key of run.yaml for how many workers `data.shard_images: auto` counted


SPLITS = ("labelled", "unlabelled", "val", "test")


ENSEMBLE = "ensemble"


CONTROL = "control"  # the first of a round; others, of other seeds, are control-2 and so on


def control_name(seed: int) -> str:
    """The name of the control of a seed, from 0 on."""
    return CONTROL if seed == 0 else f"{CONTROL}-{seed + 1}"


def is_control(model: str) -> bool:
    """Whether a model is a control, by its name."""
    return re.fullmatch(rf"{CONTROL}(-\d+)?", model) is not None


VERSIONED = (
    "cellsemi", "torch", "torchvision", "cellpose", "ray", "albumentations",
    "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "numba", "pycocotools",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Every path of a run; nothing else joins them."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / RUN_FILE

    @property
    def lock(self) -> Path:
        return self.root / "run.lock"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def hardware(self) -> Path:
        """There once the run has worked on GPUs."""
        return self.root / "hardware.json"

    @property
    def log(self) -> Path:
        return self.root / "run.log"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def quarantine(self) -> Path:
        return self.data / QUARANTINE_FILE

    @property
    def added(self) -> Path:
        """The human labels that the run was given after its start, a folder for each time."""
        return self.root / "added"

    @property
    def marks(self) -> Path:
        """What a person marked in the app and has not necessarily handed over: a file for each image."""
        return self.root / "marks"

    @property
    def tracking(self) -> Path:
        """What trackers of experiments were shown of the run: a folder for each, and what each has been shown."""
        return self.root / "tracking"

    def code(self, model: str) -> Path:
        """The run's copy of the module of a family of the user's own."""
        return self.root / "code" / model

    @property
    def weights(self) -> Path:
        """The run's copies of the weights that its models start from (kept_weights)."""
        return self.root / "weights"

    @property
    def data_version(self) -> Path:
        """The hashes of all files of the data set (`cellsemi data version --run`)."""
        return self.root / "data_version.sha256"

    @property
    def leaderboard(self) -> Path:
        """Without suffix: .parquet, .csv and .md stand beside each other."""
        return self.root / "leaderboard"

    @property
    def superseded(self) -> Path:
        """What changed settings made stale, until the round that makes it anew is finished."""
        return self.root / "superseded"

    def split(self, split: str) -> Path:
        return self.data / split

    def round(self, round: int) -> Path:
        return round_folder(self.root, round)

    def pseudo(self, round: int, fold: str = "") -> Path:
        """The filtered pseudo-labels; with folds, each has its own (`fold` is its suffix)."""
        return self.round(round) / f"pseudo{fold}"

    def filter(self, round: int) -> Path:
        """Calibration and thresholds that the round's pseudo-labels were made with."""
        return self.round(round) / "filter.json"

    def calibration(self, round: int) -> Path:
        """The calibration of the scores of each of the round's models, used before they are fused."""
        return self.round(round) / "calibration.json"

    def teachers_calibration(self, round: int) -> Path:
        """The same of the round's teachers, with the settings for unlabelled images."""
        return self.round(round) / "teachers.json"

    @property
    def sizes(self) -> Path:
        """The cell sizes of the unlabelled images beside the labelled ones, by the scales that round 0 chose."""
        return self.round(1) / "sizes.json"

    def drift(self, round: int) -> Path:
        """How the round's pseudo-labels compare with human labels and with the round before."""
        return self.round(round) / "drift.json"

    def members(self, round: int) -> Path:
        """The students that were chosen for the round's ensemble, where not all are taken."""
        return self.round(round) / "members.json"

    def train(self, round: int, fold: str = "") -> Path:
        """What the students of a round, or of one of its folds, learn from."""
        return self.round(round) / f"train{fold}"

    def human(self, round: int, fold: str = "") -> Path:
        """All human labels of a round, where some were added since the start; what its controls learn from."""
        return self.round(round) / f"human{fold}"

    def model(self, round: int, name: str) -> Path:
        """A trained model and all its predictions; `control` is one of them."""
        return self.round(round) / "students" / name

    def predictions(self, round: int, name: str, split: str) -> Path:
        return self.model(round, name) / "predictions" / split

    def evaluation(self, round: int) -> Path:
        return self.round(round) / "evaluation.parquet"

    def round_manifest(self, round: int) -> Path:
        return self.round(round) / MANIFEST

    def finished_rounds(self) -> list[int]:
        """Rounds whose manifest is written, from 0 on without a gap."""
        rounds: list[int] = []
        while self.round_manifest(len(rounds)).is_file():
            rounds.append(len(rounds))
        return rounds


# --- identity -----------------------------------------------------------------------------------------


def paths_of(config: Config) -> RunPaths:
    """Where the run of a config lies: below a folder, or an address (s3://, gs://); UsageError for any other."""
    root = files.place(config.run.root)
    if "://" in config.run.root and not isinstance(root, ObjectPath):
        raise UsageError(f"run.root {config.run.root}: runs live in a folder that all nodes see, at s3:// or at gs://")
    return RunPaths(root.resolve() / config.run.name)


def run_name(folder: str | Path) -> str:
    """A name for a run on the data of a folder: the folder's, without what a name may not hold.

    >>> run_name("plate 3 (new)")
    'plate-3-new'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", files.place(folder).resolve().name).strip("-._")[:64] or "cells"


def open_run(config: Config) -> RunPaths:
    """Create the run's folder and run.yaml, or check that an existing run can go on with this config.

    UsageError with the difference when it cannot; `engine`, `tracking` and `run.root` may change, and all settings
    while the run holds no work (`is_bound`).
    """
    from cellsemi.configs.loading import config_difference

    paths = paths_of(config)
    if not paths.config.is_file():
        write_config(paths, config)
    elif is_bound(paths) and (difference := config_difference(read_config(paths), config)):
        raise UsageError(
            f"{paths.root}: this run was made with another config:\n  "
            + "\n  ".join(difference)
            + "\nKeep the old settings to go on with it, see with --dry-run what the new ones would redo and take them "
            f"with --accept-changes, or give the new run a name: --run {paths.name}-2"
        )
    return paths


def is_bound(paths: RunPaths) -> bool:
    """Whether the run holds work: a step after the reading of the images was begun. Before, any config may take it."""
    return paths.round(0).is_dir()


def take_config(paths: RunPaths, config: Config) -> None:
    """Make this the config of the run, as `open_run` allows it; the caller holds the run's lock."""
    from cellsemi.configs.loading import config_difference

    open_run(config)
    if not is_bound(paths) and config_difference(read_config(paths), config):
        write_config(paths, config)


class AgreedPrecision(BaseModel):
    """What `training.precision: auto` came to, once for a run, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: Literal["float32", "bfloat16"]
    because: str


def write_config(paths: RunPaths, config: Config) -> None:
    """Write run.yaml: the resolved config, its hash, the versions; what else it holds stays in it."""
    from cellsemi.configs.loading import RUN_HASH, config_hash

    found = read_run_file(paths) if paths.config.is_file() else {}
    content = {
        RUN_HASH: config_hash(config),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        **{key: found[key] for key in (KEPT_WEIGHTS, PRECISION, SHARD_WORKERS) if key in found},
        "config": config.model_dump(mode="json"),
    }
    files.write_text(paths.config, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_config(paths: RunPaths) -> Config:
    """The resolved config of a run; RunError when run.yaml is missing or damaged."""
    from cellsemi.configs.loading import build_config

    return build_config(read_run_file(paths)["config"], str(paths.config))


def write_part(paths: RunPaths, key: str, value: Any) -> None:
    """Put a part beside the config into run.yaml: KEPT_WEIGHTS, PRECISION or SHARD_WORKERS."""
    content = read_run_file(paths)
    config = content.pop("config")
    text = yaml.safe_dump({**content, key: value, "config": config}, sort_keys=False, allow_unicode=True)
    files.write_text(paths.config, text)


def write_precision(paths: RunPaths, agreed: AgreedPrecision) -> None:
    """Add to run.yaml the precision that all fits of the run take."""
    write_part(paths, PRECISION, agreed.model_dump())


def read_precision(paths: RunPaths) -> AgreedPrecision | None:
    """The precision that all fits of a run take; None while none was agreed on. RunError as `read_config`."""
    found = read_run_file(paths).get(PRECISION)
    try:
        return None if found is None else AgreedPrecision.model_validate(found)
    except ValidationError as error:
        raise _damaged(paths, f"{PRECISION}: {error.errors()[0]['msg']}") from None


def write_shard_workers(paths: RunPaths, workers: int) -> None:
    """Add to run.yaml for how many workers the shards of the run are made."""
    write_part(paths, SHARD_WORKERS, workers)


def read_shard_workers(paths: RunPaths) -> int | None:
    """For how many workers the shards of a run are made; None while there are none. RunError as `read_config`."""
    found = read_run_file(paths).get(SHARD_WORKERS)
    if found is not None and (not isinstance(found, int) or found < 1):
        raise _damaged(paths, f"{SHARD_WORKERS}: expected a number of workers, got {found!r}")
    return found


def read_run_file(paths: RunPaths) -> dict[str, Any]:
    """What run.yaml holds, with a config, as plain values; RunError when it is missing or damaged."""
    try:
        content = yaml.safe_load(paths.config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if is_bound(paths):
            raise _damaged(paths, "it is gone") from None
        raise RunError(f"{paths.root}: not a run (no {paths.config.name})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(paths, " ".join(str(error).split())) from None
    if content is None:
        raise _damaged(paths, "it is empty, and no command leaves it so")
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise _damaged(paths, "it holds no config")
    return content


def _damaged(paths: RunPaths, how: str) -> RunError:
    return RunError(
        f"{paths.config}: altered after it was written ({how}). Put it back from a copy; or remove it and give the "
        f"config that the run was made with: cellsemi round --n N --config FILE --run {paths.name}. Steps that were "
        "made with its settings are kept (--dry-run shows which)"
    )


def versions() -> dict[str, str]:
    """Installed versions of what matters for a result."""
    found = {}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
