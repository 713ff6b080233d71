"""A small network that was trained on discs, for all tests of the family."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.pictures import quiet, record, task_in

from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.flow_unet.family import FAMILY

TRAINING = TrainingConfig(steps=60, batch=4, crop_px=48, lr=5e-3, ema=0.9, precision="float32")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    model = FlowUnetConfig(name="m", width=6)
    task = task_in(folder, [record(i) for i in range(5)], steps=150, model=model, training=TRAINING)
    result = FAMILY.fit(task, quiet)
    assert result.steps == 150 and result.resumed_at == 0 and result.parameters < 2_000_000
    return folder / "out"
