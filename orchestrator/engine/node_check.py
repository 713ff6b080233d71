"""Says whether the machine of this process can do the work of a driver, before any item goes there."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib import metadata

from cellsemi.orchestrator.engine.ray_start import SHARED_HELP, Probe, folder_problem

LOCAL_FREE_MB = 100  # for temporary files, and for what Ray itself keeps on a node
PRETEND_GPUS = "CELLSEMI_PRETEND_GPUS"  # set where the GPUs that Ray counts are made up, as in tests
SAME_IMAGE = "use one image, or one environment, for all nodes and for the driver"


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """What a driver asks of a node; the default asks for nothing.

    `versions` are those of the driver by name, as `versions_here` returns them. With `cuda` a GPU was reserved, and
    torch has to see one. `ray_folder` is where Ray keeps what it stores on this node.
    """

    probe: Probe | None = None
    versions: dict[str, str] = field(default_factory=dict)
    cuda: bool = False
    ray_folder: str = ""

    def problem(self) -> str:
        """Why no work can be done here now, or "": the folder of the run, and room for temporary files."""
        if self.probe is not None and (problem := folder_problem(self.probe)):
            return f"{problem}. {SHARED_HELP}"
        if self.probe is None:  # our own Ray: what is full here, the driver notices itself
            return ""
        for folder in filter(None, (tempfile.gettempdir(), self.ray_folder)):
            free_mb = shutil.disk_usage(folder).free >> 20
            if free_mb < LOCAL_FREE_MB:
                return f"{folder} is full: {free_mb} MB are free, {LOCAL_FREE_MB} are needed. Free some space there"
        return ""

    def start_problem(self) -> str:
        """Why no process should be started here, or "": what is installed, and the GPU."""
        here = versions_here()
        differing = [name for name, its in self.versions.items() if here[name] != its]
        other = [f"{name} {here[name]}, the driver has {self.versions[name]}" for name in differing]
        if other:
            return f"other versions than the driver's: {'; '.join(other)}; {SAME_IMAGE}"
        return _cuda_problem() if self.cuda and not os.environ.get(PRETEND_GPUS) else ""


def versions_here() -> dict[str, str]:
    """What must be the same on all machines of a run."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("cellsemi", "ray"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "of an unknown version"
    return found


def _cuda_problem() -> str:
    import torch

    if torch.cuda.is_available():
        return ""
    why = "is built without CUDA" if torch.version.cuda is None else f"(CUDA {torch.version.cuda}) finds no GPU"
    return (
        f"a GPU was reserved, but torch {torch.__version__} {why}. Install a torch for CUDA and the driver, or "
        "work on CPUs: --set engine.device=cpu"
    )
