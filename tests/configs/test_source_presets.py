"""The presets of the source systems, and the mixed one: the reports' figures, and a tiny round through the terminal."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers import layouts
from helpers.terminal import invoke
from helpers.tiny_cellpose import Tiny

from cellsemi.configs.data import GeneratedConfig
from cellsemi.configs.loading import load_config
from cellsemi.configs.models import DetectorConfig, MaskRcnnConfig
from cellsemi.configs.presets import figures
from cellsemi.configs.schema import Config
from cellsemi.models import weight_files
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.model_files import read_model_file
from cellsemi.models.torchvision_maskrcnn.net import Form, build
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store.run import RunPaths

FEW = GeneratedConfig(labelled=9, unlabelled=1, val=2, test=2, height_px=64, width_px=96)
TINY = ["engine.kind=inline", "engine.min_free_mb=0", "rounds.promotion.bootstrap=100", "inference.threads=1"]
TINY += ["rounds.control=false", "inference.grid=null"]
LIMITED = ("maskrcnn-center-boundary", "livecell-cbam", "livecell-transfer", "livecell-pretraining")
VARIANTS = ("ensemble-cellpose-maskrcnn-5fold", "maskrcnn-two-stage-sgd", "livecell-pretraining")  # as another, nearly
NO_DETECTRON2 = "Detectron2 is not installed; `cellsemi doctor` says how"


@functools.cache
def preset(name: str) -> Config:
    return load_config(name, ["data.root=x"]).config


# --- the figures of the reports ---------------------------------------------------------------------


@pytest.mark.parametrize("figure", figures.FIGURES, ids=lambda f: f"{f.letter} {f.preset} {f.what}")
def test_a_preset_has_the_figure_of_its_report(figure: figures.SourceFigure) -> None:
    if figure.path is None:
        assert figure.why and figure.ours is None
        return
    assert figures.resolved(preset(figure.preset), figure.path) == figure.ours


def test_every_system_and_preset_has_figures() -> None:
    found = Counter(figure.letter for figure in figures.FIGURES)
    assert list(found) == ["A", "B", "C", "D", "E"] and min(found.values()) >= 8
    assert {figure.preset for figure in figures.FIGURES} == set(layouts.SYSTEMS) - {"dsb2018-mixed"}


def test_a_figure_that_drifts_would_be_found() -> None:
    changed = load_config("livecell-cbam", ["data.root=x", "training.batch=5"]).config
    figure = next(each for each in figures.FIGURES if each.preset == "livecell-cbam" and each.what == "batch")
    assert figure.path is not None and figures.resolved(changed, figure.path) != figure.ours


def test_a_variant_differs_from_its_preset_in_what_it_is_for() -> None:
    def without(name: str, *paths: str) -> dict[str, Any]:
        data = preset(name).model_dump(mode="json")
        data["run"].pop("name")
        for path in paths:
            *way, last = path.split(".")
            node: Any = data
            for key in way:
                node = node[int(key)] if isinstance(node, list) else node[key]
            node.pop(int(last) if isinstance(node, list) else last)
        return data

    folds = figures.A5
    assert without(figures.A, "rounds.folds") == without(folds, "rounds.folds")
    assert without(figures.B, "training.phases.1") == without(figures.SGD, "training.phases.1")
    assert without(figures.A, "fusion", "filter", "data")["models"] == without(figures.PRE, "fusion")["models"]


# --- a tiny round -----------------------------------------------------------------------------------


def shortened(name: str, root: Path) -> list[str]:
    """Options that cut the preset's schedule to two steps of two small crops, and make its larger networks small."""
    settings = [f"data.root={root / 'data'}", f"run.root={root / 'runs'}", *TINY]
    if name in LIMITED:
        settings += ["data.labelled_limit=7", "data.limit_rest=unlabelled"]
    if name.endswith("5fold"):
        settings += ["rounds.folds=2"]
    known = load_config(name, settings).config
    for i, model in enumerate(known.models):
        own = f"models.{i}.training" if model.training else "training"
        settings += [f"{own}.steps=2", f"{own}.epochs=null", f"{own}.batch=2", f"{own}.crop_px=64"]
        settings += [f"{own}.resize_px=64"] if known.training_of(model).resize_px else []
        if model.kind == "torchvision-maskrcnn":
            small = model.backbone if model.backbone == "resnet18-cbam" else "resnet18"
            settings += [f"models.{i}.backbone={small}", f"models.{i}.box_hidden=32", f"models.{i}.mask_hidden=16"]
        if isinstance(model, DetectorConfig):
            settings += [f"models.{i}.rpn_proposals=100", f"models.{i}.roi_batch=32", f"models.{i}.max_detections=8"]
        if model.inference:
            settings += [f"models.{i}.inference.scales=[1.0]", f"models.{i}.inference.tta=[identity]"]
    return [part for setting in dict.fromkeys(settings) for part in ("--set", setting)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name in layouts.SYSTEMS]
)
def test_a_preset_of_a_source_system_runs_a_round(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {model.kind for model in preset(name).models}
    if "detectron2-maskrcnn" in kinds and importlib.util.find_spec("detectron2") is None:
        pytest.skip(NO_DETECTRON2)
    monkeypatch.setattr(layouts, "SIZES", FEW)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setenv("CELLSEMI_HOME", str(tmp_path / "home"))
    layouts.SYSTEMS[name](tmp_path / "data")
    register_small(tmp_path, monkeypatch)
    done = invoke("round", "--config", name, "--n", "1", *shortened(name, tmp_path))
    assert done.exit_code == 0, done.output
    paths = RunPaths(tmp_path / "runs" / name)
    rows = leaderboard.read(paths.leaderboard)
    assert {row.model for row in rows} == {*(model.name for model in preset(name).models), "ensemble"}
    assert {row.round for row in rows} == {0, 1}
    assert all((row.coco_map is not None) == preset(name).rounds.coco for row in rows)
    suffix = ".fold-0" if preset(name).rounds.folds else ""
    for model in preset(name).models:
        about = read_model_file(paths.model(1, f"{model.name}{suffix}"))
        assert about.kind == model.kind and about.classes == preset(name).data.classes
        assert about.training.steps == 2


def register_small(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights under the names that the presets ask for."""

    def tiny(bsize: int) -> Any:
        return Tiny(bsize)

    monkeypatch.setattr(parts, "build_net", tiny)
    coco = MaskRcnnConfig(name="m", backbone="resnet18", box_hidden=32)
    states = {
        "cpsam": Tiny(256).state_dict(),
        "coco": build(coco, 90, 0, Form(frozen=True, mask_width=256)).state_dict(),
        "resnet50": torchvision.models.resnet18().state_dict(),
    }
    if importlib.util.find_spec("detectron2") is not None:
        from helpers.detectron2_small import SMALL, detectron2_net, make_small

        make_small(monkeypatch)
        states["detectron2-3x"] = detectron2_net.build(SMALL, 80, seed=0, scratch=False).state_dict()
    for name, state in states.items():
        file = root / f"{name}.pth"
        torch.save(state, file)
        weight_files.add(file, name, sha256=None, licence="", replaces=False)
