"""Chooses the precision of training (`training.precision: auto`) once for a run, and keeps it in run.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from cellsemi.configs.models import ModelConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.training.device import pick_device
from cellsemi.models.training.precision import choose_precision, native_bfloat16
from cellsemi.orchestrator.engine.protocol import Record
from cellsemi.orchestrator.steps.context import Context, failed
from cellsemi.rounds.store.run import AgreedPrecision, read_precision, write_precision


@dataclass(frozen=True, slots=True)
class PrecisionJob:
    """Asks a worker what its hardware can do: the driver's may be of another kind, and does without torch."""

    device: str
    name: str = "choose the precision"
    uses_device: bool = True

    def start(self) -> PrecisionJob:
        """The job is its own worker."""
        return self

    def run(self, item: int) -> Record:
        """The precision, and why, as a record."""
        return _choose(self.device).model_dump()


def agree_on_precision(context: Context) -> None:
    """Choose the precision of the run's fits unless run.yaml holds it, or every model states its own; say which it is.

    EngineError when a worker cannot be asked.
    """
    trained = [model for model in context.config.models if model.trains]
    if all(context.config.training_of(model).precision != "auto" for model in trained):
        return
    agreed = read_precision(context.paths)
    if agreed is None:
        agreed = _ask(context)
        write_precision(context.paths, agreed)
    context.watcher.note(f"training computes in {agreed.training} (training.precision: auto; {agreed.because})")


def agreed_training(context: Context, model: ModelConfig) -> TrainingConfig:
    """The training settings of a model, with the precision of the run in the place of `auto`."""
    training = context.config.training_of(model)
    agreed = read_precision(context.paths) if training.precision == "auto" and model.trains else None
    return training if agreed is None else training.model_copy(update={"precision": agreed.training})


def _ask(context: Context) -> AgreedPrecision:
    job = PrecisionJob(context.config.engine.device)
    outcome = context.engine.map(job, [0], lambda *_: None, lambda: None, context.watcher.incident)
    if outcome.failed:
        raise failed(job.name, outcome.failed)
    return AgreedPrecision.model_validate(outcome.done[0])


def _choose(name: str) -> AgreedPrecision:
    import torch

    device = pick_device(name)
    native = native_bfloat16(device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    because = f"{kind} has {native}" if native else f"{kind} has no bfloat16 arithmetic"
    return AgreedPrecision(training=choose_precision("auto", device), because=because)
