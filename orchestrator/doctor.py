"""Examines this machine: packages, devices, disk, Ray. It reads metadata, and imports no framework but torch.

Required packages and their versions are those of the installed cellsemi's own metadata, so that they
are stated once, in setup.cfg.
"""

from __future__ import annotations

import os
import platform
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from cellsemi.models.registry import families
from cellsemi.orchestrator.engine.resources import cpu_count

# Built for each other: installing one alone leaves `operator torchvision::nms does not exist`.
TOGETHER = ("torch", "torchvision")
RAY_VARIABLES = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True, slots=True)
class Package:
    """One package: its version (None: missing), what is asked for, and the line that installs it, if needed."""

    name: str
    version: str | None
    wanted: str
    required: bool
    remedy: str = ""

    @property
    def fine(self) -> bool:
        """Whether it is installed in a suitable version."""
        return not self.remedy


@dataclass(frozen=True, slots=True)
class Report:
    """All that `cellsemi doctor` prints.

    `bfloat16` says by kind of device what computes in it, "" nothing; `bfloat16_faster` is None unless it was measured.
    """

    python: str
    platform: str
    cellsemi: str
    packages: tuple[Package, ...]
    devices: tuple[str, ...]
    warnings: tuple[str, ...]
    cpus: int
    free_disk_gb: float
    folder: str
    ray: dict[str, str] = field(default_factory=dict)
    bfloat16: dict[str, str] = field(default_factory=dict)
    bfloat16_faster: dict[str, bool] | None = None

    @property
    def healthy(self) -> bool:
        """Whether everything required is there; a missing optional package is no fault."""
        return all(package.fine for package in self.packages if package.required)

    def to_json(self) -> dict[str, Any]:
        """Plain values, `healthy` among them."""
        return {**asdict(self), "healthy": self.healthy}


def examine(measure: bool = False) -> Report:
    """Look at this machine; with `measure` also time whether bfloat16 is faster on each device."""
    devices, problems = torch_devices()
    folder = Path.cwd()
    return Report(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        cellsemi=installed("cellsemi") or "not installed",
        packages=tuple(packages()),
        devices=tuple(devices),
        warnings=tuple(problems),
        cpus=cpu_count(),
        free_disk_gb=round(shutil.disk_usage(folder).free / 1e9, 1),
        folder=str(folder),
        ray={name: os.environ[name] for name in RAY_VARIABLES if name in os.environ},
        bfloat16=native_bfloat16(devices),
        bfloat16_faster=measure_bfloat16(devices) if measure else None,
    )


def packages() -> list[Package]:
    """The packages that cellsemi requires, as installed here, then those that single model families need besides."""
    optional = {name: line for family in families() for name, line in family.install.items()}
    return [_package(requirement) for requirement in requirements()] + [
        Package(name, installed(name), "", False, "" if installed(name) else line) for name, line in optional.items()
    ]


def requirements() -> list[Requirement]:
    """What the installed cellsemi asks for, without its extras; empty when it is not installed."""
    try:
        lines = metadata.requires("cellsemi") or []
    except metadata.PackageNotFoundError:
        return []
    parsed = [Requirement(line) for line in lines]
    return [item for item in parsed if item.marker is None or item.marker.evaluate({"extra": ""})]


def _package(requirement: Requirement) -> Package:
    version = installed(requirement.name)
    fits = version is not None and requirement.specifier.contains(Version(version), prereleases=True)
    wanted = ",".join(sorted(map(str, requirement.specifier), reverse=True))  # >= before <
    return Package(requirement.name, version, wanted, True, "" if fits else _remedy(requirement.name))


def _remedy(name: str) -> str:
    """The line that installs a required package; torch and torchvision always come together."""
    names = TOGETHER if name in TOGETHER else (name,)
    wanted = {item.name: str(item.specifier) for item in requirements()}
    return "pip install -U " + " ".join(f"'{each}{wanted.get(each, '')}'" for each in names)


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_devices() -> tuple[list[str], list[str]]:
    """The devices that torch can use, `cpu` first, and its warnings (of an old driver, for one)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            import torch

            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            devices = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))]
            problems = []
        except (ImportError, OSError) as error:  # OSError: a shared library of the build is missing
            devices, problems = [], [f"torch cannot be imported: {error}"]
    messages = {str(item.message).strip().splitlines()[0] for item in caught if "CUDA" in str(item.message)}
    return devices, problems + sorted(messages)


def native_bfloat16(devices: Sequence[str]) -> dict[str, str]:
    """What computes in bfloat16, by kind of device ({"cpu": "avx512_bf16"}); "" where nothing does."""
    import torch

    from cellsemi.models.training import precision

    return {kind: precision.native_bfloat16(torch.device(kind)) for kind in _kinds(devices)}


def measure_bfloat16(devices: Sequence[str]) -> dict[str, bool]:
    """Whether training in bfloat16 is clearly faster than in float32, by kind of device ({"cpu": False})."""
    import torch

    from cellsemi.models.training.precision import measured_faster

    return {kind: measured_faster(torch.device(kind)) for kind in _kinds(devices)}


def _kinds(devices: Sequence[str]) -> list[str]:
    return sorted({name.split(":")[0] for name in devices})
