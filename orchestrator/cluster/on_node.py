"""Answers, in a process of Ray on a node of a cluster: its versions, its disk, the run's folder, its GPU."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.errors import CellsemiError, RunError, in_one_line
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.cluster.findings import Finding
from cellsemi.orchestrator.engine.ray_start import SHARED_HELP, Probe, folder_problem
from cellsemi.orchestrator.stages.read_images import check_models
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store import files
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths

FSYNCS = 5
FSYNC_BYTES = 4096
SLOW_FSYNC_MS = 1000.0  # a shard is committed with about four of them
FULL_SHARE = 0.95  # Ray gives work to no node whose disk is fuller (local_fs_capacity_threshold)
EDGE_BYTES = 2**20  # of a file of weights: as much is read at its start and at its end
DRIVER_SCRIPT = "nvidia-smi"
SCRIPT_S = 20.0
WRITTEN = "node-"  # begins the name of the file that a node writes for the others
FOLDER, LOCK, FSYNC, DISK, MODELS, WEIGHTS = "run folder", "lock", "fsync", "disk", "models", "weights"


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of weights that the run has kept: its size, and the digest of its edges as the driver sees them."""

    path: str
    bytes: int
    edges: str


@dataclass(frozen=True, slots=True)
class Request:
    """What the driver wants to know of each node. `folder` is the one of this check, within `run.root`."""

    folder: str
    probe: Probe
    config: Config
    kept: tuple[KeptFile, ...]


def versions_by_value() -> Callable[[], tuple[str, str, str, str, str]]:
    """A function that says what is installed: Python, Ray, cellsemi, the digest of its source, torch; "" missing.

    It is made here, so that it is sent whole: a node without cellsemi, or with another one, can answer too.
    """

    def versions() -> tuple[str, str, str, str, str]:
        import hashlib
        import importlib.util
        import platform
        from importlib import metadata
        from pathlib import Path

        def installed(name: str) -> str:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                return ""

        digest = hashlib.sha256()
        try:
            for part in ("configs", "rounds", "models", "orchestrator"):
                spec = importlib.util.find_spec(f"cellsemi.{part}")
                for folder in (spec.submodule_search_locations or []) if spec else []:
                    for path in sorted(Path(folder).rglob("*.py"), key=lambda path: path.relative_to(folder).parts):
                        digest.update(f"{part}/{path.relative_to(folder).as_posix()}".encode() + path.read_bytes())
            code = digest.hexdigest()[:12]
        except ModuleNotFoundError:
            code = ""
        return platform.python_version(), installed("ray"), installed("cellsemi"), code, installed("torch")

    return versions


def host_name() -> str:
    """The name of this machine."""
    return platform.node()


def look(request: Request) -> list[Finding]:
    """All that can be seen without a GPU. Leaves the node's own file in the folder of the check, for the others."""
    folder = folder_finding(request)
    findings = [disk_finding(Path(tempfile.gettempdir()), "temporary files", request.config.engine.min_free_mb), folder]
    if folder.verdict == "ok":
        shared = files.place(request.folder)
        if not isinstance(shared, ObjectPath):
            findings.append(disk_finding(shared.parent, "the run", request.config.engine.min_free_mb))
        findings += [fsync_finding(shared), lock_finding(shared)]
    findings.append(models_finding(request.config))
    findings += [weights_finding(kept) for kept in request.kept]
    return findings


def folder_finding(request: Request) -> Finding:
    """Whether the node reads what the driver wrote; the node then writes a file of its own."""
    remedy = f"{SHARED_HELP}, on this node mounted at the same path and writable for the user that Ray runs as"
    if problem := folder_problem(request.probe):
        return Finding(FOLDER, problem=problem, remedy=remedy)
    return Finding(FOLDER, "read and written")


def write_for_others(folder: Path, node: str, token: str) -> str:
    """Write the file that all other nodes then read; returns the problem, or ""."""
    try:
        files.write_text(folder / f"{WRITTEN}{node}", token)
    except (OSError, RunError) as error:
        return in_one_line(error)
    return ""


def unseen(folder: Path, nodes: Sequence[str], token: str) -> list[str]:
    """The nodes whose file is not seen here with the content that they wrote."""

    def seen(node: str) -> bool:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (folder / f"{WRITTEN}{node}").read_text(encoding="utf-8") == token
        return False

    return [node for node in nodes if not seen(node)]


