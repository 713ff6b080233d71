"""Saves and restores the state of a fit: one file that is whole or absent, and belongs to one task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cellsemi.models.training.precision import Precision
from cellsemi.models.training.usage import Usage
from cellsemi.models.training.validation_loss import ValidationRecord
from cellsemi.rounds.store import files

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One row of loss.parquet."""

    step: int
    loss: float
    parts: Mapping[str, float]
    lr: float
    grad_norm: float

    def to_row(self) -> dict[str, float]:
        """The columns step, loss, NAME_loss for each part, lr, grad_norm."""
        parts = {f"{name}_loss": value for name, value in self.parts.items()}
        return {"step": self.step, "loss": self.loss, **parts, "lr": self.lr, "grad_norm": self.grad_norm}


@dataclass(frozen=True, slots=True)
class Curves:
    """What a training records on its way: of every step, on validation images, and what it takes."""

    records: tuple[StepRecord, ...] = ()
    validation: tuple[ValidationRecord, ...] = ()
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    step: int
    precision: Precision
    curves: Curves


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file, written atomically: safetensors with the facts as JSON in its metadata."""

    path: Path
    fingerprint: str

    def write(self, tensors: Mapping[str, Tensor], step: int, precision: Precision, curves: Curves) -> None:
        """Replace the checkpoint by the state after `step` steps; the tensors lie on the CPU and are not changed."""
        about = {
            "fingerprint": self.fingerprint,
            "step": step,
            "precision": precision,
            "curves": asdict(curves),
        }
        with files.atomic_file(self.path) as file:  # the library writes to a name, tensor after tensor
            save_file(dict(tensors), file.name, metadata={"cellsemi": json.dumps(about)})

    def read(self) -> Saved | None:
        """The checkpoint; None (start anew) when there is none, it is of another task, or it is damaged."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(files.local(self.path), framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("cellsemi", "{}"))
                if about.get("fingerprint") != self.fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, json.JSONDecodeError):
            return None
        found = about["curves"]
        curves = Curves(
            tuple(StepRecord(**record) for record in found["records"]),
            tuple(ValidationRecord(**record) for record in found["validation"]),
            tuple(Usage(**row) for row in found["usage"]),
        )
        return Saved(tensors, int(about["step"]), about["precision"], curves)


class Writer:
    """Writes checkpoints beside the training: it goes on while the last one is on its way to the disk."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def write(self, tensors: Mapping[str, Tensor], step: int, precision: Precision, curves: Curves) -> None:
        """Copy the state, wait for the checkpoint before, and begin to write this one."""
        plain = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        self.finish()
        self._writing = self._thread.submit(self._checkpoint.write, plain, step, precision, curves)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written; RunError when the disk is full."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            self._thread.shutdown()
