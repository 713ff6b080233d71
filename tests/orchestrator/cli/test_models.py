"""`cellsemi models` and `cellsemi weights`: what they say, their exit codes, and the catalogue's numbers."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_folder import CELLPOSE, UNET, facts_of
from helpers.terminal import invoke
from pydantic import TypeAdapter
from torch import nn

from cellsemi.configs.errors import ModelError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.configs.models import FlowUnetConfig, MaskRcnnConfig, ModelConfig
from cellsemi.models import weight_files
from cellsemi.models.base import Family, ModelVariant
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.detectron2_maskrcnn.install import DETECTRON2_INSTALL
from cellsemi.models.flow_unet import net as flow_net
from cellsemi.models.model_files import write_model_file
from cellsemi.models.registry import FAMILIES, families, recognised
from cellsemi.models.torchvision_maskrcnn import net as rcnn_net
from cellsemi.models.weight_sources import SOURCES
from cellsemi.orchestrator import doctor
from cellsemi.orchestrator.cli import models
from cellsemi.rounds.store.run import RunPaths, write_config

CONFIG: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
CATALOGUE = [(family, variant) for family in families() for variant in family.variants]


@pytest.fixture(autouse=True)
def home(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weight_files.HOME_VARIABLE, str(here / "home"))
    return here


def config_of(family: Family, model: ModelVariant) -> ModelConfig:
    given = {"weights": "w"} if family.start == "weights" else {}
    return CONFIG.validate_python({"kind": family.kind, "name": "m", **model.settings, **given})


def network(family: Family, model: ModelVariant) -> nn.Module:
    config = config_of(family, model)
    if isinstance(config, FlowUnetConfig):
        return flow_net.build(config, ("cell",), 0)
    if family.kind == "cellpose-sam":
        return parts.build_net(256)
    if isinstance(config, MaskRcnnConfig):
        return rcnn_net.build(config, 1, 0)
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    rcnn = pytest.importorskip("cellsemi.models.detectron2_maskrcnn.net")
    made: nn.Module = rcnn.build(config, 1, 0)
    return made


# --- catalogue ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "model"), CATALOGUE, ids=[model.name for _, model in CATALOGUE])
def test_the_stated_sizes_are_those_of_the_networks(family: Family, model: ModelVariant) -> None:
    with torch.device("meta"):  # nothing is allocated
        net = network(family, model)
    assert sum(parameter.numel() for parameter in net.parameters()) == model.parameters


def test_every_kind_of_the_config_is_listed() -> None:
    kinds = {config_of(family, model).kind for family, model in CATALOGUE}
    schema = CONFIG.json_schema()["discriminator"]["mapping"]
    of_others = {"masks", "python"}  # no models of ours to list: docs/teachers.md
    assert kinds | of_others == set(schema) == set(FAMILIES) and not kinds & of_others
    assert len({model.name for _, model in CATALOGUE}) == len(CATALOGUE)
    assert all(model.name.split("/")[0] == family.kind for family, model in CATALOGUE)


def test_the_families_are_listed_without_a_framework() -> None:
    frameworks = "{'torch', 'torchvision', 'cellpose', 'detectron2', 'albumentations', 'ray'}"
    listed = "import sys; from cellsemi.models import registry; registry.families()"
    code = f"{listed}; assert not {frameworks} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_models_are_listed_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    absent = doctor.Package("detectron2", None, "", False, DETECTRON2_INSTALL)
    there = [replace(package, remedy="") for package in doctor.packages() if package.name != "detectron2"]
    monkeypatch.setattr(doctor, "packages", lambda: [*there, absent])
    shown = invoke("models")
    assert shown.exit_code == 0, shown.output
    assert all(re.search(rf"^ {re.escape(model.name)} .*M", shown.output, re.M) for _, model in CATALOGUE)
    assert f"detectron2: {DETECTRON2_INSTALL}\n" in shown.output
    assert "trained on CC BY-NC data" in " ".join(shown.output.split()) and "…" not in shown.output
    content = {model["name"]: model for model in json.loads(invoke("models", "--json").output)}
    assert content["detectron2-maskrcnn/cascade"]["missing"] == {"detectron2": DETECTRON2_INSTALL}
    assert content["cellpose-sam"]["missing"] == {} and content["cellpose-sam"]["parameters"] == 304628930
    assert content["torchvision-maskrcnn/resnet18"]["settings"] == {"backbone": "resnet18"}


def test_a_package_that_nobody_requires_is_named_too() -> None:
    assert models._missing(("torch", "no-such-package-cellsemi"), {}) == {
        "no-such-package-cellsemi": "pip install no-such-package-cellsemi"
    }


# --- weights ------------------------------------------------------------------------------------------


def saved(path: Path, value: float = 0.0) -> str:
    torch.save({"a": torch.full((3,), value)}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_added_listed_and_verified(home: Path) -> None:
    digest = saved(home / "w.pth")
    assert "No weights in" in invoke("weights", "list").output
    added = invoke("weights", "add", "w.pth", "--name", "mine", "--sha256", digest, "--licence", "CC0")
    assert added.exit_code == 0 and f"    weights: mine\n    weights_sha256: {digest}\n" in added.output
    listed = invoke("weights", "list")
    assert all(word in listed.output for word in ("mine", digest, "CC0", str(home / "w.pth")))
    (entry,) = json.loads(invoke("weights", "list", "--json").output)
    assert entry["name"] == "mine" and entry["sha256"] == digest
    for args in (["mine"], ["mine", "--sha256", digest], ["w.pth", "--sha256", digest], []):
        verified = invoke("weights", "verify", *args)
        assert verified.exit_code == 0 and ": ok, " in verified.output, args
    unknown = invoke("weights", "verify", "w.pth")
    assert unknown.exit_code == 0 and "nothing to compare" in unknown.output
    assert f"    weights: w.pth\n    weights_sha256: {digest}\n" in unknown.output


def test_what_is_wrong_with_a_file_is_an_error_with_its_exit_code(home: Path) -> None:
    saved(home / "w.pth")
    invoke("weights", "add", "w.pth", "--name", "mine")
    saved(home / "good.pth", 2.0)
    invoke("weights", "add", "good.pth", "--name", "other")
    saved(home / "w.pth", 1.0)
    both = invoke("weights", "verify")
    assert both.exit_code == 1 and "other: ok" in both.output and "mine" in both.output and "altered" in both.output
    failures: list[tuple[list[str], type[Exception], int]] = [
        (["verify", "mine"], ModelError, 1),
        (["verify", "w.pth", "--sha256", "0" * 64], ModelError, 1),
        (["verify", "nowhere.pth"], ModelError, 1),
        (["verify", "--sha256", "0" * 64], UsageError, 2),
        (["add", "nowhere.pth", "--name", "x"], ModelError, 1),
        (["add", "w.pth", "--name", "mine"], UsageError, 2),
        (["add", "w.pth", "--name", "a b"], UsageError, 2),
    ]
    for args, kind, code in failures:
        result = invoke("weights", *args)
        assert isinstance(result.exception, kind) and result.exception.exit_code == code, args
    assert invoke("weights", "add", "w.pth").exit_code == 2  # no --name
    assert invoke("weights", "add", "w.pth", "--name", "mine", "--force").exit_code == 0
    assert invoke("weights", "verify").exit_code == 0


def test_what_a_file_holds_is_said_when_it_is_added(home: Path) -> None:
    from torchvision.models import resnet18

    torch.save({"model_state_dict": resnet18().state_dict()}, home / "resnet.pth")
    added = invoke("weights", "add", "resnet.pth", "--name", "resnet")
    assert "122 tensors of 11,699,132 numbers" in added.output
    assert "It is a ResNet-18 without a detector: FPN, RPN and heads start anew. In a config:" in added.output
    assert "    kind: torchvision-maskrcnn\n    weights: resnet\n" in added.output and "resnet18" in added.output
    saved(home / "other.pth")
    assert "No model here starts from such tensors" in invoke("weights", "add", "other.pth", "--name", "o").output


def test_an_exported_model_is_added_by_its_folder(home: Path) -> None:
    from safetensors.torch import save

    net = flow_net.build(FlowUnetConfig(name="u", width=8), ("a", "b"), 0)
    facts = facts_of(FlowUnetConfig(name="u", width=8), ("a", "b"))
    write_model_file(home / "exported" / "members" / "u", save(net.state_dict()), facts)
    added = invoke("weights", "add", "exported", "--name", "earlier")
    assert "It is a flow-field U-Net of cellsemi, 2 classes (a, b)" in added.output
    assert "    kind: flow-unet\n" in added.output and "    width: 8\n    depth: 4\n" in added.output
    assert invoke("weights", "verify", "earlier").exit_code == 0


def test_what_is_no_weights_file_is_not_registered(home: Path) -> None:
    (home / "text.pth").write_text("hello")
    (home / "w.pkl").write_bytes(pickle.dumps({"a": np.zeros(3)}))
    for name, words in (("text.pth", "no weights file"), ("w.pkl", "read only with its sha256 stated")):
        failed = invoke("weights", "add", name, "--name", "x")
        assert isinstance(failed.exception, ModelError) and words in str(failed.exception)
    digest = hashlib.sha256((home / "w.pkl").read_bytes()).hexdigest()
    assert invoke("weights", "add", "w.pkl", "--name", "p", "--sha256", digest).exit_code == 0
    assert list(weight_files.registered()) == ["p"]


@pytest.mark.parametrize(("family", "model"), CATALOGUE, ids=[model.name for _, model in CATALOGUE])
def test_a_family_knows_the_tensors_of_its_own_networks(family: Family, model: ModelVariant) -> None:
    with torch.device("meta"):
        net = network(family, model)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = recognised(shapes)
    assert set(found) == {family.kind}
    assert found[family.kind].classes == 1
    assert found[family.kind].settings.items() >= {k: v for k, v in model.settings.items() if k != "anchor_px"}.items()


def test_the_sources_of_weights_are_listed(home: Path) -> None:
    shown = invoke("weights", "sources")
    assert shown.exit_code == 0 and "sha256 begins with bf2d0c1e" in shown.output
    content = json.loads(invoke("weights", "sources", "--json").output)
    assert {row["file"] for row in content} == {source.file for source in SOURCES}
    for row in content:
        assert row["fetch"] in shown.output and f"licence: {row['licence']}" in shown.output


def trained(folder: Path, model: ModelConfig = CELLPOSE, value: float = 1.0) -> Path:
    from safetensors.torch import save

    content = {"net.W2": torch.full((2,), value), "classes.0.weight": torch.zeros(1)}
    write_model_file(folder, save(content), facts_of(model))
    return folder


def test_a_trained_model_is_exported_without_its_class_head(home: Path) -> None:
    trained(home / "model")
    done = invoke("weights", "export", "model", "--out", "cp.pth")
    assert done.exit_code == 0 and "class head (1 tensors) is left out" in done.output
    exported = torch.load(home / "cp.pth", weights_only=True)
    assert set(exported) == {"W2"} and exported["W2"].tolist() == [1, 1]
    again = invoke("weights", "export", "model", "--out", "cp.pth")
    assert isinstance(again.exception, UsageError) and "--force" in str(again.exception)
    assert invoke("weights", "export", "model", "--out", "cp.pth", "--force").exit_code == 0


def test_the_model_of_a_run_is_that_of_its_last_round(home: Path) -> None:
    run = home / "runs" / "demo"
    for round in (0, 1, 2):
        if round < 2:  # the last round has not trained it yet
            trained(run / f"round-{round:02d}" / "students" / "cellpose", value=round)
        (run / f"round-{round:02d}" / "students" / "unet").mkdir(parents=True)
    write_config(RunPaths(run), load_config("demo").config)
    assert invoke("weights", "export", "demo/cellpose", "--out", "cp.pth").exit_code == 0
    assert torch.load(home / "cp.pth", weights_only=True)["W2"].tolist() == [1, 1]
    for name, words in (("demo/unet", "there are: cellpose"), ("nothing", "RUN/MODEL"), ("none/m", "no run is called")):
        failed = invoke("weights", "export", name, "--out", "no.pth")
        assert isinstance(failed.exception, UsageError) and words in str(failed.exception)
    assert not (home / "no.pth").exists()


def test_other_models_are_not_exported(home: Path) -> None:
    trained(home / "model", model=MaskRcnnConfig(name="m"))
    failed = invoke("weights", "export", "model", "--out", "x.pth")
    assert isinstance(failed.exception, UsageError) and "load_file" in str(failed.exception)


def test_a_format_is_named_where_there_are_several(home: Path) -> None:
    trained(home / "model", model=UNET)
    for args, words in (
        ((), "--format names one of: torchscript, bioimage-io"),
        (("--format", "cellpose"), "no format 'cellpose'"),
        (("--format", "bioimage-io"), "not in a run's folder"),
    ):
        failed = invoke("weights", "export", "model", "--out", "x.pt", *args)
        assert isinstance(failed.exception, UsageError) and words in str(failed.exception)
    assert not (home / "x.pt").exists()
