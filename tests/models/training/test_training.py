"""The loop: schedule, averages, losses that ignore what they should, resume to the same bits, NaN guard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.flow_batches import as_batch
from helpers.flow_loops import a_batch, digest, loss_of, made, stop_at
from helpers.pictures import quiet
from torch import nn

from cellsemi.configs.errors import TrainingDiverged
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.flow.batch import FlowBatch
from cellsemi.models.flow.loss import flow_loss
from cellsemi.models.flow_unet.net import build
from cellsemi.models.training import precision
from cellsemi.models.training.checkpoint import CHECKPOINT_FILE, Checkpoint, Curves, StepRecord
from cellsemi.models.training.device import compute_settings, pick_device
from cellsemi.models.training.loop import Averaged, Loop, LossParts
from cellsemi.models.training.precision import choose_precision, native_bfloat16
from cellsemi.models.training.schedule import course, one_cycle
from cellsemi.models.training.usage import Usage
from cellsemi.models.training.validation_loss import ValidationRecord

CONFIG = TrainingConfig(batch=2, crop_px=32, precision="float32")


def loop(folder: Path, steps: int = 10, fingerprint: str = "a", config: TrainingConfig = CONFIG) -> Loop:
    return Loop(
        build(FlowUnetConfig(name="m", width=4), ("a", "b", "c"), 0),
        config,
        steps=steps,
        folder=folder,
        fingerprint=fingerprint,
        precision="float32",
        device=torch.device("cpu"),
        checkpoint_s=0,
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As fit does: small tensors on many threads cost more than they gain."""
    with compute_settings(1):
        yield


def test_a_resumed_fit_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = loop(tmp_path / "whole").run(made, loss_of, quiet)
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path / "cut").run(made, loss_of, stop_at(4))
    resumed = loop(tmp_path / "cut").run(made, loss_of, quiet)
    assert (whole.resumed_at, resumed.resumed_at) == (0, 4)
    assert digest(resumed) == digest(whole)
    assert resumed.curves.records == whole.curves.records and len(whole.curves.records) == 10


