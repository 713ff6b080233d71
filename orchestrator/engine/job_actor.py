"""What runs in a process of Ray: one worker of one job at a time, and of the next job afterwards."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from dataclasses import dataclass

import ray

from cellsemi.models.training.stop import catch_sigterm
from cellsemi.orchestrator.engine.fault import Fault, attempt
from cellsemi.orchestrator.engine.metrics import Observe, item_metrics
from cellsemi.orchestrator.engine.protocol import Job, Record, Worker
from cellsemi.orchestrator.engine.ray_start import SHARED_HELP, Probe, address_here, folder_problem, node_name


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: Ray's id of the node, its address, and the number of the process there."""

    node: str
    address: str
    pid: int

    @property
    def name(self) -> str:
        """The node in messages."""
        return node_name(self.address, self.node)


@dataclass(frozen=True, slots=True)
class Done:
    """An item that is done: what the job returned, and the seconds that it took here."""

    record: Record
    seconds: float


class JobActor:
    """What a Ray actor runs.

    No large package is imported and no job is unpickled before `set_up` has prepared the process.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._observe: Observe | None = None

    def set_up(self, hide_gpus: bool, probe: Probe | None) -> Place | Fault:
        """Prepare the process; returns its place, or a Fault with the reason why it cannot work on its node.

        After SIGTERM a training in it writes a last checkpoint.
        """
        catch_sigterm()
        if hide_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Ray sets OMP_NUM_THREADS to the CPUs reserved; libraries with a variable of their own get the same number.
        for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
            os.environ.setdefault(name, os.environ.get("OMP_NUM_THREADS", "1"))
        problem = folder_problem(probe) if probe is not None else ""
        node = ray.get_runtime_context().get_node_id()
        if problem:
            return Fault("final", f"EngineError: {problem}", f"node {node[:8]}: {problem}. {SHARED_HELP}")
        return Place(node, address_here(), os.getpid())

    def start_job(self, job: Job) -> Fault | None:
        """Start the job; what the one before it held is freed first."""
        self._worker = None
        _free_memory()
        started = attempt(job.start)
        if isinstance(started, Fault):
            return started
        self._worker, self._observe = started, item_metrics(job.name)
        return None

    def run(self, item: int) -> Done | Fault:
        """Process one item."""
        worker, started = self._worker, time.monotonic()
        assert worker is not None
        record = attempt(lambda: worker.run(item))
        took_s = time.monotonic() - started
        if self._observe is not None:
            self._observe(took_s, not isinstance(record, Fault))
        return record if isinstance(record, Fault) else Done(record, took_s)


def _free_memory() -> None:
    """Return the memory that nothing refers to any more to the system, where it can be asked for (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
