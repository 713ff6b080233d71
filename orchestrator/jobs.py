"""The work that travels to workers: predict a shard, label a shard, train a student.

Each job is plain values; `start` runs once in the worker's process, `run` does one item, writes its
files atomically under a name that depends only on the item, and returns a small commit record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellsemi.configs.schema import FusionConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import PROGRESS_FILE, FitTask, family, load_predictor
from cellsemi.orchestrator.engine import Worker
from cellsemi.rounds import files, run, shards
from cellsemi.rounds.fuse import fuse
from cellsemi.rounds.images import decode_image
from cellsemi.rounds.tables import ImageRecord


@dataclass(frozen=True, slots=True)
class ShardStage:
    """What every stage over shards shares: where it reads and writes, and what its outputs depend on."""

    source: str  # folder of image shards
    out: str
    fingerprint: str
    config_hash: str

    def records(self, item: int) -> Iterator[ImageRecord]:
        """The images of shard `item`."""
        return shards.read_shard(Path(self.source) / shards.part_name(item))

    def commit(self, item: int, records: list[ImageRecord], **more: Any) -> dict[str, Any]:
        """Write the shard, then its commit record, to which `more` is added."""
        out = Path(self.out)
        written = shards.write_shard(out / shards.part_name(item), records, self.config_hash)
        return run.write_commit(out, item, self.fingerprint, {**written, **more})


@dataclass(frozen=True, slots=True)
class PredictJob:
    """One teacher looks at every image of a folder of shards."""

    stage: ShardStage
    model: str
    inference: InferenceConfig
    device: str
    max_pixels: int
    round: int
    name: str
    uses_device: bool = True

    def start(self) -> Worker:
        """Load the teacher, once."""
        return _Predictor(self)


class _Predictor:
    def __init__(self, job: PredictJob) -> None:
        self._job = job
        self._predictor = load_predictor(Path(job.model), job.inference, job.device)

    def run(self, item: int) -> dict[str, Any]:
        job = self._job
        out = []
        for record in job.stage.records(item):
            assert record.image is not None
            image = decode_image(record.image, record.image_id, job.max_pixels)
            (found,) = self._predictor.predict([image])
            out.append(record.with_(image=None, instances=found.with_(round=job.round)))
        told = dict(self._predictor.told)
        self._predictor.told.clear()
        return job.stage.commit(item, out, told=told)


@dataclass(frozen=True, slots=True)
class FuseJob:
    """The masks of several models on the same images become one set."""

    stage: ShardStage
    members: tuple[tuple[str, str], ...]  # (name, folder of predictions)
    fusion: FusionConfig
    one_class_per_image: bool
    name: str
    uses_device: bool = False

    def start(self) -> Worker:
        """Nothing to load."""
        return self

    def run(self, item: int) -> dict[str, Any]:
        """Fuse shard `item`."""
        names = [name for name, _ in self.members]
        readers = [shards.read_shard(Path(folder) / shards.part_name(item)) for _, folder in self.members]
        out = []
        for rows in zip(*readers, strict=True):
            if len({row.image_id for row in rows}) != 1:
                raise AssertionError(f"{self.name}: prediction shards {item} do not hold the same images")
            cells = {name: row.instances for name, row in zip(names, rows, strict=True) if row.instances is not None}
            fused = fuse(cells, self.fusion, self.one_class_per_image) if cells else None
            out.append(rows[0].with_(instances=fused))
        return self.stage.commit(item, out)


@dataclass(frozen=True, slots=True)
class FitJob:
    """Train students; item i is task i."""

    tasks: tuple[FitTask, ...]
    name: str
    uses_device: bool = True

    def start(self) -> Worker:
        """Nothing to load: a student starts from scratch, or from its own checkpoint."""
        return self

    def run(self, item: int) -> dict[str, Any]:
        """Train one student to its end."""
        task = self.tasks[item]
        folder = Path(task.out_dir)
        started = time.monotonic()

        def progress(step: int, steps: int) -> None:
            files.write_json(folder / PROGRESS_FILE, {"step": step, "steps": steps})

        result = family(task.model.kind).fit(task, progress)
        return {**asdict(result), "seconds": round(time.monotonic() - started, 2)}
