"""Trains a network step by step, phase by phase: learning rates, averaged weights, checkpoints, an error on NaN.

A fit that was interrupted and continued ends with the same bits as one that was not: batches are a
function of the step, and a checkpoint holds weights, averages and optimiser state exactly.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from cellsemi.configs.errors import ModelError, TrainingDiverged
from cellsemi.configs.training import CHECKPOINT_S, Phase, TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import LIVE_FILE
from cellsemi.models.training import stop
from cellsemi.models.training.ahead import MakeBatch, batches, processes_for
from cellsemi.models.training.checkpoint import CHECKPOINT_FILE, Checkpoint, Curves, StepRecord, Writer
from cellsemi.models.training.device import seeded
from cellsemi.models.training.live import LiveCurve
from cellsemi.models.training.precision import Precision, choose_precision
from cellsemi.models.training.schedule import Parts, freeze, rates
from cellsemi.models.training.together import mean_over_ranks, rank, share_batch_norm, share_gradients
from cellsemi.models.training.transport import on_device
from cellsemi.models.training.usage import Usage, is_due, measure
from cellsemi.models.training.validation_loss import ValidationBatches, ValidationRecord, measuring, points
from cellsemi.rounds import pulse
from cellsemi.rounds.store import files

OPTIMISER = "optimiser"  # prefix of the optimiser's state in a checkpoint

REPORT_S = 1.0  # seconds between calls of `progress`

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class LossParts:
    """What a step minimises, and its parts by name for the record."""

    total: Tensor
    parts: Mapping[str, Tensor]


StepLoss = Callable[[nn.Module, B, int], LossParts]  # of the network, a batch on its device, and the step


class Averaged:
    """Exponential moving average of a network's weights and of its batch-norm statistics.

    Early on the decay is smaller ((1 + t) / (10 + t)), so that the random start does not linger. Running
    means and variances are averaged like weights: they belong to the weights that made them.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        now = {name: value.detach() for name, value in net.state_dict().items()}
        self.values = {name: value.clone() for name, value in now.items()}
        floats = [name for name, value in now.items() if value.is_floating_point()]
        # The tensors of a network stay the same ones: steps change them in place.
        self._floats = [now[name] for name in floats], [self.values[name] for name in floats]
        self._counts = [(self.values[name], value) for name, value in now.items() if name not in floats]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now, values = self._floats
        torch._foreach_lerp_(values, now, 1 - decay)
        for value, count in self._counts:
            value.copy_(count)


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished loop: the averaged weights, on the CPU, and what it recorded on its way."""

    weights: dict[str, Tensor]
    curves: Curves
    resumed_at: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Unread:
    """The numbers of a step that still lie on the device: loss, gradient norm, parts of the loss."""

    step: int
    lr: float
    parts: tuple[str, ...]
    numbers: Tensor


class _Judge(Generic[B]):
    """The validation batches, made when they are first needed, and the loss."""

    def __init__(self, validation: ValidationBatches[B], loss_of: StepLoss[B]) -> None:
        self._validation, self.loss_of = validation, loss_of
        self._made: list[B] = []

    def batches(self) -> list[B]:
        """On the CPU, the same ones each time."""
        self._made = self._made or [self._validation.make(place) for place in range(self._validation.count)]
        return self._made


class Loop:
    """One fit, from scratch or from its checkpoint in `folder`.

    The body of the network's `parts` has a learning rate of its own. Each phase (TrainingConfig.phases) freezes its own
    parts and has a new optimiser.
    """

    def __init__(
        self,
        net: nn.Module,
        config: TrainingConfig,
        *,
        steps: int,
        folder: Path,
        fingerprint: str,
        precision: Precision,
        device: torch.device,
        parts: Parts | None = None,
        checkpoint_s: float = CHECKPOINT_S,
        input_processes: int = 0,
    ) -> None:
        self._net = net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        share_batch_norm(self._net)
        self._config, self._steps, self._device = config, steps, device
        self._folder = folder
        self._checkpoint = Checkpoint(folder / CHECKPOINT_FILE, fingerprint)
        self._precision, self._checkpoint_s, self._input_processes = precision, checkpoint_s, input_processes
        self._parts = parts
        self._trainable = [name for name, parameter in self._net.named_parameters() if parameter.requires_grad]
        self._phases = config.in_phases(steps)
        self._phase = self._phases[0]
        self._optimiser = _optimiser(self._phase.training, self._net, parts)
        self._average = Averaged(self._net, config.ema) if config.ema else None
        self._records: list[StepRecord] = []
        self._validation: list[ValidationRecord] = []
        self._usage: list[Usage] = []
        self._unread: _Unread | None = None
        self._saved_at = 0

    @classmethod
    def of(
        cls,
        task: FitTask,
        net: nn.Module,
        device: torch.device,
        *,
        parts: Parts | None = None,
        fingerprint: str | None = None,
    ) -> Self:
        """The loop of a task; `fingerprint` where more than the task changes the weights."""
        return cls(
            net,
            task.training,
            steps=task.steps,
            folder=files.place(task.out_dir),
            fingerprint=fingerprint or task.fingerprint,
            precision=choose_precision(task.training.precision, device),
            device=device,
            parts=parts,
            checkpoint_s=task.checkpoint_s,
            input_processes=processes_for(task, device),
        )

    def run(
        self,
        make: MakeBatch[B],
        loss_of: StepLoss[B],
        progress: Callable[[int, int], None],
        validation: ValidationBatches[B] | None = None,
    ) -> Trained:
        """Train to the last step on the batches that `make` makes. TrainingDiverged, naming the step, when a number is
        not finite.

        The loss on `validation` is measured at some `points`; the training is the same without it.

        `progress(step, steps)` is called about once a second, after each checkpoint and at the end; what it raises ends
        the fit, and the checkpoint stays. After SIGTERM a last checkpoint is written.
        """
        started = time.monotonic()
        resumed_at = self._resume()
        live = LiveCurve(self._folder, self._steps, resumed_at) if rank() == 0 else None
        self._net.train()
        self._freeze()
        steps = range(resumed_at, self._steps)
        spent = self._usage[-1].seconds if self._usage else 0.0
        judge = _Judge(validation, loss_of) if validation is not None else None
        measured = self._points() if judge else frozenset()
        if judge is None and any(_watches_validation(phase.training) for phase in self._phases):
            raise ModelError("training.plateau_on: validation needs annotated validation images, and there are none")
        with (
            stop.deferred(),
            Writer(self._checkpoint) as writer,
            contextlib.closing(batches(make, steps, self._input_processes, self._device)) as made,
        ):
            saved_s = reported_s = started
            for step, batch in zip(steps, made, strict=True):
                self._step(step, batch, loss_of)
                done = step + 1
                if judge is not None and done in measured:
                    self._validation.append(self._judged(judge, done))
                now = time.monotonic()
                if is_due(done, self._steps):
                    self._usage.append(measure(done, spent + now - started, self._device))
                due = stop.wanted() or now - saved_s >= self._checkpoint_s
                saved = due and done < self._steps and rank() == 0
                if saved:
                    self._save(done, writer)
                    saved_s = now
                if saved or done == self._steps or now - reported_s >= REPORT_S:
                    progress(done, self._steps)
                    reported_s = now
                    if live is not None:
                        live.write(self._curves())
                stop.stop_if_wanted()
            self._read()
        values = self._net.state_dict() if self._average is None else self._average.values
        weights = {name: value.detach().cpu().contiguous() for name, value in values.items()}
        return Trained(weights, self._curves(), resumed_at, time.monotonic() - started)

    def clear(self) -> None:
        """Remove the checkpoint and the live curve; call it when the result is safe on disk."""
        self._checkpoint.path.unlink(missing_ok=True)
        if rank() == 0:
            (self._folder / LIVE_FILE).unlink(missing_ok=True)

    def _points(self) -> frozenset[int]:
        """The numbers of steps after which the validation loss is measured."""
        watched = [phase for phase in self._phases if _watches_validation(phase.training)]
        return points(self._steps).union(*(_looks(phase) for phase in watched))

    def _freeze(self) -> None:
        freeze(self._net, self._parts, self._phase.training, self._trainable)

    def _enter(self, step: int) -> None:
        """Begin the phase of a step, where another one ended."""
        if step < self._phase.last:
            return
        self._phase = next(phase for phase in self._phases if step < phase.last)
        self._optimiser = _optimiser(self._phase.training, self._net, self._parts)
        self._freeze()

    def _step(self, step: int, batch: B, loss_of: StepLoss[B]) -> None:
        self._enter(step)
        lr = self._set_rates(step)
        self._optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            losses = loss_of(self._net, batch, step)
        losses.total.backward()  # type: ignore[no-untyped-call]
        share_gradients(self._net.parameters())
        norm = nn.utils.clip_grad_norm_(self._net.parameters(), self._config.grad_clip or math.inf)
        self._optimiser.step()
        if self._average is not None:
            self._average.update(step)
        self._read()
        numbers = mean_over_ranks(torch.stack([losses.total, norm, *losses.parts.values()]).detach())
        self._unread = _Unread(step, lr, tuple(losses.parts), numbers)

    def _read(self) -> None:
        """Record the last step, once the next one is on its way: a GPU need not wait until its numbers are read."""
        if self._unread is None:
            return
        step, lr = self._unread.step, self._unread.lr
        loss, grad_norm, *parts = self._unread.numbers.tolist()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingDiverged(
                f"step {step + 1} of {self._steps}: loss {loss}, gradient norm {grad_norm}; "
                f"try a lower training.lr (it is {self._config.lr:g}); last checkpoint: step {self._saved_at}"
            )
        named = dict(zip(self._unread.parts, parts, strict=True))
        self._records.append(StepRecord(step + 1, loss, named, lr, grad_norm))
        self._unread = None

    def _set_rates(self, step: int) -> float:
        """Set the learning rates of a step; returns the rate of the heads."""
        phase, past = self._phase, list[float]()
        if phase.training.schedule == "plateau":
            self._read()
            past = [record.loss for record in self._records[phase.first :]]
        if _watches_validation(phase.training):
            looks = _looks(phase)
            past = [record.loss for record in self._validation if record.step in looks]
        now = rates(step - phase.first, phase.last - phase.first, phase.training, past)
        for group in self._optimiser.param_groups:
            group["lr"] = now.backbone if group["backbone"] else now.head
        return now.head

    def _curves(self) -> Curves:
        return Curves(tuple(self._records), tuple(self._validation), tuple(self._usage))

    def _judged(self, judge: _Judge[B], done: int) -> ValidationRecord:
        """The loss on validation images of the weights that would be saved now, the mean of the batches."""
        found = []
        weights = None if self._average is None else self._average.values
        with measuring(self._net, weights), seeded(0, self._device):
            for place, batch in enumerate(judge.batches()):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
                    losses = judge.loss_of(self._net, on_device(batch, self._device), place)
                found.append({"": losses.total, **losses.parts})
                pulse.beat()
        means = mean_over_ranks(torch.stack([torch.stack([*each.values()]).float() for each in found]).mean(0))
        loss, *parts = means.tolist()
        return ValidationRecord(done, loss, dict(zip(list(found[0])[1:], parts, strict=True)))

    def _save(self, done: int, writer: Writer) -> None:
        self._read()
        tensors = {f"net.{name}": value for name, value in self._net.state_dict().items()}
        if self._average is not None:
            tensors |= {f"ema.{name}": value for name, value in self._average.values.items()}
        for name, parameter in self._net.named_parameters():
            state = self._optimiser.state.get(parameter, {})  # none as long as it is frozen
            tensors |= {f"{OPTIMISER}.{key}.{name}": v for key, v in state.items() if isinstance(v, Tensor)}
        writer.write(tensors, done, self._precision, self._curves())
        self._saved_at = done

    def _resume(self) -> int:
        found = self._checkpoint.read()
        if found is None:
            return 0
        self._net.load_state_dict({name: found.tensors[f"net.{name}"] for name in self._net.state_dict()})
        for name, value in (self._average.values if self._average else {}).items():
            value.copy_(found.tensors[f"ema.{name}"])
        parameters = dict(self._net.named_parameters())
        self._enter(found.step - 1)  # what the next step begins has no moments yet
        for path, tensor in found.tensors.items():
            if not path.startswith(f"{OPTIMISER}."):
                continue
            _, key, name = path.split(".", 2)
            # The layout of the moments in memory follows the weights, as it does in an undisturbed fit.
            moment = tensor.shape == parameters[name].shape and key != "step"
            value = torch.empty_like(parameters[name]).copy_(tensor).detach() if moment else tensor
            self._optimiser.state[parameters[name]][key] = value
        self._records = list(found.curves.records)
        self._validation, self._usage = list(found.curves.validation), list(found.curves.usage)
        self._precision = found.precision  # a second measurement might choose otherwise
        self._saved_at = found.step
        return found.step


def _watches_validation(config: TrainingConfig) -> bool:
    return config.schedule == "plateau" and config.plateau_on == "validation"


def _looks(phase: Phase) -> range:
    """The numbers of steps after which a phase that watches the validation loss looks at it."""
    patience = phase.training.patience_steps
    return range(phase.first + patience, phase.last + 1, patience)


def _optimiser(config: TrainingConfig, net: nn.Module, parts: Parts | None) -> torch.optim.Optimizer:
    """AdamW or SGD over two groups, the body's marked as such."""
    body = () if parts is None else parts.body
    named = list(net.named_parameters())
    groups = [
        {"params": [parameter for name, parameter in named if name.startswith(body) == of_body], "backbone": of_body}
        for of_body in (False, True)
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