def test_a_checkpoint_of_another_task_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path).run(made, loss_of, stop_at(4))
    other = loop(tmp_path, fingerprint="b")
    assert other.run(made, loss_of, quiet).resumed_at == 0
    other.clear()
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_not_continued(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / CHECKPOINT_FILE, "a")
    assert checkpoint.read() is None
    record = StepRecord(1, 1.0, {"prob": 0.5, "flow": 0.5}, 0.1, 2.0)
    curves = Curves((record,), (ValidationRecord(1, 0.5, {"prob": 0.5}),), (Usage(1, 0.25, 100.0, None),))
    checkpoint.write({"w": torch.arange(3.0)}, 1, "bfloat16", curves)
    found = checkpoint.read()
    assert found is not None and (found.step, found.precision, found.curves) == (1, "bfloat16", curves)
    content = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(content[: len(content) // 2])
    assert checkpoint.read() is None


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    def bad(net: nn.Module, batch: FlowBatch, step: int) -> LossParts:
        parts = loss_of(net, batch, step)
        return LossParts(parts.total * (float("nan") if step == 6 else 1), parts.parts)

    with pytest.raises(TrainingDiverged, match=r"step 7 of 10.*lower training\.lr.*checkpoint: step 6"):
        loop(tmp_path).run(made, bad, quiet)
    assert (tmp_path / CHECKPOINT_FILE).is_file()


def test_training_lowers_the_loss_on_one_batch(tmp_path: Path) -> None:
    trained = loop(tmp_path, steps=40).run(lambda _: a_batch(0), loss_of, quiet)
    first, last = trained.curves.records[0], trained.curves.records[-1]
    assert last.loss < 0.8 * first.loss
    assert all(last.parts[name] < first.parts[name] for name in ("prob", "flow"))


def test_progress_is_reported_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    fit = loop(tmp_path, steps=13)
    fit.run(made, loss_of, lambda step, steps: calls.append((step, steps)))
    assert calls == [(step, 13) for step in range(1, 14)], "after each checkpoint"
    calls.clear()
    clock = iter(range(1000))
    monkeypatch.setattr("cellsemi.models.training.loop.time.monotonic", lambda: next(clock) / 4)
    seldom = Loop(
        build(FlowUnetConfig(name="m", width=4), ("a", "b", "c"), 0), CONFIG, steps=13, folder=tmp_path / "b",
        fingerprint="a", precision="float32", device=torch.device("cpu"),
    )  # fmt: skip
    seldom.run(made, loss_of, lambda step, steps: calls.append((step, steps)))
    assert calls == [(4, 13), (8, 13), (12, 13), (13, 13)], "once a second, and at the end"


def test_one_cycle_rises_once_and_falls_once() -> None:
    found = [2e-3 * one_cycle(step, 300) for step in range(300)]
    top = int(np.argmax(found))
    assert top == 45 and found[top] == pytest.approx(2e-3)
    assert (np.diff(found[: top + 1]) > 0).all() and (np.diff(found[top:]) < 0).all()
    assert found[0] == pytest.approx(8e-5) and found[-1] == pytest.approx(2e-6)
    assert all(0 < one_cycle(0, steps) <= 1 for steps in (1, 2, 3))


def test_the_schedules_are_those_of_their_names() -> None:
    config = TrainingConfig(schedule="step", decay_at=(0.5, 0.8), decay_factor=0.1, warmup_steps=4)
    found = [course(step, 20, config) for step in range(20)]
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert found[9:11] == pytest.approx([1, 0.1]) and found[15:17] == pytest.approx([0.1, 0.01])
    cosine = TrainingConfig(schedule="cosine", warmup_steps=2)
    assert [course(step, 12, cosine) for step in (0, 1, 2, 7, 12)] == pytest.approx([0.5, 1, 1, 0.5, 0])
    assert {course(step, 9, TrainingConfig(schedule="constant")) for step in range(9)} == {1.0}


def test_a_plateau_is_a_window_that_is_no_better_than_the_best() -> None:
    config = TrainingConfig(schedule="plateau", patience_steps=3, decay_factor=0.5)
    losses = [3.0, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1.5, 1.5, 1.5]
    found = [course(step, 99, config, losses[:step]) for step in (0, 6, 8, 9, 12, 15)]
    assert found == [1, 1, 1, 0.5, 0.5, 0.25]


def test_the_average_is_that_of_its_definition() -> None:
    net = nn.BatchNorm1d(1)
    average = Averaged(net, 0.9)
    expected = net.weight.item()
    for step, value in enumerate([3.0, 5.0, 1.0, 4.0]):
        with torch.no_grad():
            net.weight.fill_(value)
            net.num_batches_tracked.fill_(step)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.values["weight"].item() == pytest.approx(expected)
    assert average.values["num_batches_tracked"].item() == 3


def test_without_averaging_the_last_weights_are_kept(tmp_path: Path) -> None:
    fit = loop(tmp_path, steps=3, config=CONFIG.model_copy(update={"ema": 0.0}))
    trained = fit.run(made, loss_of, quiet)
    assert all(torch.equal(trained.weights[name], value) for name, value in fit._net.state_dict().items())


def gradients(batch: FlowBatch) -> tuple[float, torch.Tensor]:
    net = build(FlowUnetConfig(name="m", width=4), ("a", "b", "c"), 1).eval()
    loss = flow_loss(net(batch.images), batch).total
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def test_what_is_under_an_ignored_cell_changes_no_gradient() -> None:
    one, other = a_batch(0, 3), a_batch(1, 3)
    ignored = np.zeros((2, 32, 32), bool)
    ignored[:, 5:20, 8:30] = True
    weight = np.where(ignored, 0, 1.7).astype(np.float32)
    one = as_batch(one.images, one.inside, one.flow, one.class_id, weight)
    mixed = as_batch(
        one.images,
        np.where(ignored, other.inside, one.inside),
        np.where(ignored[:, None], other.flow, one.flow),
        np.where(ignored, other.class_id, one.class_id),
        weight,
    )
    (loss, gradient), (mixed_loss, mixed_gradient) = gradients(one), gradients(mixed)
    assert loss == mixed_loss and torch.equal(gradient, mixed_gradient)
    assert gradient.abs().max() > 0
    all_seen = as_batch(mixed.images, mixed.inside, mixed.flow, mixed.class_id, np.ones_like(weight))
    assert not torch.equal(gradients(all_seen)[1], gradient)


def test_no_weight_at_all_is_no_loss_and_no_gradient() -> None:
    batch = a_batch(0, 3)
    loss, gradient = gradients(
        as_batch(batch.images, batch.inside, batch.flow, batch.class_id, np.zeros_like(batch.weight))
    )
    assert loss == 0 and not gradient.any()


def test_the_loss_of_known_outputs() -> None:
    """Logit 0 costs ln 2; a zero vector against a unit vector costs 1/2; even class logits cost ln 3."""
    parts = flow_loss(torch.zeros(2, 6, 32, 32), a_batch(0, 3))
    assert parts.parts["prob"].item() == pytest.approx(math.log(2), rel=1e-5)
    assert parts.parts["flow"].item() == pytest.approx(0.5, rel=1e-5)
    assert parts.parts["class"].item() == pytest.approx(math.log(3), rel=1e-5)


def test_settings_are_put_back() -> None:
    before = torch.get_num_threads()
    with compute_settings(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert pick_device("auto").type in ("cpu", "cuda")


def test_a_stated_precision_is_taken_and_auto_asks_what_the_hardware_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not how fast it is at the moment: on a busy machine that is chance."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("time.perf_counter", lambda: 1 / 0)
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    assert (choose_precision("auto", cpu), native_bfloat16(cpu)) == ("float32", "")  # no such file: not Linux
    for flags, native in [
        ("avx512f avx512_bf16 amx_bf16", "amx_bf16"),
        ("avx2 avx512_bf16", "avx512_bf16"),
        ("avx", ""),
    ]:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags: fpu\n")
        assert native_bfloat16(cpu) == native
        assert choose_precision("auto", cpu) == ("bfloat16" if native else "float32")


@pytest.mark.parametrize(
    ("compute", "native"), [((7, 5), ""), ((8, 0), "CUDA compute 8.0"), ((9, 0), "CUDA compute 9.0")]
)
def test_bfloat16_on_a_gpu_goes_by_its_compute_capability(
    compute: tuple[int, int], native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: compute)
    assert native_bfloat16(torch.device("cuda")) == native
