"""Predicts image files over an engine into a folder of shards, and goes on where an earlier call stopped.

FOLDER/made_by.json             the model that predicted; another one is refused
FOLDER/part-00000.parquet ..    a row per image, cells of every score, no pixels
FOLDER/_commits/                which images a shard holds, how each file looked, and why one could not be used
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cellsemi.configs.errors import ImageError, UsageError
from cellsemi.models.base import Image
from cellsemi.models.inference import less_memory
from cellsemi.orchestrator.apply.choose_model import ChosenModel
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.apply.images import ImageFile
from cellsemi.orchestrator.apply.known import KnownPredictions
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.orchestrator.engine.protocol import Engine, Failure, Record, Worker
from cellsemi.orchestrator.events import Watcher
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.image_record import read_image_file, record_of
from cellsemi.rounds.store.manifest import Commit, read_commits, write_commit
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.orientation import decode_oriented
from cellsemi.rounds.store.schemas import ImageRecord

MADE_BY = "made_by.json"
CHUNK = 16  # images of a shard, at most
CHUNKS = 8  # so many at least, where there are so many images
SPLIT = "applied"  # of the records: images that no run knows


class MadeBy(OnDisk):
    """The model that predicted the images of a folder."""

    fingerprint: str
    model: str


class FileState(BaseModel):
    """An image file as it was when it was predicted.

    `problem` says why it could not be; `known`: the run had predicted it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_id: str
    path: str
    size: int
    modified_ns: int
    problem: str | None = None
    known: bool = False


