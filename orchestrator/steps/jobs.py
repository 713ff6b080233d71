"""Defines the jobs that travel to workers: predict a shard, fuse a shard, train a student.

Each job is plain values; `start` runs once in the worker's process, `run` does one item, writes its
files atomically under a name that depends only on the item, and returns a small commit record.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cellsemi.configs.errors import ModelError
from cellsemi.configs.rounds import FusionConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitResult, FitTask, Image, Progress
from cellsemi.models.inference import less_memory
from cellsemi.models.inference.pipeline import Source, predict_stream
from cellsemi.models.inference.scale_search import ScaleSearch
from cellsemi.models.model_files import progress_mark, write_progress
from cellsemi.models.ranks import fit_on_ranks
from cellsemi.models.registry import family, load_predictor
from cellsemi.models.training.device import pick_device
from cellsemi.models.validation.choose_probabilities import OnValidation, choose
from cellsemi.models.validation.find_steps import Search, fit_until_it_stops
from cellsemi.orchestrator.engine.protocol import Record, Worker
from cellsemi.rounds import pulse
from cellsemi.rounds.calibration.calibration import Calibration
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.background import sure_background
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import Commit, read_commit, shard_fingerprint, write_commit
from cellsemi.rounds.store.schemas import ImageRecord

BEAT_S = 5.0  # between two signs of progress that are no steps
DECODED_MB = 256  # of images that a worker keeps decoded for the next model of a pass


@dataclass(frozen=True, slots=True)
class ShardStage:
    """What every stage over shards shares: where it reads and writes, and what its outputs depend on.

    A shard depends on `of_all`, which is the same for all of them, and on the shard of the same number in each folder
    of `made_from`. So it can be made before all shards of these are there.
    """

    source: str  # folder of image shards
    out: str
    of_all: str
    made_from: tuple[str, ...]
    config_hash: str

    def records(self, item: int) -> Iterator[ImageRecord]:
        """The images of shard `item`."""
        return shards.read_shard(files.place(self.source) / shards.part_name(item))

    def fingerprint(self, item: int) -> str:
        """What shard `item` is made from, as it is now; RunError when that is not there."""
        return shard_fingerprint(self.of_all, [files.place(folder) for folder in self.made_from], item)

    def is_done(self, item: int) -> bool:
        """Whether shard `item` is committed and made from what is there now."""
        return read_commit(files.place(self.out), item, self.fingerprint(item)) is not None

    def commit(self, item: int, records: list[ImageRecord], **more: Any) -> Record:
        """Write the shard, then its commit, to which `more` is added (see `manifest.CommittedShard`)."""
        out = files.place(self.out)
        written = shards.write_shard(out / shards.part_name(item), records, self.config_hash)
        commit = Commit(item=item, fingerprint=self.fingerprint(item), **written.model_dump(), **more)
        write_commit(out, commit)
        return commit.model_dump()


@dataclass(frozen=True, slots=True)
class PredictJob:
    """Predicts every image of a folder of shards with one model.

    With `stated_classes`, the names of all classes, the cells of an image get the class that the data set states for
    it, as file names do, in the place of the class that the model predicts. With `leave_out_broken` an image for which
    the model's output was not finite stays in the table without cells, as not predicted: what lies in the broken part
    must not become background. `threads` work beside the network (pipeline.predict_stream).
    """

    stage: ShardStage
    model: str
    inference: InferenceConfig
    device: str
    max_pixels: int
    round: int
    scale: float  # images are enlarged so many times; masks are of their own size
    name: str
    threads: int | Literal["auto"] = 0
    stated_classes: tuple[str, ...] = ()
    leave_out_broken: bool = False
    uses_device: bool = True

    def start(self) -> Worker:
        """Load the teacher, once."""
        return self.start_with(None)

    def start_with(self, decoded: DecodedImages | None) -> Worker:
        """The same; images that other models decode as well are decoded once."""
        return _Predictor(self, decoded)


def _threads_here(device: str) -> int:
    """The threads that suit a worker: beside a GPU as many as the CPUs that it reserved, else none."""
    if pick_device(device).type == "cpu":
        return 0
    return int(os.environ.get("OMP_NUM_THREADS", "1"))  # what Ray reserved; see job_actor


class DecodedImages:
    """The images of one shard, decoded once for several models, up to DECODED_MB; threads may ask at the same time."""

    def __init__(self) -> None:
        self._of: tuple[str, int] | None = None
        self._images: dict[int, Image] = {}
        self._bytes = 0

    def of_shard(self, source: str, item: int) -> None:
        """From now on the rows are those of this shard."""
        if self._of != (source, item):
            self._of, self._images, self._bytes = (source, item), {}, 0

    def get(self, row: int, decode: Callable[[], Image]) -> Image:
        """The image of a row; nobody writes into it."""
        found = self._images.get(row)
        if found is None:
            found = decode()
            if self._bytes + found.nbytes <= DECODED_MB << 20:
                self._bytes += found.nbytes
                self._images[row] = found
        return found


class _Predictor:
    def __init__(self, job: PredictJob, decoded: DecodedImages | None) -> None:
        self._job, self._decoded = job, decoded
        self._predictor = load_predictor(files.place(job.model), job.inference, job.device)
        self._threads = job.threads if job.threads != "auto" else _threads_here(job.device)

    def run(self, item: int) -> Record:
        job = self._job
        out = []
        if self._decoded is not None:
            self._decoded.of_shard(job.stage.source, item)
        sources = (self._source(row, record) for row, record in enumerate(job.stage.records(item)))
        for found in predict_stream(
            self._predictor, sources, job.scale, 0 if less_memory.halvings() else self._threads
        ):
            record, cells = found.item, found.cells
            if job.leave_out_broken and found.broken:
                out.append(record.with_(instances=None))
                continue
            if job.stated_classes and record.cell_type is not None:
                cells = cells.with_(class_id=job.stated_classes.index(record.cell_type))
            out.append(record.with_(instances=cells.with_(round=job.round)))
        warnings = dict(self._predictor.warnings)
        if less := less_memory.words():
            warnings[less] = len(out)
        self._predictor.warnings.clear()
        scales: Counter[str] = Counter()
        inverted: Counter[str] = Counter()
        if isinstance(self._predictor, ScaleSearch):
            for (scale, polarity), count in sorted(self._predictor.chosen.items()):
                scales[f"{scale:g}"] += count
                if polarity == "inverted":
                    inverted[f"{scale:g}"] += count
            self._predictor.chosen.clear()
        return job.stage.commit(item, out, warnings=warnings, scales=dict(scales), inverted=dict(inverted))

    def _source(self, row: int, record: ImageRecord) -> Source[ImageRecord]:
        """What the row says besides its image, and what decodes the image."""
        assert record.image is not None
        decode: Callable[[], Image] = partial(decode_image, record.image, record.image_id, self._job.max_pixels)
        if self._decoded is not None:
            decode = partial(self._decoded.get, row, decode)
        return Source(record.with_(image=None), record.image_id, decode)


@dataclass(frozen=True, slots=True)
class Member:
    """One model of an ensemble: the folder of its predictions, and the calibration of its scores, if any."""

    name: str
    folder: str
    calibration: dict[str, object] | None  # Calibration.to_json()


@dataclass(frozen=True, slots=True)
class FuseJob:
    """Fuses the masks of several models on the same images into one set.

    With a `background_dilation_px` the set says where all of them are sure that there is nothing (`sure_background`).
    """

    stage: ShardStage
    members: tuple[Member, ...]
    fusion: FusionConfig
    classes: tuple[str, ...]
    one_class_per_image: bool
    background_dilation_px: int | None
    name: str
    uses_device: bool = False

    def start(self) -> Worker:
        """Read the calibrations, once."""
        return _Fuser(self)


class _Fuser:
    def __init__(self, job: FuseJob) -> None:
        self._job = job
        self._calibrations = {
            member.name: Calibration.from_json(member.calibration, job.classes)
            for member in job.members
            if member.calibration is not None
        }

        self._recalls = {name: found.recalls for name, found in self._calibrations.items()}

    def run(self, item: int) -> Record:
        """Fuse shard `item`. A teacher that lacks an image has no say there; fewer than `min_votes` cannot judge it."""
        job = self._job
        readers = [shards.read_shard(files.place(member.folder) / shards.part_name(item)) for member in job.members]
        out = []
        for rows in zip(*readers, strict=True):
            if len({row.image_id for row in rows}) != 1:
                raise AssertionError(f"{job.name}: prediction shards {item} do not hold the same images")
            each = {member.name: self._calibrated(member, row) for member, row in zip(job.members, rows, strict=True)}
            cells = {name: found for name, found in each.items() if found is not None}
            enough = len(cells) >= (job.fusion.min_votes if len(job.members) > 1 else 1)
            out.append(rows[0].with_(instances=self._fused(cells) if enough else None))
        return job.stage.commit(item, out)

    def _fused(self, cells: Mapping[str, Instances]) -> Instances:
        job = self._job
        fused = fuse(cells, job.fusion, job.one_class_per_image, self._recalls)
        if job.background_dilation_px is None:
            return fused
        return fused.with_(background=sure_background(cells, job.background_dilation_px))

    def _calibrated(self, member: Member, row: ImageRecord) -> Instances | None:
        """The cells that a member predicted, with calibrated scores."""
        cells = row.instances
        if cells is None:
            return None
        found = self._calibrations.get(member.name)
        return cells if found is None else found.as_scores(cells)


def _made(task: FitTask, progress: Progress) -> FitResult:
    """Train the model of a task, or take it as it is; ModelError when its family has nothing to take."""
    found = family(task.model.kind)
    if task.model.trains:
        return fit_on_ranks(found.fit, task, progress)
    if found.take is None:
        raise ModelError(f"{task.model.name}: a {task.model.kind} has no weights to teach with as they are")
    return found.take(task)


class _ShownProgress:
    """Writes how far a fit is; between its steps, as on validation images, it writes now and then that it gets on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: tuple[int, int] | None = None
        self._written_s = 0.0

    def __call__(self, step: int, steps: int) -> None:
        self._last = (step, steps)
        self._write()

    def beat(self) -> None:
        """The fit gets on; nothing is written before its first step."""
        if self._last is not None and time.monotonic() - self._written_s >= BEAT_S:
            self._write()

    def _write(self) -> None:
        assert self._last is not None
        write_progress(self._folder, *self._last)
        self._written_s = time.monotonic()


