"""What runs in a process of Ray: one worker of one job at a time, and of the next job afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from dataclasses import dataclass, replace

import ray

from cellsemi.models.inference.less_memory import less_memory
from cellsemi.models.training.stop import catch_sigterm
from cellsemi.orchestrator.engine.fault import Fault, attempt
from cellsemi.orchestrator.engine.metrics import Observe, item_metrics
from cellsemi.orchestrator.engine.node_check import NodeCheck
from cellsemi.orchestrator.engine.protocol import Job, Record, Worker
from cellsemi.orchestrator.engine.ray_start import address_here, node_name, session_folder
from cellsemi.rounds.storage import appended, object_store


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
        self._check = NodeCheck()
        self._observe: Observe | None = None

    def set_up(self, hide_gpus: bool, check: NodeCheck) -> tuple[Place, Fault | None]:
        """Prepare the process; returns its place, and a Fault with the reason if it cannot work on its node.

        After SIGTERM a training in it writes a last checkpoint.
        """
        catch_sigterm()
        if hide_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Ray sets OMP_NUM_THREADS to the CPUs reserved; libraries with a variable of their own get the same number.
        for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
            os.environ.setdefault(name, os.environ.get("OMP_NUM_THREADS", "1"))
        self._check = replace(check, ray_folder=session_folder())
        place = Place(ray.get_runtime_context().get_node_id(), address_here(), os.getpid())
        problem = self._check.problem() or self._check.start_problem()
        return place, Fault("node", f"EngineError: {problem}", problem) if problem else None

    def start_job(self, job: Job) -> Fault | None:
        """Start the job; what the one before it held is freed first."""
        self._worker = None
        _free_memory()
        object_store.others_wrote()
        started = attempt(job.start)
        if isinstance(started, Fault):
            return started
        self._worker, self._observe = started, item_metrics(job.name)
        return None

    def run(self, item: int, halvings: int) -> Done | Fault:
        """Process one item, with the memory halved so often. A Fault of kind `node` where the node fails meanwhile."""
        object_store.others_wrote()
        worker, started = self._worker, time.monotonic()
        assert worker is not None
        if halvings:
            _free_memory()
        with less_memory(halvings):
            found = attempt(lambda: worker.run(item))
        settled = attempt(appended.settle_all)  # before the driver looks at what this process wrote
        found = settled if isinstance(settled, Fault) else found
        took_s = time.monotonic() - started
        if self._observe is not None:
            self._observe(took_s, not isinstance(found, Fault))
        if isinstance(found, Fault) and found.kind == "retry" and (problem := self._check.problem()):
            return Fault("node", found.error, problem, found.trace)
        return found if isinstance(found, Fault) else Done(found, took_s)


def terminate(pid: int) -> None:
    """Send SIGTERM to a process of this machine; one that has ended by itself is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _free_memory() -> None:
    """Return the memory that nothing refers to any more: the GPU's, and the system's where it can be asked (glibc)."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
