"""A Ray cluster on this machine, a driver that works on it, and the faults that befall both."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cellsemi.rounds.store.lock import read_holder
from cellsemi.rounds.store.run import RunPaths

SMALL = {"include_dashboard": False, "object_store_memory": 80 << 20}
QUICK = {  # Ray notices a dead node after seconds
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
NODES = 3
MAIN = "from cellsemi.orchestrator.cli.main import main; main()"
RUN = "chaos"
DISK_MB = 700
FULL_S = 15.0  # a full disk gets room again then, if the driver has not ended before
AWAY_S = (4.0, 9.0)  # a node comes back, a bad one leaves
TERM_S = 30.0  # within this a driver must have ended after SIGTERM


def may_mount() -> bool:
    """Whether this process may mount file systems and make namespaces: for full disks and nodes without the mount."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


@dataclass(slots=True)
class World:
    """The cluster and the driver of one run at a time; `folder/runs` holds the runs, on a file system of its own."""

    folder: Path
    command: Callable[[str], list[str]]  # address -> arguments of cellsemi
    random: random.Random
    mounts: bool
    cluster: Any = None
    nodes: list[Any] = field(default_factory=list)
    driver: subprocess.Popen[bytes] | None = None
    campaign: str = ""
    expected: set[int] = field(default_factory=set)  # exit codes that a fault explains
    owed: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    faults_of_driver: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        """What all nodes see: a folder of each campaign."""
        return self.folder / "shared"

    @property
    def paths(self) -> RunPaths:
        """The run of the campaign at work: all have the same name, which their tables hold."""
        return RunPaths(self.runs / self.campaign / "runs" / RUN)

    def start(self) -> None:
        """Start the cluster; the runs get a file system of their own where that may be."""
        from ray.cluster_utils import Cluster

        self.runs.mkdir(parents=True, exist_ok=True)
        if self.mounts:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(self.runs)], check=True)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": QUICK, **SMALL})
        for _ in range(NODES):
            self.add_node()

    def add_node(self) -> None:
        """One more node of a CPU."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, **SMALL))

    def lose_node(self) -> None:
        """A node dies, with all that runs on it."""
        self.cluster.remove_node(self.nodes.pop(self.random.randrange(len(self.nodes))), allow_graceful=False)

    def close(self) -> None:
        """End all of it."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        for _, restore in self.owed:
            restore()
        self.owed = []
        if self.cluster is not None:
            self.cluster.shutdown()
        if self.mounts and os.path.ismount(self.runs):
            subprocess.run(["umount", "-l", str(self.runs)], check=False)

    @property
    def place(self) -> Path:
        """The working directory of the drivers."""
        folder = self.runs / self.campaign
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def called(self) -> list[str]:
        """The command of a driver."""
        return [sys.executable, "-c", MAIN, *self.command(self.cluster.address)]

    def drive(self, campaign: str) -> None:
        """Start a driver of a campaign."""
        self.campaign = campaign
        with (self.folder / f"{campaign}.out").open("ab") as out:
            self.driver = subprocess.Popen(self.called, cwd=self.place, stdout=out, stderr=out)

    def settle(self, all_of_it: bool = False) -> None:
        """Put back what is owed by now: nodes, room on the disk."""
        due = [one for one in self.owed if all_of_it or one[0] <= time.monotonic()]
        self.owed = [one for one in self.owed if one not in due]
        for _, restore in due:
            restore()

    def later(self, seconds: float, restore: Callable[[], None]) -> None:
        """Owe something."""
        self.owed.append((time.monotonic() + seconds, restore))

    def away_s(self) -> float:
        """How long something stays away."""
        return self.random.uniform(*AWAY_S)

    def workers(self) -> list[psutil.Process]:
        """The processes that do the work, on all nodes."""
        return [process for node in self.nodes for process in _workers_of(node)]

    @property
    def driven(self) -> bool:
        """Whether the driver holds the run: before that it has nothing to lose."""
        holder = read_holder(self.paths)
        return self.driver is not None and holder is not None and holder.pid == self.driver.pid

    def events(self) -> int:
        """The size of the run's events so far."""
        path = self.paths.events
        return path.stat().st_size if path.is_file() else 0

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A block with the world, which is ended after it."""
        try:
            self.start()
            yield
        finally:
            self.close()


def _workers_of(node: Any) -> Iterator[psutil.Process]:
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in raylet.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[0].startswith("ray::JobActor"):
                yield process


# --- faults: each returns what it did, or "" where it could not be done now --------------------------


def kill_worker(world: World) -> str:
    """SIGKILL to a worker."""
    return _signal_worker(world, signal.SIGKILL)


def freeze_worker(world: World) -> str:
    """SIGSTOP to a worker: it is silent and does not end."""
    return _signal_worker(world, signal.SIGSTOP)


def _signal_worker(world: World, number: signal.Signals) -> str:
    workers = world.workers()
    if not workers:
        return ""
    chosen = world.random.choice(workers)
    with contextlib.suppress(psutil.NoSuchProcess):
        chosen.send_signal(number)
    return f"process {chosen.pid}"


def replace_node(world: World) -> str:
    """A node dies and another joins at once."""
    world.lose_node()
    world.add_node()
    return f"{len(world.nodes)} nodes"


def take_node(world: World) -> str:
    """A node dies; another joins seconds later."""
    if len(world.nodes) < NODES:
        return ""
    world.lose_node()
    world.later(world.away_s(), world.add_node)
    return f"{len(world.nodes)} nodes left"


def bad_node(world: World) -> str:
    """A node without the folder of the runs joins, and leaves later."""
    if not world.mounts:
        return ""
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={world.cluster.address}"]
    start += ["--num-cpus=1", f"--object-store-memory={80 << 20}", "--block", "--dashboard-agent-listen-port=0"]
    inside = f"mount -t tmpfs none '{world.runs}'; exec " + " ".join(f"'{part}'" for part in start)
    process = subprocess.Popen(
        ["unshare", "-m", "bash", "-c", inside],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    world.later(2 * world.away_s(), lambda: _end_group(process))
    return "a node without the mount"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def terminate_driver(world: World) -> str:
    """SIGTERM to the driver, as a batch system sends it: 143 within TERM_S."""
    if not world.driven:
        return ""
    assert world.driver is not None
    started = time.monotonic()
    world.driver.terminate()
    code = world.driver.wait(timeout=2 * TERM_S)
    took = time.monotonic() - started
    if code != 0 and (code != 128 + signal.SIGTERM or took > TERM_S):
        world.faults_of_driver.append(f"SIGTERM: exit code {code} after {took:.1f} s")
    world.expected.add(128 + signal.SIGTERM)
    return f"ended after {took:.1f} s"


def kill_driver(world: World) -> str:
    """SIGKILL to the driver."""
    if not world.driven:
        return ""
    assert world.driver is not None
    world.driver.kill()
    world.expected.add(-signal.SIGKILL)
    return "" if world.driver.wait() != -signal.SIGKILL else "killed"


def full_disk(world: World) -> str:
    """The file system of the runs has no room; seconds later, or once the driver has ended, it has."""
    if not world.mounts or any(world.runs.glob("filler")):
        return ""
    filler = world.runs / "filler"
    free = shutil.disk_usage(world.runs).free
    with filler.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, free - (1 << 20))
    world.expected.add(1)
    world.later(FULL_S, lambda: filler.unlink(missing_ok=True))
    return f"{shutil.disk_usage(world.runs).free >> 10} KB free"


def second_driver(world: World) -> str:
    """A driver on another host: it must be refused, and the first goes on."""
    other = ["unshare", "-u", "bash", "-c", 'hostname other; exec "$@"', "-"] if world.mounts else []
    if not world.driven:
        return ""
    assert world.driver is not None
    done = subprocess.run(
        [*other, *world.called], cwd=world.place, capture_output=True, text=True, check=False, timeout=120
    )
    if world.driver.poll() is not None:
        return ""  # the first one ended meanwhile
    if done.returncode != 1 or "another cellsemi is working on this run" not in done.stderr:
        world.faults_of_driver.append(f"a second driver was not refused: {done.returncode}, {done.stderr[-300:]}")
    return "refused"


FAULTS: dict[str, tuple[Callable[[World], str], int]] = {  # what befalls, and how often beside the others
    "worker killed": (kill_worker, 4),
    "worker frozen": (freeze_worker, 3),
    "node dies, another joins": (replace_node, 3),
    "node dies": (take_node, 3),
    "node without the mount joins": (bad_node, 2),
    "SIGTERM to the driver": (terminate_driver, 2),
    "kill -9 of the driver": (kill_driver, 2),
    "disk full": (full_disk, 2),
    "second driver": (second_driver, 1),
}