def disk_finding(folder: Path, what: str, min_free_mb: int) -> Finding:
    """The free space where a folder is, and whether it is enough."""
    usage = shutil.disk_usage(folder)
    check, free = f"{DISK} for {what}", usage.free / 1e9
    if usage.free < min_free_mb * 2**20:
        problem = f"{{}} GB free in {folder}; engine.min_free_mb asks for {min_free_mb} MB"
        return Finding(check, problem=problem, remedy="Free some space there, or drain the node", value=free)
    if usage.free < (1 - FULL_SHARE) * usage.total and what == "temporary files":
        problem = f"{{}} GB free in {folder}, more than {FULL_SHARE:.0%} full: Ray stores nothing there"
        remedy = "Free some space there, or start Ray with --temp-dir on another disk"
        return Finding(check, problem=problem, remedy=remedy, value=free)
    return Finding(check, f"{{}} GB free in {folder}", value=free)


def fsync_finding(folder: Path) -> Finding:
    """How long a small file takes to reach the disk, in the median."""
    times_ms = []
    with _scratch(folder) as path:
        for _ in range(FSYNCS):
            started = time.perf_counter()
            files.write_bytes(path, bytes(FSYNC_BYTES))
            times_ms.append(1000 * (time.perf_counter() - started))
    took_ms = round(statistics.median(times_ms), 2)
    if took_ms > SLOW_FSYNC_MS:
        remedy = "Put run.root on faster storage; data.shard_images: 256 makes fewer and larger files"
        return Finding(FSYNC, problem="{} ms for a small file", remedy=remedy, value=took_ms)
    return Finding(FSYNC, "{} ms for a small file", value=took_ms)


def lock_finding(folder: Path) -> Finding:
    """Whether a lock that the driver holds keeps this node out, as it must a second driver here."""
    paths = RunPaths(folder)
    try:
        with driver_lock(paths) as without_locks:
            pass
    except RunError:
        return Finding(LOCK, "a second driver is kept out")
    if without_locks:
        return Finding(LOCK, problem=without_locks, remedy="Mount the storage with locks (NFS: without nolock)")
    return Finding(
        LOCK,
        problem="a lock that the driver holds was taken here too: two drivers could work on one run",
        remedy="Mount the storage with locks that all hosts share (NFS 4, or NFS 3 without nolock and local_lock)",
    )


def models_finding(config: Config) -> Finding:
    """Whether the packages and the masks that the models of a config need are there."""
    try:
        check_models(config)
    except CellsemiError as error:
        return Finding(MODELS, problem=str(error), remedy="Install it on every node, best in the image of the cluster")
    return Finding(MODELS, ", ".join(sorted({model.kind for model in config.models})))


def kept_file(path: Path) -> KeptFile:
    """A file as it is seen here; OSError when it cannot be read."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(0, size - EDGE_BYTES))
        digest.update(file.read())
    return KeptFile(str(path), size, digest.hexdigest())


def weights_finding(kept: KeptFile) -> Finding:
    """Whether a kept file of weights is seen here as the driver sees it: its size, its first and its last MiB."""
    path = files.place(kept.path)
    check = f"{WEIGHTS} {path.parent.name[:8]}/{path.name}"
    try:
        found = kept_file(path)
    except OSError as error:
        return Finding(check, problem=in_one_line(error), remedy=SHARED_HELP)
    if found != kept:
        problem = f"{found.bytes} bytes that differ from the {kept.bytes} of the driver"
        return Finding(check, problem=problem, remedy="See whether the storage is mounted from another place here")
    return Finding(check, f"{kept.bytes / 1e6:.4g} MB as the driver sees them")


def look_at_gpu() -> Finding:
    """In a process that has reserved a GPU: whether torch computes on it; its name, driver and versions."""
    import torch

    remedy = "Install the NVIDIA driver and the container toolkit there, and a torch built for CUDA; or drain the node"
    built = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda} finds none"
        return Finding(
            "GPU", problem=f"Ray counts GPUs here, {built} {why}{_nvidia_driver(', driver ')}", remedy=remedy
        )
    try:
        ones = torch.ones(8, 8, device="cuda")
        result = float((ones @ ones).sum().item())
    except RuntimeError as error:
        return Finding("GPU", problem=f"cannot compute: {in_one_line(error)}", remedy=remedy)
    if result != 512.0:
        return Finding("GPU", problem=f"computes wrongly: {result:g} in place of 512", remedy="Drain the node")
    name = torch.cuda.get_device_name(0)
    return Finding("GPU", f"{name}{_nvidia_driver(', driver ')}, {built} for CUDA {torch.version.cuda}")


def _nvidia_driver(before: str) -> str:
    """The version of the NVIDIA driver with some words before it; "" where nothing says it."""
    asked = [DRIVER_SCRIPT, "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=SCRIPT_S).stdout
        if lines := answer.split():
            return before + lines[0]
    return ""


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """The path of a file that is gone afterwards."""
    path = folder / f"fsync-{uuid.uuid4().hex[:8]}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
