"""Starts Ray on this machine, or joins a cluster, before the first worker.

The address is the one given, else RAY_ADDRESS, else a Ray that we start. Ours is closed to other machines
and users: it listens on the loopback interface only, asks for a token that is never written to disk, has no
dashboard and sends no statistics. A cluster is joined only when its address is given, never because one was
found.

Ray reads its settings when it is imported. So they are set first, and a process that has used one kind of
Ray (local or cluster) cannot use the other.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import EngineError, RunError, in_one_line
from cellsemi.orchestrator.engine.resources import cpu_count
from cellsemi.rounds.store import files

OBJECT_STORE_BYTES = 100 * 2**20  # we send nothing large; Ray's minimum is 75 MB
PROBE_FILE = ".shared-folder-probe"
LEFTOVER_FILE = ".ray-session.json"
NODE_ANSWER_S = 60.0
CONNECT_S = 10.0
SHARED_HELP = "Put the run on storage that all nodes see: --set run.root=FOLDER"
TOKEN_HELP = (
    "If it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN): "
    "with an address given Ray does not look for one by itself"
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A file that every node must see with this content: it proves that the folder of the run is shared."""

    path: str
    token: str


@dataclass(frozen=True, slots=True)
class Leftover:
    """The folder that our own Ray keeps its logs and sockets in, and the file of the run that names it.

    Ray leaves the folder behind. It is removed when the engine is closed; what was killed before leaves the name of it,
    for the next start in the same run.
    """

    folder: Path
    named_in: Path

    def note(self) -> None:
        """Name the folder in the run."""
        files.write_json(self.named_in, {"host": socket.gethostname(), "folder": str(self.folder)})

    def remove(self) -> None:
        """Remove the folder, then its name."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.named_in.unlink(missing_ok=True)


def sweep_leftover(run_folder: Path) -> None:
    """Remove what a killed call left of its own Ray on this machine; the caller holds the run's lock."""
    path = run_folder / LEFTOVER_FILE
    if not path.is_file():
        return
    about = files.read_json(path)
    folder = Path(about["folder"])
    if about["host"] == socket.gethostname() and folder.name.startswith("session_") and folder.parent.name == "ray":
        Leftover(folder, path).remove()


@dataclass(frozen=True, slots=True)
class RaySession:
    """A connection to Ray. `address` and `probe` are None when we started Ray, `leftover` when we joined one.

    `banned` are the nodes, by name, that do not see the folder of the run, each with the problem.
    """

    version: str
    run_folder: Path
    address: str | None
    probe: Probe | None
    leftover: Leftover | None = None
    banned: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Leave the cluster, or stop our own Ray; its worker processes end."""
        import ray

        ray.shutdown()
        if self.probe is not None:
            files.place(self.probe.path).unlink(missing_ok=True)
        if self.leftover is not None:
            self.leftover.remove()


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A machine of the cluster. `resources` by Ray's names: CPU, GPU and more."""

    id: str
    address: str
    resources: dict[str, float]


def node_name(address: str, id: str) -> str:
    """A node in messages: several may share an address, and nobody knows an id by heart."""
    return f"{address}/{id[:8]}"


def address_here() -> str:
    """The address of this machine, as Ray knows it."""
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def session_folder() -> str:
    """Where Ray keeps what it stores on this machine, "" where it does not say."""
    from ray._private import worker  # nothing public says it

    node = worker._global_node
    return "" if node is None else str(node.get_session_dir_path())


def start_ray(address: str | None, run_folder: Path) -> RaySession:
    """Start or join Ray; on a cluster, check that every node sees `run_folder`.

    `address` is host:port, "local" or None (RAY_ADDRESS, else local). Raises EngineError with the remedy
    when Ray cannot be started, the cluster cannot be joined, or the folder is not shared.
    """
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    if chosen == "local":
        _apply_settings("local")
        sweep_leftover(run_folder)
        leftover = Leftover(_start_local(), run_folder / LEFTOVER_FILE)
        leftover.note()
        return RaySession(_ray_version(), run_folder, None, None, leftover)
    join_cluster(chosen, "the address" if address else "RAY_ADDRESS")
    import ray

    with contextlib.ExitStack() as on_error:
        on_error.callback(ray.shutdown)
        probe, banned = check_shared_folder(run_folder)
        session = RaySession(_ray_version(), run_folder, chosen, probe, banned=banned)
        on_error.pop_all()
    return session


def join_cluster(address: str, origin: str = "the address") -> None:
    """Join the cluster at `address` (host:port), which `origin` names in messages; the caller calls `ray.shutdown`.

    EngineError with the remedy when nothing listens there, or the cluster refuses.
    """
    _check_address(address, origin)
    _apply_settings("cluster")
    _join(address)


