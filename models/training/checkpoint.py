"""Saves and restores the state of a fit: one file that is whole or absent, and belongs to one task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cellsemi.models.training.precision import Precision
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
class Saved:
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    step: int
    precision: Precision
    records: tuple[StepRecord, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file, written atomically: safetensors with the facts as JSON in its metadata."""

    path: Path
    fingerprint: str

    def write(self, tensors: dict[str, Tensor], step: int, precision: Precision, records: list[StepRecord]) -> None:
        """Replace the checkpoint by the state after `step` steps."""
        about = {
            "fingerprint": self.fingerprint,
            "step": step,
            "precision": precision,
            "records": [asdict(record) for record in records],
        }
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        files.write_bytes(self.path, save(plain, metadata={"cellsemi": json.dumps(about)}))

    def read(self) -> Saved | None:
        """The checkpoint; None (start anew) when there is none, it is of another task, or it is damaged."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("cellsemi", "{}"))
                if about.get("fingerprint") != self.fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, json.JSONDecodeError):
            return None
        records = tuple(StepRecord(**record) for record in about["records"])
        return Saved(tensors, int(about["step"]), about["precision"], records)
