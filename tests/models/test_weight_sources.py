"""The table of published weights: true to what the publishers' own packages state, and nothing is fetched."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights

from cellsemi.configs.loading import load_config
from cellsemi.models.registry import FAMILIES
from cellsemi.models.weight_sources import SOURCES, WeightSource

BY_NAME = {source.file: source for source in SOURCES}
PUBLISHED = (
    MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    ResNet50_Weights.IMAGENET1K_V1,
    ResNet18_Weights.IMAGENET1K_V1,
)


@pytest.mark.parametrize("weights", PUBLISHED, ids=str)
def test_torchvision_states_the_same(weights: MaskRCNN_ResNet50_FPN_Weights) -> None:
    source = BY_NAME[weights.url.rpartition("/")[2]]
    assert source.address == weights.url
    assert source.megabytes == pytest.approx(weights.meta["_file_size"] * 1.024**2, abs=0.1)
    assert re.fullmatch("[0-9a-f]{8}", source.sha256) and f"-{source.sha256}.pth" in source.file


def test_cellpose_fetches_from_the_same_place() -> None:
    found = importlib.util.find_spec("cellpose")
    assert found is not None and found.origin is not None
    text = (Path(found.origin).parent / "models.py").read_text()
    place, _, name = BY_NAME["cpsam"].address.rpartition("/")
    assert f'"{place}/"' in text and f'"{name}"' in text


def test_detectron2_has_the_same_addresses() -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    found = importlib.util.find_spec("detectron2")
    assert found is not None and found.origin is not None
    root = Path(found.origin).parent
    text = (root / "model_zoo" / "model_zoo.py").read_text() + (root / "checkpoint" / "catalog.py").read_text()
    for source in SOURCES:
        if source.kind == "detectron2-maskrcnn":
            rest = source.address.removeprefix("https://dl.fbaipublicfiles.com/detectron2/")
            parts = rest.rsplit("/", 2) if "model_final" in rest else [rest]
            assert rest != source.address
            assert f'"{parts[0]}"' in text and ("/".join(parts[1:]) in text), source.file


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.file)
def test_every_row_is_whole(source: WeightSource) -> None:
    assert shlex.split(source.fetch) == ["curl", "-L", "-o", source.file, source.address]
    assert source.address.startswith("https://") and source.licence and source.what
    assert re.fullmatch("|[0-9a-f]{8}|[0-9a-f]{64}", source.sha256)
    assert source.kind in {None, *FAMILIES}
    if source.kind is not None:
        settings = f", {source.settings}" if source.settings else ""
        entry = f"[{{kind: {source.kind}, name: m, weights: {source.file}{settings}}}]"
        assert load_config("demo", [f"models={entry}", "data.classes=[cell]"]).config.models[0].kind == source.kind


def test_each_file_is_there_once() -> None:
    assert len(BY_NAME) == len(SOURCES)