def check_shared_folder(folder: Path) -> tuple[Probe, dict[str, str]]:
    """Ask every node of the cluster to read a file of `folder` and to write beside it.

    Returns the probe, whose file stays since nodes that join later are asked too, and the problems by node. Raises
    EngineError naming the nodes and the remedy when no node can work there.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = Probe(str(folder / PROBE_FILE), uuid.uuid4().hex)
    files.write_text(files.place(probe.path), probe.token)
    ask = ray.remote(num_cpus=0, max_retries=0)(folder_problem)
    answers = {}
    for node in alive_nodes():
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        answers[node_name(node.address, node.id)] = ask.options(scheduling_strategy=there).remote(probe)
    problems = {}
    for name, answer in answers.items():
        try:
            found = ray.get(answer, timeout=NODE_ANSWER_S)
        except GetTimeoutError:
            found = f"no answer within {NODE_ANSWER_S:g} s"
        except RayError as error:
            found = in_one_line(error)
        if found:
            problems[name] = f"{found}. {SHARED_HELP}"
    if problems and len(problems) == len(answers):
        files.place(probe.path).unlink(missing_ok=True)
        raise EngineError("; ".join(f"node {name}: {problem}" for name, problem in problems.items()))
    return probe, problems


def alive_nodes() -> list[ClusterNode]:
    """The nodes of the cluster that are alive now."""
    import ray

    return [
        ClusterNode(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def folder_problem(probe: Probe) -> str:
    """Why this machine cannot work in the probe's folder, or "". Leaves nothing behind."""
    path = files.place(probe.path)
    try:
        if path.read_text(encoding="utf-8") != probe.token:
            return f"sees another {path.parent} than the driver"
        beside = path.with_name(f"{PROBE_FILE}-{uuid.uuid4().hex[:8]}")
        files.write_text(beside, probe.token)
        beside.unlink()
    except (OSError, RunError) as error:
        return f"cannot work in {path.parent}: {in_one_line(error)}"
    return ""


# --- our own Ray ------------------------------------------------------------------------------------


@functools.cache
def _token() -> str:
    """The password of our own Ray: only in the memory of this process and of those that it starts."""
    return secrets.token_hex(32)


def _settings(kind: str) -> dict[str, str]:
    common = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_COLOR_PREFIX": "0"}
    if kind == "cluster":
        return common
    # This switch forbids clusters, and makes every part of Ray listen on 127.0.0.1 alone.
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return {**common, **loopback, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}


_kind_used: list[str] = []  # "local" or "cluster" once this process has used Ray


def _apply_settings(kind: str) -> None:
    """Set the environment variables that Ray reads when it is imported, once in a process."""
    if not _kind_used:
        wanted = _settings(kind)
        if kind == "local" and "ray" in sys.modules and any(os.environ.get(k) != v for k, v in wanted.items()):
            raise EngineError(
                "Ray was imported before cellsemi could close it to other machines; open the engine before "
                "anything imports ray, or use --engine inline"
            )
        os.environ.update(wanted)
        _kind_used.append(kind)
    if _kind_used != [kind]:
        raise EngineError(
            f"this process has used a {_kind_used[0]} Ray and cannot use a {kind} one; start another process"
        )
    import ray

    if ray.is_initialized():
        raise EngineError("Ray is already at work in this process; close that engine first, or call ray.shutdown()")


def _start_local() -> Path:
    """Start Ray; returns the folder of its logs and sockets."""
    with _explained("Ray could not be started on this machine"):
        started = _init(
            address="local",
            num_cpus=cpu_count() if cpu_count() != os.cpu_count() else None,  # Ray itself knows container limits
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    return Path(started.address_info["session_dir"])


# --- a cluster of others -----------------------------------------------------------------------------


def _check_address(address: str, origin: str) -> None:
    """EngineError unless something listens there: Ray itself would try for minutes and then end the process."""
    host, separator, port = address.rpartition(":")
    if "://" in address or not separator or not port.isdigit():
        raise EngineError(
            f"{origin} is {address!r}: expected host:port of a Ray head (port 6379 unless it was changed), "
            "or 'local'. To drive a cluster from outside, submit the command as a job: "
            "ray job submit --address http://HEAD:8265 -- cellsemi round --n 3"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"{address}: no Ray can be reached there ({error}); is the cluster up, is the port right?"
        ) from None


def _join(address: str) -> None:
    with _explained(f"{address}: the cluster could not be joined", TOKEN_HELP):
        _init(address=address)


def _init(**options: Any) -> Any:
    """Worker output goes to the file descriptors of the driver, which `quiet_output` redirects to the log."""
    import ray

    return ray.init(logging_level=logging.ERROR, log_to_driver=True, **options)


@contextlib.contextmanager
def _explained(what: str, remedy: str = "") -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
        text = " ".join(in_one_line(each) for each in _chain(error))
        start = text.find("The cluster was started with:")
        if start >= 0:
            raise EngineError(f"{what}: other versions there than here. {text[start:]}") from error
        raise EngineError(f"{what}: {in_one_line(error)}" + (f". {remedy}" if remedy else "")) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _ray_version() -> str:
    import ray

    return str(ray.__version__)
