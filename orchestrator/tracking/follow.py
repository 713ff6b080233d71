"""Follows a run for trackers: what is new in its files is told to each of them, once.

The trainings need not know: they write their curves into files, wherever they run, and a thread of the driver reads
them now and then, so that no tracker makes the run wait. What each tracker was told stands in `tracking/told.json` of
the run, so that a call that goes on tells the rest, and a tracker that is added later is told everything.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from pydantic import Field

from cellsemi.configs.errors import Caught, UsageError, in_one_line
from cellsemi.configs.schema import Config, TrackerName, TrackingConfig
from cellsemi.orchestrator.tracking.points import Training, curve, live_points, scores, trainings
from cellsemi.orchestrator.tracking.protocol import Place, Point, Tracker
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import RunPaths

LOOK_EVERY_S = 5.0  # between two looks at the files
PATIENCE_S, IMPATIENCE_S = 60.0, 5.0  # at the end of a call, and of one that ends with an error
PACKAGES: Mapping[TrackerName, str] = {
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
assert tuple(PACKAGES) == get_args(TrackerName)


class Told(OnDisk):
    """What the trackers of a run were told: by tracker, of each finished training its curve, and which rounds."""

    run_id: str
    curves: dict[str, dict[str, str]] = Field(default_factory=dict)
    rounds: dict[str, list[int]] = Field(default_factory=dict)


def check_trackers(tracking: TrackingConfig) -> None:
    """UsageError, with what installs it, when the package of a tracker is missing."""
    for name in tracking.to:
        if find_spec(PACKAGES[name]) is None:
            raise UsageError(
                f"tracking: {name} needs the package {PACKAGES[name]!r}: pip install 'cellsemi[{name}]', or leave it "
                "out of `tracking`"
            )


def tracking_folder(paths: RunPaths) -> Path:
    """Where trackers write, and what they were told is noted: in the run, or beside the caller where it is in a bucket.

    They append to files, which objects do not allow.
    """
    return Path(f"tracking-{paths.name}").absolute() if isinstance(paths.root, ObjectPath) else paths.tracking


@contextlib.contextmanager
def followed(config: Config, paths: RunPaths, note: Callable[[str], None]) -> Iterator[None]:
    """Inside, the trackers of the config are told what is new in the run's files; at the end they are told the rest.

    UsageError as `check_trackers`. A tracker that fails is told nothing more in this call; `note` says so at the end.
    """
    if not config.tracking.to:
        yield
        return
    check_trackers(config.tracking)
    beside = _Beside(Follower(config, paths))
    beside.thread.start()
    patience_s = IMPATIENCE_S
    try:
        yield
        patience_s = PATIENCE_S
    finally:
        for sentence in beside.end(patience_s):
            note(sentence)


class _Beside:
    """A thread that looks now and then, until it is told to end."""

    def __init__(self, follower: Follower) -> None:
        self._follower, self._ending = follower, threading.Event()
        self.thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def _work(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            self._follower.look()
        self._follower.look(ended=True)
        self._follower.close()

    def end(self, patience_s: float) -> list[str]:
        """What went wrong, a sentence each; a tracker that is not done after so many seconds is left."""
        self._ending.set()
        self.thread.join(patience_s)
        slow = [f"tracking: not all is told after {patience_s:g} s; the next call tells the rest"]
        return [*self._follower.notes, *(slow if self.thread.is_alive() else [])]


class TrackerFailed(Exception):
    """A tracker raised an error, `why`."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class Follower:
    """Tells trackers what is new in the files of a run."""

    def __init__(
        self,
        config: Config,
        paths: RunPaths,
        open_tracker: Callable[[TrackerName, Place], Tracker] | None = None,
    ) -> None:
        self._config, self._paths = config, paths
        self._folder = tracking_folder(paths)
        self._open = open_tracker or opened
        self.notes: list[str] = []
        self._trackers: dict[TrackerName, Tracker] = {}
        self._failed: set[TrackerName] = set()
        self._shown: dict[tuple[TrackerName, str], int] = {}  # the last step of a training that is at work
        self._told: Told | None = None
        self._unread: Exception | None = None

    def look(self, ended: bool = False) -> None:
        """Tell every tracker what it was not told; of a round when the next is begun or the call has `ended`.

        The pictures of a round are drawn after its decision.
        What cannot be read now, since the run is just writing or removing it, is read by the next look.
        """
        self._unread = None
        for name in self._config.tracking.to:
            if name not in self._failed:
                with Caught() as caught:
                    self._tell(name, ended)
                if isinstance(caught.error, TrackerFailed):
                    self._give_up(name, caught.error.why)
                else:
                    self._unread = caught.error or self._unread

    def close(self) -> None:
        """End all trackers, and note what could not be read in the end."""
        for name, tracker in self._trackers.items():
            with Caught() as caught:
                tracker.close()
            self._give_up(name, caught.error)
        self._trackers.clear()
        if self._unread is not None:
            self.notes.append(f"tracking: files of the run could not be read ({in_one_line(self._unread)})")

    def _give_up(self, name: TrackerName, error: Exception | None) -> None:
        if error is not None and name not in self._failed:
            self._failed.add(name)
            self.notes.append(f"tracking: {name} failed and is told nothing more in this call ({in_one_line(error)})")

    def _tell(self, name: TrackerName, ended: bool) -> None:
        told = self._read_told()
        curves, rounds = told.curves.setdefault(name, {}), told.rounds.setdefault(name, [])
        for training in trainings(self._paths):
            self._tell_training(name, training, curves)
        for round in self._paths.finished_rounds():
            if round not in rounds and (ended or self._paths.round(round + 1).is_dir()):
                for point in scores(self._paths, round):
                    self._log(name, point)
                rounds.append(round)
                told.write(self._folder / "told.json")

    def _tell_training(self, name: TrackerName, training: Training, curves: dict[str, str]) -> None:
        key = (name, training.key)
        finished = training.finished
        if finished is None:
            points = live_points(training, self._shown.get(key, 0))
        elif curves.get(training.key) != finished:
            points = curve(training, self._shown.get(key, 0))
        else:
            return
        for point in points:
            self._log(name, point)
            self._shown[key] = max(self._shown.get(key, 0), point.at)
        if finished is not None:
            curves[training.key] = finished
            self._shown.pop(key, None)
            self._read_told().write(self._folder / "told.json")

    def _log(self, name: TrackerName, point: Point) -> None:
        place = self._place(name)
        with Caught() as caught:
            if name not in self._trackers:  # opened when there is something to tell: its package is imported now
                self._trackers[name] = self._open(name, place)
            self._trackers[name].log(point)
        if caught.error is not None:
            raise TrackerFailed(caught.error)

    def _place(self, name: TrackerName) -> Place:
        tracking = self._config.tracking
        return Place(
            run=self._paths.name,
            project=tracking.project,
            folder=self._folder / name,
            run_id=self._read_told().run_id,
            settings=_flat(self._config.model_dump(mode="json", exclude={"engine", "tracking"})),
            online=tracking.online,
            address=tracking.address,
        )

    def _read_told(self) -> Told:
        if self._told is None:
            path = self._folder / "told.json"
            self._told = Told.read(path) if path.is_file() else Told(run_id=uuid.uuid4().hex[:12])
            if not path.is_file():
                self._told.write(path)
        return self._told


def opened(name: TrackerName, place: Place) -> Tracker:
    """The tracker of a name, its package imported."""
    if name == "tensorboard":
        from cellsemi.orchestrator.tracking.tensorboard_files import TensorBoard

        return TensorBoard(place)
    if name == "trackio":
        from cellsemi.orchestrator.tracking.trackio_run import Trackio

        return Trackio(place)
    if name == "wandb":
        from cellsemi.orchestrator.tracking.wandb_run import WandB

        return WandB(place)
    from cellsemi.orchestrator.tracking.mlflow_run import MLflow

    return MLflow(place)


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Settings by their dotted names."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