@dataclass(frozen=True, slots=True)
class FitJob:
    """Train students: item i is task i.

    Of its model, `choices` i is what is chosen afterwards, if anything, and `searches` i is there when the fit has to
    find its steps.
    """

    tasks: tuple[FitTask, ...]
    choices: tuple[OnValidation | None, ...]
    searches: tuple[Search | None, ...]
    name: str
    uses_device: bool = True

    def start(self) -> Worker:
        """Nothing to load: a student starts from scratch, or from its own checkpoint."""
        return self

    def progress(self, item: int) -> object | None:
        """What the student has written of its progress, on the storage of the run."""
        return progress_mark(files.place(self.tasks[item].out_dir))

    def run(self, item: int) -> Record:
        """Train one student to its end."""
        task, choice, search = self.tasks[item], self.choices[item], self.searches[item]
        folder = files.place(task.out_dir)
        started = time.monotonic()
        if less_memory.halvings():  # the processes beside it hold images; without them it learns from the same bits
            task = replace(task, input_processes=0)
        found, progress = None, _ShownProgress(folder)
        with pulse.heard_by(progress.beat):
            if search is None:
                result = _made(task, progress)
            else:
                result, found = fit_until_it_stops(
                    partial(fit_on_ranks, family(task.model.kind).fit), task, search, progress
                )
            record: Record = {**asdict(result), "found_steps": found}
            if choice is not None:
                record |= asdict(choose(choice, folder))
        return {**record, "seconds": round(time.monotonic() - started, 2)}
