"""Phases: lengths, rates, optimisers and frozen parts of each; a training that is cut resumes to the same bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.flow_loops import digest, loss_of, made, stop_at
from helpers.pictures import quiet
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cellsemi.configs.errors import ConfigError, ModelError
from cellsemi.configs.loading import load_config
from cellsemi.configs.models import FlowUnetConfig, MaskRcnnConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.flow_unet.net import build
from cellsemi.models.torchvision_maskrcnn import net as maskrcnn
from cellsemi.models.training.device import compute_settings
from cellsemi.models.training.loop import Loop
from cellsemi.models.training.schedule import Parts, course, freeze, rates
from cellsemi.models.training.validation_loss import ValidationBatches

ENCODER = Parts(body=("encoder",), backbone=("encoder", "bottom"), heads=("head",), predictors=("head",))
THREE = TrainingConfig(
    batch=2,
    crop_px=32,
    precision="float32",
    ema=0.9,
    schedule="constant",
    phases=(
        {"steps": 4, "optimiser": "sgd", "lr": 1e-3, "frozen": "body", "warmup_steps": 2},
        {"steps": 3, "lr": 1e-4, "backbone_lr": 1e-5},
        {"steps": 3, "lr": 1e-2, "schedule": "plateau"},
    ),  # type: ignore[arg-type]
)


def loop(folder: Path, config: TrainingConfig = THREE, steps: int = 10) -> Loop:
    return Loop(
        build(FlowUnetConfig(name="m", width=4), ("a", "b", "c"), 0), config, steps=steps, folder=folder,
        fingerprint="a", precision="float32", device=torch.device("cpu"), parts=ENCODER, checkpoint_s=0,
    )  # fmt: skip


# --- lengths ----------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 64), st.floats(0.01, 300))
def test_epochs_show_each_human_image_so_often(images: int, batch: int, epochs: float) -> None:
    training = TrainingConfig(batch=batch, epochs=epochs).in_steps(images)
    assert isinstance(training.steps, int) and training.epochs is None
    assert training.steps == max(1, math.ceil(round(epochs * images / batch, 6)))
    assert training.steps * batch >= epochs * images - 1e-3 and (training.steps - 1) * batch <= epochs * images


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.integers(1, 4000))
def test_phases_cover_every_step_once_in_proportion(lengths: list[int], steps: int) -> None:
    training = TrainingConfig(phases=tuple({"steps": each} for each in lengths))  # type: ignore[arg-type]
    assert training.in_steps(7).steps == sum(lengths)
    phases = training.in_phases(steps)
    assert [step for phase in phases for step in range(phase.first, phase.last)] == list(range(steps))
    if steps == sum(lengths):
        assert [phase.last - phase.first for phase in phases] == lengths


def test_epochs_of_a_phase_and_between_decays_become_steps() -> None:
    training = TrainingConfig(
        batch=2,
        decay_every_epochs=3,
        phases=({"epochs": 10}, {"epochs": 50, "decay_every_epochs": 0.5}, {"steps": 7, "decay_at": (0.5,)}),
    ).in_steps(480)  # type: ignore[arg-type]
    assert training.steps == 2400 + 12000 + 7 and not training.counts_epochs
    first, second, third = (phase.training for phase in training.in_phases(training.steps))
    assert (first.decay_every_steps, second.decay_every_steps, third.decay_every_steps) == (720, 120, None)


def test_a_stated_number_of_steps_keeps_the_proportions() -> None:
    training = THREE.model_copy(update={"steps": 20}).in_steps(1)
    assert training.steps == 20 and [phase.first for phase in training.in_phases(20)] == [0, 8, 14]
    assert len(THREE.in_phases(1)) == 1, "a phase without a step is none"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.epochs=2", "training.steps=9"], "state `steps` or `epochs`"),
        (["training.phases=[{lr: 1.0}]"], "a phase states its length"),
        (["training.phases=[{steps: 1, epochs: 1}]"], "a phase states its length"),
        (["training.frozen=body"], "unet-a .flow-unet. has no part to freeze"),
        (["training.phases=[{steps: 1, frozen: body}]"], "has no part to freeze"),
        (["training.resize_px=512", "training.cell_px=30"], "two sizes for one image"),
        (["training.decay_every_steps=5", "training.decay_every_epochs=5"], "not both"),
    ],
)
def test_what_contradicts_itself_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("demo", ["models=[{kind: flow-unet, name: unet-a}]", "training.steps=auto", *settings])


def test_what_a_teacher_that_is_not_trained_cannot_freeze_does_not_matter() -> None:
    models = "models=[{kind: masks, name: a, folder: x}, {kind: torchvision-maskrcnn, name: b}]"
    assert load_config("demo", [models, "training.frozen=body"]).config.training.freezes


def test_a_model_states_epochs_where_all_state_steps() -> None:
    settings = ["training.steps=9", "models=[{kind: flow-unet, name: a, training: {epochs: 2}}]"]
    config = load_config("demo", settings).config
    assert (config.training_of(config.models[0]).epochs, config.training_of(config.models[0]).steps) == (2, "auto")


# --- rates ------------------------------------------------------------------------------------------


def torch_rates(make: Any, steps: int, lr: float = 0.5) -> list[float]:
    """The rates of one of torch's schedulers."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(optimiser)
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_decays_are_those_of_torch() -> None:
    every = TrainingConfig(lr=0.5, schedule="step", decay_every_steps=6, decay_factor=0.1)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 6, 0.1), 20)
    assert [rates(step, 20, every).head for step in range(20)] == pytest.approx(expected)
    three = TrainingConfig(lr=0.5, schedule="step", decay_at=(210 / 270, 250 / 270), decay_factor=0.1)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [210, 250], 0.1), 270)
    assert [rates(step, 270, three).head for step in range(270)] == pytest.approx(expected)


