"""Cellpose-SAM is fine-tuned, loaded and exported, with a tiny network; with the real one once, marked slow."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cellpose import models as stock
from helpers.model_folder import UNET, at_scale, write_model
from helpers.pictures import quiet
from helpers.tiny_cellpose import SIDE, TRAINING, Tiny, discs, record, task_in
from safetensors.torch import load_file

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import CellposeSamConfig
from cellsemi.configs.phases import PhaseConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import ExportTask
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.cellpose_sam.export import export_cellpose
from cellsemi.models.cellpose_sam.family import FAMILY
from cellsemi.models.cellpose_sam.parts import cellpose_pixels
from cellsemi.models.model_files import LOSS_FILE, WEIGHTS_FILE, read_model_file

REAL = parts.build_net


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "build_net", Tiny)
        task = task_in(folder, [record(i) for i in range(3)], classes=("a", "b"))
        assert isinstance(task.model, CellposeSamConfig)
        task = replace(task, model=task.model.model_copy(update={"flow_threshold": 0.0}))
        result = FAMILY.fit(task, quiet)
    assert result.steps == 40 and result.parameters > 9000
    return folder / "out"


def test_every_part_of_the_loss_falls_and_the_start_is_recorded(trained: Path) -> None:
    loss = pq.read_table(trained / LOSS_FILE)
    for name in ("loss", "prob_loss", "flow_loss", "class_loss"):
        values = loss[name].to_numpy()
        assert values[-8:].mean() < 0.9 * values[:3].mean(), name
    about = read_model_file(trained)
    assert isinstance(about.model, CellposeSamConfig) and about.model.bsize == SIDE
    assert about.started_from is not None
    assert len(about.started_from.sha256) == 64 and about.started_from.unused == ()


def test_an_earlier_model_is_the_start_with_its_class_head(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "build_net", Tiny)
    task = task_in(tmp_path, [record(0)], steps=1, classes=("a", "b"))
    assert isinstance(task.model, CellposeSamConfig)
    still = task.training.model_copy(update={"lr": 1e-12, "backbone_lr": 1e-12, "ema": 0.0})
    earlier = replace(task, training=still, model=task.model.model_copy(update={"weights": str(trained)}))
    FAMILY.fit(earlier, quiet)
    before, after = (load_file(folder / WEIGHTS_FILE) for folder in (trained, tmp_path / "out"))
    assert before.keys() == after.keys() and any(name.startswith("classes.") for name in after)
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())
    start = read_model_file(tmp_path / "out").started_from
    assert start is not None and start.random == () and start.before == read_model_file(trained).started_from
    with pytest.raises(ModelError, match="its classes are a, b, the run's are b, a"):
        FAMILY.fit(replace(earlier, classes=("b", "a")), quiet)


def test_a_checkpoint_of_other_start_weights_is_not_continued(tmp_path: Path) -> None:
    task = task_in(tmp_path, [record(0)], steps=12)

    def interrupt(step: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FAMILY.fit(task, interrupt)
    torch.manual_seed(6)
    torch.save(Tiny(SIDE).state_dict(), tmp_path / "tiny.pth")
    assert FAMILY.fit(task, quiet).resumed_at == 0


def test_the_first_stage_trains_the_class_head_alone(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"frozen": "body"})
    task = task_in(tmp_path, [record(0)], steps=4, training=training, classes=("a", "b"))
    start = torch.load(tmp_path / "tiny.pth")
    FAMILY.fit(task, quiet)
    export_cellpose(tmp_path / "out", tmp_path / "stage1.pth")
    frozen = torch.load(tmp_path / "stage1.pth")
    assert all(torch.equal(value, start[name]) for name, value in frozen.items())
    both_stages = training.model_copy(
        update={"phases": (PhaseConfig(steps=4, frozen="body"), PhaseConfig(steps=4, frozen="none"))}
    )
    FAMILY.fit(replace(task, steps=8, training=both_stages, out_dir=str(tmp_path / "both")), quiet)
    export_cellpose(tmp_path / "both", tmp_path / "stage2.pth")
    both = torch.load(tmp_path / "stage2.pth")
    assert {name for name in both if not torch.equal(both[name], start[name])} == {
        "pos_embed", "stem.weight", "stem.bias", "out.weight", "out.bias",
    }  # fmt: skip


def test_the_network_has_the_backbones_rate_with_one_class_too(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"frozen": "body", "backbone_lr": 1e-12})
    task = task_in(tmp_path, [record(0)], steps=4, training=training)
    start = torch.load(tmp_path / "tiny.pth")
    changes = []
    for rate in (1e-12, None):
        given = training.model_copy(update={"backbone_lr": rate})
        FAMILY.fit(replace(task, training=given), quiet)
        export_cellpose(tmp_path / "out", tmp_path / "after.pth")
        after = torch.load(tmp_path / "after.pth")
        changes.append(float((after["out.weight"] - start["out.weight"]).abs().max()))
    assert changes[0] < 1e-8 and changes[1] > 1e-2


def test_the_export_is_the_network_alone_and_can_be_started_from(trained: Path, tmp_path: Path) -> None:
    left = export_cellpose(trained, tmp_path / "cellpose.pth")
    assert left and all(name.startswith("classes.") for name in left)
    exported = torch.load(tmp_path / "cellpose.pth", weights_only=True)
    assert list(exported) != [] and set(exported) == set(Tiny(SIDE).state_dict())
    Tiny(SIDE).load_state_dict(exported)
    write = FAMILY.exports["cellpose"].write
    assert not any("diameter" in note for note in write(ExportTask(trained, tmp_path / "note.pth", InferenceConfig())))
    halved = ExportTask(at_scale(trained, tmp_path / "half", 0.5), tmp_path / "note.pth", InferenceConfig())
    assert any("diameter=60 " in note for note in write(halved))  # Cellpose resizes by 30 / diameter
    one = task_in(tmp_path, [record(0)], steps=1)
    assert isinstance(one.model, CellposeSamConfig)
    FAMILY.fit(replace(one, model=one.model.model_copy(update={"weights": str(tmp_path / "cellpose.pth")})), quiet)
    assert export_cellpose(tmp_path / "out", tmp_path / "again.pth") == []
    (tmp_path / "other").mkdir()
    write_model(tmp_path / "other", UNET, b"")
    with pytest.raises(ModelError, match="kind flow-unet"):
        export_cellpose(tmp_path / "other", tmp_path / "never.pth")
    assert not (tmp_path / "never.pth").exists()


@pytest.mark.slow
def test_the_real_network_is_fine_tuned_and_opened_by_stock_cellpose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "build_net", REAL)
    torch.manual_seed(0)
    path = tmp_path / "random.pth"
    torch.save(REAL(256).state_dict(), path)
    torch.set_num_threads(2)
    training = TRAINING.model_copy(update={"batch": 1, "lr": 1e-5, "weight_decay": 0.1, "threads": 2})
    task = task_in(
        tmp_path, [record(0)], steps=1, training=training, classes=("a", "b"),
        model=CellposeSamConfig(name="m", weights=str(path)),
    )  # fmt: skip
    result = FAMILY.fit(task, quiet)
    assert result.parameters > 304_000_000 and np.isfinite(result.loss)
    path.unlink()
    export_cellpose(tmp_path / "out", tmp_path / "cellpose.pth")
    with caplog.at_level(logging.WARNING, logger="cellpose"):
        model = stock.CellposeModel(pretrained_model=str(tmp_path / "cellpose.pth"), gpu=False, use_bfloat16=False)
    assert not caplog.records and model.pretrained_model == str(tmp_path / "cellpose.pth")
    ours = FAMILY.load(tmp_path / "out", InferenceConfig(tta=("identity",), threads=2), "cpu")
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, ours._net.state_dict()[f"net.{name}"]), name
    image = discs(0)[0]
    outputs, _ = ours.outputs(image)
    tile = np.pad(cellpose_pixels(image), ((0, 184), (0, 184), (0, 0)), mode="symmetric")
    with torch.inference_mode():
        raw = model.net.eval()(torch.from_numpy(np.moveaxis(tile, -1, 0).copy())[None])[0][0, :, :72, :72].numpy()
    np.testing.assert_allclose(outputs[1:3], raw[:2] / 5, atol=1e-4)
    np.testing.assert_allclose(outputs[0], 1 / (1 + np.exp(-raw[2])), atol=1e-4)
