"""The presets of the five source systems, and the mixed one: each runs a tiny round, its schedule cut short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import layouts
from helpers.tiny_cellpose import Tiny

from cellsemi.configs.data import GeneratedConfig
from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config
from cellsemi.models import weight_files
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.model_files import read_model_file
from cellsemi.orchestrator.campaign import run_campaign
from cellsemi.orchestrator.engine.inline import InlineEngine
from cellsemi.orchestrator.events import SilentWatcher
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store import run

FEW = GeneratedConfig(labelled=9, unlabelled=1, val=2, test=2, height_px=64, width_px=96)
TINY = ["engine.min_free_mb=0", "rounds.promotion.bootstrap=100", "inference.threads=1", "rounds.control=false"]
UNLABELLED = ["data.labelled_limit=7", "data.limit_rest=unlabelled"]
NO_DETECTRON2 = "Detectron2 is not installed; `cellsemi doctor` says how"


def shortened(name: str, root: Path) -> Config:
    """The preset with two steps of two small crops a model, and its larger networks made small."""
    settings = [f"data.root={root / 'data'}", f"run.root={root / 'runs'}", *TINY]
    if name in ("maskrcnn-center-boundary", "livecell-cbam"):
        settings += UNLABELLED
    known = load_config(name, settings).config
    for i, model in enumerate(known.models):
        own = f"models.{i}.training" if model.training else "training"
        settings += [f"{own}.steps=2", f"{own}.batch=2", f"{own}.crop_px=64", f"{own}.frozen_steps=1"]
        if model.kind == "torchvision-maskrcnn":
            small = model.backbone if model.backbone == "resnet18-cbam" else "resnet18"
            settings += [f"models.{i}.backbone={small}", f"models.{i}.box_hidden=32", f"models.{i}.mask_hidden=16"]
            settings += [f"models.{i}.rpn_proposals=100", f"models.{i}.roi_batch=32"]
        if model.inference:
            settings += [f"models.{i}.inference.scales=[1.0]", f"models.{i}.inference.tta=[identity]"]
    return load_config(name, settings).config


@pytest.mark.parametrize("name", layouts.SYSTEMS)
def test_a_preset_of_a_source_system_runs_a_round(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "SIZES", FEW)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setenv("CELLSEMI_HOME", str(tmp_path / "home"))
    layouts.SYSTEMS[name](tmp_path / "data")
    config = shortened(name, tmp_path)
    kinds = {model.kind for model in config.models}
    if "detectron2-maskrcnn" in kinds and importlib.util.find_spec("detectron2") is None:
        pytest.skip(NO_DETECTRON2)
    if "cellpose-sam" in kinds:
        register_tiny(tmp_path, monkeypatch)
    paths = run.open_run(config)
    run_campaign(config, 1, InlineEngine(config.engine), paths, SilentWatcher())
    rows = leaderboard.read(paths.leaderboard)
    assert {row.model for row in rows} == {*(model.name for model in config.models), "ensemble"}
    assert {row.round for row in rows} == {0, 1}
    for model in config.models:
        about = read_model_file(paths.model(1, model.name))
        assert about.kind == model.kind and about.classes == config.data.classes


def register_tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network in the place of Cellpose's 1.2 GB, registered under the name that the preset asks for."""

    def build(bsize: int) -> Any:
        return Tiny(bsize)

    monkeypatch.setattr(parts, "build_net", build)
    file = root / "tiny.pth"
    torch.save(Tiny(256).state_dict(), file)
    weight_files.add(file, "cpsam", sha256=None, licence="", replaces=False)


def test_the_stated_settings_of_the_systems_are_kept() -> None:
    """Figures of the five reports, as they stand in the presets."""
    a = load_config("ensemble-cellpose-maskrcnn", ["data.root=x"]).config
    cellpose, detectron2 = a.models
    training = a.training_of(cellpose)
    assert (training.optimiser, training.backbone_lr, training.weight_decay, training.batch) == ("adamw", 1e-5, 0.1, 1)
    assert a.inference_of(cellpose).tile_size == (301, 302) and a.inference_of(cellpose).stride_px == (73, 134)
    assert a.training_of(detectron2).steps == 10000 and a.fusion.iou == 0.15
    assert a.inference_of(cellpose).min_area_px == 20
    b = load_config("maskrcnn-two-stage", ["data.root=x"]).config.training
    assert (b.optimiser, b.frozen_lr, b.warmup_steps, b.weight_decay, b.schedule) == ("sgd", 1e-3, 500, 5e-4, "step")
    d = load_config("maskrcnn-center-boundary", ["data.root=x"]).config.models[0]
    assert d.kind == "torchvision-maskrcnn" and d.centre_head and d.boundary_head and d.extra_weight == 0.5
    e = load_config("livecell-cbam", ["data.root=x"]).config
    assert e.models[0].kind == "torchvision-maskrcnn" and e.models[0].backbone == "resnet18-cbam"
    assert e.inference.grid is not None and (e.inference.grid.rows, e.inference.grid.window_rows) == (7, 3)