class FilesCommit(Commit):
    """The mark of a shard of predicted image files."""

    images: tuple[FileState, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """What the work runs on, and who watches it."""

    engine: Engine
    watcher: Watcher
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class PredictFilesJob:
    """Predicts chunks of image files; item i of the pool is `chunks[i]`."""

    model: TrainedModel
    chunks: dict[int, tuple[ImageFile, ...]]
    out: str
    fingerprint: str
    device: str
    known: tuple[str, ...]  # folders of predictions that the run made with this very model
    name: str = "predict images"
    uses_device: bool = True

    def start(self) -> Worker:
        """Load the members, once."""
        return _Worker(self)


class _Worker:
    def __init__(self, job: PredictFilesJob) -> None:
        self._job = job
        self._predictor = EnsemblePredictor(job.model, job.device)
        self._known = KnownPredictions(map(Path, job.known))

    def run(self, item: int) -> Record:
        """Predict the images of a chunk; one that cannot be read costs itself alone."""
        rows: list[ImageRecord] = []
        states: list[FileState] = []
        for image in self._job.chunks[item]:
            state = look_at(image)
            if state.problem is None:
                try:
                    record, known = self._predicted(image)
                    rows.append(record)
                    state = state.model_copy(update={"known": known})
                except ImageError as error:
                    state = state.model_copy(update={"problem": error.described})
            states.append(state)
        warnings = dict(self._predictor.warnings)
        if less := less_memory.words():
            warnings[less] = len(rows)
        self._predictor.clear_warnings()
        return commit(self._job, item, rows, states, warnings)

    def _predicted(self, image: ImageFile) -> tuple[ImageRecord, bool]:
        pixels = read_pixels(image.path, self._job.model.recipe.max_pixels)
        record = record_of(pixels, image.image_id, image.path, SPLIT)
        known = self._known.find(record.sha256)
        cells = self._predictor.predict([pixels])[0] if known is None else known
        return record.with_(instances=cells), known is not None


def commit(
    job: PredictFilesJob, item: int, rows: Sequence[ImageRecord], states: Sequence[FileState], warnings: dict[str, int]
) -> Record:
    """Write the shard of a chunk, then its commit."""
    out = files.place(job.out)
    written = shards.write_shard(out / shards.part_name(item), rows, job.fingerprint)
    done = FilesCommit(
        item=item, fingerprint=job.fingerprint, **written.model_dump(), warnings=warnings, images=tuple(states)
    )
    write_commit(out, done)
    return done.model_dump()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the row of an image lies: the name of a shard, and the row in it."""

    shard: str
    row: int


@dataclass(slots=True)
class Predicted:
    """What a call has: the predicted images and where their rows lie, those that cannot be used, and what was counted.

    `classes` are the names that the class ids of the cells count. `before` of the predicted images were done by an
    earlier call, `known` by the run itself.
    """

    folder: Path
    classes: tuple[str, ...]
    rows: dict[str, Place] = field(default_factory=dict)  # by image id
    quarantined: list[FileState] = field(default_factory=list)
    before: int = 0
    known: int = 0
    warnings: Counter[str] = field(default_factory=Counter)


def predict_files(chosen: ChosenModel, images: Sequence[ImageFile], out: Path, pool: Pool) -> Predicted:
    """Predict image files into `out`; those that an earlier call predicted, and that look the same, are kept.

    What the run of the model has predicted already is taken from there. An image that cannot be read, or that no worker
    survives, is quarantined and tried again by the next call. UsageError when another model predicted into `out`.
    """
    fingerprint = _claim(out, chosen.model)
    commits = read_commits(out, FilesCommit, lambda _: fingerprint)
    done = {(s.image_id, s.path, s.size, s.modified_ns) for c in commits.values() for s in c.images if not s.problem}
    todo = [image for image in images if _key(image) not in done]
    chunks = _chunks(todo, max(commits, default=-1) + 1)
    before = len(images) - len(todo)
    job = PredictFilesJob(chosen.model, chunks, str(out), fingerprint, pool.device, tuple(map(str, chosen.known)))

    def on_done(item: int, record: Record) -> None:
        commits[item] = FilesCommit.model_validate(record)
        pool.watcher.advance(before + sum(len(chunks[i]) for i in chunks if i in commits))

    if chunks:
        outcome = pool.engine.map(job, list(chunks), on_done, lambda: None, pool.watcher.incident)
        for failure in outcome.failed:
            commits[failure.item] = FilesCommit.model_validate(_give_up(job, failure))
    found = Predicted(out, chosen.model.recipe.classes, before=before)
    _gather(found, images, commits, [commits[item] for item in chunks])
    return found


def look_at(image: ImageFile) -> FileState:
    """How a file looks now, with the problem when it cannot be looked at."""
    try:
        found = Path(image.path).stat()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        return FileState(image_id=image.image_id, path=image.path, size=0, modified_ns=0, problem=problem)
    return FileState(image_id=image.image_id, path=image.path, size=found.st_size, modified_ns=found.st_mtime_ns)


def read_pixels(path: str, max_pixels: int) -> Image:
    """The pixels of an image file; ImageError when it cannot be read or decoded, or asks to be shown turned."""
    return decode_oriented(read_image_file(Path(path), path), path, max_pixels)[0]


def _claim(out: Path, model: TrainedModel) -> str:
    """Note the model in the folder; UsageError when another one is noted there, or foreign files lie there."""
    fingerprint, path = model.fingerprint, out / MADE_BY
    if path.is_file():
        found = MadeBy.read(path)
        if found.fingerprint != fingerprint:
            raise UsageError(
                f"{out}: predicted by {found.model}, not by {model.recipe.title} as it is now; name another --out"
            )
        return fingerprint
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out}: holds other files; name a new folder")
    MadeBy(fingerprint=fingerprint, model=model.recipe.title).write(path)
    return fingerprint


def _key(image: ImageFile) -> tuple[str, str, int, int]:
    state = look_at(image)
    return state.image_id, state.path, state.size, state.modified_ns


def _chunks(images: Sequence[ImageFile], first: int) -> dict[int, tuple[ImageFile, ...]]:
    size = max(1, min(CHUNK, len(images) // CHUNKS))
    starts = range(0, len(images), size)
    return {first + number: tuple(images[start : start + size]) for number, start in enumerate(starts)}


def _give_up(job: PredictFilesJob, failure: Failure) -> Record:
    states = [look_at(image).model_copy(update={"problem": failure.error}) for image in job.chunks[failure.item]]
    return commit(job, failure.item, [], states, {})


def _gather(
    found: Predicted, images: Sequence[ImageFile], commits: dict[int, FilesCommit], new: Sequence[FilesCommit]
) -> None:
    """Note where the rows of the images of this call lie; of an image that was predicted twice, the newest."""
    found.known = sum(state.known for each in new for state in each.images)
    newest: dict[tuple[str, str], Place | FileState] = {}  # a place, or the state of a file that cannot be used
    for item in sorted(commits):
        row = 0
        for state in commits[item].images:
            newest[state.image_id, state.path] = Place(commits[item].file, row) if state.problem is None else state
            row += state.problem is None
    for image in images:
        place = newest[image.image_id, image.path]
        if isinstance(place, Place):
            found.rows[image.image_id] = place
        else:
            found.quarantined.append(place)
    for each in new:
        found.warnings += Counter(each.warnings)