def test_a_plateau_of_the_validation_loss_is_that_of_torch() -> None:
    config = TrainingConfig(schedule="plateau", plateau_on="validation", patience_steps=50, decay_factor=0.5)
    losses = [3.0, 2.0, 2.0, 2.5, 1.0, 1.5, 0.5]
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=0, threshold=0)
    for count in range(1, len(losses) + 1):
        torchs.step(losses[count - 1])
        assert course(50 * count, 500, config, losses[:count]) == optimiser.param_groups[0]["lr"]


# --- the loop ---------------------------------------------------------------------------------------


def test_each_phase_has_its_rates_and_the_last_weights_are_the_same_after_any_cut(tmp_path: Path) -> None:
    with compute_settings(1):
        whole = loop(tmp_path / "whole").run(made, loss_of, quiet)
        found = [record.lr for record in whole.curves.records]
        assert found == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-2, 1e-2, 1e-2])
        for stop in (2, 4, 5, 7, 9):  # within a phase, and where one ends
            folder = tmp_path / f"cut{stop}"
            with pytest.raises(KeyboardInterrupt):
                loop(folder).run(made, loss_of, stop_at(stop))
            resumed = loop(folder).run(made, loss_of, quiet)
            assert resumed.resumed_at == stop and digest(resumed) == digest(whole)
            assert resumed.curves.records == whole.curves.records


def test_a_frozen_body_stays_and_then_moves(tmp_path: Path) -> None:
    fit = loop(tmp_path)
    start = {name: value.clone() for name, value in fit._net.named_parameters()}

    def moved() -> set[str]:
        return {name for name, value in fit._net.named_parameters() if not torch.equal(value, start[name])}

    seen = []
    with compute_settings(1):
        fit.run(made, loss_of, lambda step, _: seen.append(any(name.startswith("encoder") for name in moved())))
    assert seen == [False] * 4 + [True] * 6


def test_a_phase_that_watches_the_validation_loss_decays_and_resumes(tmp_path: Path) -> None:
    config = THREE.model_copy(update={"phases": ()})
    config = config.model_copy(update={"schedule": "plateau", "plateau_on": "validation", "patience_steps": 2})
    config = config.model_copy(update={"lr": 1e-9, "decay_factor": 0.5, "ema": 0.0})  # it learns nothing
    validation = ValidationBatches(made, 1)
    with compute_settings(1):
        whole = loop(tmp_path / "whole", config).run(made, loss_of, quiet, validation)
        assert {2, 4, 6, 8, 10} <= {record.step for record in whole.curves.validation}
        looked = [record.loss for record in whole.curves.validation if record.step % 2 == 0]
        decays = [sum(b >= min(looked[: i + 1]) for i, b in enumerate(looked[1:k])) for k in range(1, 6)]
        expected = [1e-9 * 0.5**count for count in [0, *decays[:4]] for _ in range(2)]
        assert [record.lr for record in whole.curves.records] == pytest.approx(expected)
        with pytest.raises(KeyboardInterrupt):
            loop(tmp_path / "cut", config).run(made, loss_of, stop_at(5), validation)
        resumed = loop(tmp_path / "cut", config).run(made, loss_of, quiet, validation)
        assert digest(resumed) == digest(whole) and resumed.curves.validation == whole.curves.validation
        with pytest.raises(ModelError, match="needs annotated validation images"):
            loop(tmp_path / "none", config).run(made, loss_of, quiet)


def test_gradients_are_not_clipped_without_a_limit(tmp_path: Path) -> None:
    weights = []
    with compute_settings(1):
        for limit in (None, 1e6, 1e-3):
            config = THREE.model_copy(update={"phases": (), "optimiser": "sgd", "grad_clip": limit})
            fit = loop(tmp_path / str(limit), config, steps=2)
            weights.append(digest(fit.run(made, loss_of, quiet)))
    assert weights[0] == weights[1] != weights[2]


# --- parts ------------------------------------------------------------------------------------------


def trained(net: nn.Module, **settings: Any) -> int:
    names = [name for name, _ in net.named_parameters()]
    freeze(net, maskrcnn.PARTS, TrainingConfig(**settings), names)
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def test_the_trained_parameters_of_a_transfer_are_those_of_torchvision() -> None:
    """16,529,164 and 43,699,995 are what the report of system E states of its two stages."""
    form = maskrcnn.Form(frozen=True, mask_width=256)
    net = maskrcnn.build(MaskRcnnConfig(name="m"), 1, 0, form)
    assert trained(net, frozen="all-but-heads") == 16_529_164 and trained(net, freeze_at=2) == 43_699_995
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    counts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in theirs.named_modules()
        if name in ("", "backbone", "backbone.body", "roi_heads.box_predictor", "roi_heads.mask_predictor")
    }
    frozen_norm = sum(p.numel() for name, p in theirs.named_parameters() if ".bn" in name or "downsample.1" in name)
    whole = counts[""] - frozen_norm
    assert trained(net) == whole
    assert trained(net, frozen="body") == counts[""] - counts["backbone.body"]
    assert trained(net, frozen="backbone") == counts[""] - counts["backbone"]
    predictors = counts["roi_heads.box_predictor"] + counts["roi_heads.mask_predictor"]
    assert trained(net, frozen="all-but-predictors") == predictors
    assert trained(net, freeze_at=5) == counts[""] - counts["backbone.body"]


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    net = maskrcnn.build(MaskRcnnConfig(name="m", backbone="resnet18"), 1, 0).train()
    trained(net, freeze_at=2)
    body = net.backbone.body
    assert not body.bn1.training and not body.layer1[0].bn1.training and body.layer2[0].bn1.training
    trained(net)
    assert body.bn1.training
