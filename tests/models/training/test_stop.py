"""SIGTERM ends a process at once, or in a deferred block at its next look at the flag, with a last checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cellsemi.configs.training import TrainingConfig
from cellsemi.models.training import stop
from cellsemi.models.training.loop import Loop, LossParts

CONFIG = TrainingConfig(precision="float32", ema=0)


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    stop.catch_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_outside_of_a_block_it_ends_at_once() -> None:
    with pytest.raises(stop.Terminated):
        terminate()
    assert stop.wanted()
    with pytest.raises(stop.Terminated):
        stop.stop_if_wanted()
    stop.stop_if_wanted()  # answered: what cleans up is not stopped


def test_in_a_block_it_waits_for_a_look_or_for_the_end() -> None:
    reached = []
    with pytest.raises(stop.Terminated), stop.deferred():
        with stop.deferred():
            terminate()
            reached.append("inside")
            stop.wanted()
        reached.append("never")
    assert reached == ["inside"]
    with pytest.raises(stop.Terminated), stop.deferred():
        terminate()
        reached.append("to the end")
    assert reached == ["inside", "to the end"] and not stop.wanted()


def test_a_library_cannot_replace_the_handler() -> None:
    ours = signal.getsignal(signal.SIGTERM)
    with stop.keeping_handler():
        assert signal.signal(signal.SIGTERM, signal.SIG_DFL) == ours
        assert signal.getsignal(signal.SIGTERM) == ours
    assert signal.getsignal(signal.SIGTERM) == ours
    assert signal.signal(signal.SIGTERM, ours) == ours


def fit(folder: Path, stop_at: int | None = None) -> tuple[int, dict[str, Tensor]]:
    """Train one weight for 9 steps; SIGTERM comes in the middle of a step."""
    torch.manual_seed(0)

    def loss_of(net: nn.Module, _: int, step: int) -> LossParts:
        if step == stop_at:
            terminate()
        total = ((net(torch.ones(1, 1, 1, 1)) - step) ** 2).mean()
        return LossParts(total, {})

    made = Loop(
        nn.Conv2d(1, 1, 1), CONFIG, steps=9, folder=folder, fingerprint="a", precision="float32",
        device=torch.device("cpu"),
    )  # fmt: skip
    trained = made.run(lambda step: step, loss_of, lambda done, steps: None)
    return trained.resumed_at, trained.weights


def test_a_training_writes_a_last_checkpoint_and_goes_on_from_it(tmp_path: Path) -> None:
    with pytest.raises(stop.Terminated):
        fit(tmp_path / "cut", stop_at=4)
    resumed_at, weights = fit(tmp_path / "cut")
    _, whole = fit(tmp_path / "whole")
    assert resumed_at == 5 and all(torch.equal(weights[name], whole[name]) for name in whole)
