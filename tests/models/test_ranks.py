"""Several processes that train one network compute what one process computes on the whole batch."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.pictures import quiet, record, task_in
from safetensors.torch import load
from torch import nn

from cellsemi.configs import errors
from cellsemi.configs.errors import CellsemiError, DataError, ModelError
from cellsemi.configs.models import FlowUnetConfig, MaskRcnnConfig
from cellsemi.configs.phases import AUGMENT_PRESETS, AugmentConfig, PhaseConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.model_files import read_weights
from cellsemi.models.ranks import fit_on_ranks
from cellsemi.models.registry import family
from cellsemi.models.training.checkpoint import CHECKPOINT_FILE
from cellsemi.models.training.together import SharedBatchNorm, mean_over_ranks
from cellsemi.rounds.store import shards

PHASES = (
    PhaseConfig(steps=2, optimiser="sgd"),
    PhaseConfig(steps=2, schedule="plateau", augment=AUGMENT_PRESETS["light"]),
)
TRAINING = TrainingConfig(
    steps=4, batch=4, crop_px=48, precision="float32", lr=1e-3, phases=PHASES, plateau_on="validation", patience_steps=1
)


def task(folder: Path, **changes: Any) -> FitTask:
    records = [record(0), record(1), record(2, "unlabelled", state="accepted", weight=0.4)]
    model = FlowUnetConfig(name="m", width=4)
    made = task_in(folder, records, model=model, training=TRAINING, human_fraction=0.5, **changes)
    return replace(made, validation=made.shards)


def losses(of: FitTask, file: str = "loss.parquet") -> Any:
    return pq.read_table(Path(of.out_dir) / file).to_pandas().to_numpy()


def test_two_ranks_train_as_one_process_does_and_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Crops of different weight on either side, batch norm and two phases included; gloo on the CPU."""
    alone = task(tmp_path)
    fit_on_ranks(FAMILY.fit, alone, quiet)
    pair = replace(alone, out_dir=str(tmp_path / "pair"), ranks=2, checkpoint_s=0)
    assert pair.fingerprint == alone.fingerprint

    def interrupt(step: int, steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_on_ranks(FAMILY.fit, pair, interrupt)
    assert (Path(pair.out_dir) / CHECKPOINT_FILE).is_file()
    assert fit_on_ranks(FAMILY.fit, pair, quiet).resumed_at == 2
    for file in ("loss.parquet", "validation_loss.parquet"):
        np.testing.assert_allclose(losses(pair, file), losses(alone, file), rtol=2e-4)
    found, expected = (load(read_weights(Path(each.out_dir))) for each in (pair, alone))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5, msg=name)
    assert {path.name for path in Path(pair.out_dir).iterdir()} == {path.name for path in Path(alone.out_dir).iterdir()}


def test_a_detector_is_trained_by_two_ranks(tmp_path: Path) -> None:
    """It draws other boxes than one process, so that only its course is the same."""
    model = MaskRcnnConfig(name="m", backbone="resnet18", augment=AugmentConfig(), rpn_proposals=100, roi_batch=32)
    training = TrainingConfig(steps=2, batch=4, crop_px=64, precision="float32")
    alone = task_in(tmp_path, [record(0), record(1)], model=model, training=training)
    pair = replace(alone, out_dir=str(tmp_path / "pair"), ranks=2)
    for each in (alone, pair):
        fit_on_ranks(family(model.kind).fit, each, quiet)
    np.testing.assert_allclose(losses(pair)[:, 1], losses(alone)[:, 1], rtol=0.3)


def test_an_error_on_another_rank_is_the_error_of_the_fit(tmp_path: Path) -> None:
    """The second rank meets cells in a state that cannot train while the first one waits for it."""
    good = task(tmp_path)
    bad = task(tmp_path / "bad")
    path = Path(bad.shards[0])
    shards.write_shard(path, [record(0, state="predicted")], "x")

    def waits(_: FitTask, __: Any) -> Any:
        mean_over_ranks(torch.ones(1))

    with pytest.raises(DataError, match="cannot train"):
        fit_on_ranks(waits, replace(bad, ranks=2), quiet)
    with pytest.raises(ModelError, match=r"batch 4 is less than engine\.workers_per_student 5"):
        fit_on_ranks(FAMILY.fit, replace(good, ranks=5), quiet)


def test_shared_batch_norm_is_batch_norm_where_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellsemi.models.training.together.sum_over_ranks", lambda sums: sums)
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    with torch.no_grad():
        plain.weight.uniform_()
        plain.bias.uniform_()
    shared = copy.deepcopy(plain)
    shared.__class__ = SharedBatchNorm
    x = torch.randn(4, 3, 5, 5) * 3 + 7
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    out, expected = shared(ours), plain(theirs)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)
    torch.testing.assert_close(shared.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("kind", [*CellsemiError.__subclasses__(), CellsemiError])
def test_every_error_of_ours_survives_the_way_between_processes(kind: type[CellsemiError]) -> None:
    made = kind("a.png", "is damaged", "take another") if kind is errors.ImageError else kind("is damaged")
    back = pickle.loads(pickle.dumps(made))  # noqa: S301 (made here)
    assert type(back) is kind and str(back) == str(made)
