"""The doctor: what is required comes from the installed metadata, and every fault comes with its remedy."""

import io
import sys
from dataclasses import replace
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from cellsemi.models.detectron2_maskrcnn.install import DETECTRON2_INSTALL
from cellsemi.orchestrator import doctor
from cellsemi.orchestrator.terminal import tables


def installed_as(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Pretend that some packages are installed in these versions, or not at all."""
    real = metadata.version

    def version(name: str) -> str:
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


def package(name: str) -> doctor.Package:
    (found,) = (p for p in doctor.packages() if p.name == name)
    return found


def printed(report: doctor.Report, width: int = 80) -> str:
    stream = io.StringIO()
    tables.print_report(report, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_what_is_required_is_what_the_package_declares() -> None:
    declared = {Requirement(line).name for line in metadata.requires("cellsemi") or [] if "extra ==" not in line}
    assert {p.name for p in doctor.packages() if p.required} == declared
    assert {"torch", "torchvision", "cellpose", "ray", "albumentations"} <= declared
    assert not declared & {"pytest", "mypy"}


def test_the_versions_are_the_installed_ones() -> None:
    for found in doctor.packages():
        if found.version is not None:
            assert found.version == metadata.version(found.name)


@pytest.mark.parametrize("version", [None, "1.0.0"])
def test_a_missing_or_old_torch_is_mended_together_with_torchvision(
    monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    installed_as(monkeypatch, torch=version)
    torch = package("torch")
    assert not torch.fine and torch.version == version
    assert torch.remedy.startswith("pip install -U 'torch>=") and "'torchvision>=" in torch.remedy
    assert package("numpy").fine


def test_a_package_that_is_too_new_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_as(monkeypatch, albumentations="3.0.0")
    assert package("albumentations").remedy == "pip install -U 'albumentations<3,>=2.0.8'"


def test_a_local_build_of_torch_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_as(monkeypatch, torch="2.15.0+cu130")
    assert package("torch").fine


def test_detectron2_is_optional_and_its_line_is_the_upstream_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_as(monkeypatch, detectron2=None)
    assert package("detectron2").remedy == (
        "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
    )
    report = doctor.examine()
    assert report.healthy is all(p.fine for p in report.packages if p.name != "detectron2")


def test_health_is_about_what_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    report = doctor.examine()
    absent = doctor.Package("ray", None, ">=2", True, "pip install -U 'ray>=2'")
    assert not replace(report, packages=(*report.packages, absent)).healthy
    assert not replace(report, packages=(absent,)).to_json()["healthy"]
    assert replace(report, packages=(replace(absent, required=False),)).healthy


def test_devices_start_with_the_cpu() -> None:
    devices, warnings = doctor.torch_devices()
    assert devices[0] == "cpu" and not [w for w in warnings if "cannot be imported" in w]


def test_a_broken_torch_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    devices, warnings = doctor.torch_devices()
    assert devices == [] and "torch cannot be imported" in warnings[0]


def test_only_the_ray_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.RAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert doctor.examine().ray == {}
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    report = doctor.examine()
    assert report.ray == {"RAY_ADDRESS": "head:6379"}
    text = printed(report, 120)
    assert "head:6379" in text and "RAY_AUTH_MODE=token" in text and "secret" not in text


def test_an_install_line_is_never_broken_by_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_as(monkeypatch, detectron2=None)
    lines = printed(doctor.examine(), width=60).splitlines()
    assert f"detectron2: {DETECTRON2_INSTALL}" in lines
