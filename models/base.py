"""What a model is to the rest of cellsemi: it fits shards into a folder, and predicts images from one.

A family is one module with a `FAMILY` object. The table below is the only registry: explicit, no
scanning, no installing. Frameworks are imported inside the family's module, when it is first used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.models import ModelBase, ModelConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files

C = TypeVar("C", bound=ModelBase)


Image = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FitTask:
    """One student to train, in plain values: it travels to another machine.

    `shards` are IMAGES tables; rows whose `split` is "labelled" are human-labelled, the others are
    pseudo-labelled. Of a row's instances only `human` and `accepted` train, `ignored` leave the loss,
    `rejected` are background. The result goes into `out_dir`: MODEL_FILE, WEIGHTS_FILE, loss.parquet.
    A checkpoint there from an earlier attempt at the same task is continued, to the same result.
    """

    model: ModelConfig
    training: TrainingConfig
    classes: tuple[str, ...]
    one_class_per_image: bool
    ignore_dilation_px: int
    shards: tuple[str, ...]
    out_dir: str
    seed: int
    steps: int
    device: str
    shared_dir: str | None = None  # of the run: what its fits must agree on, such as the precision

    @property
    def memory(self) -> Path | None:
        """`shared_dir` as a path."""
        return None if self.shared_dir is None else Path(self.shared_dir)

    @property
    def fingerprint(self) -> str:
        """Changes when the trained weights would; where things lie does not count."""
        return files.sha256_json(
            [
                self.model.model_dump(mode="json"),
                self.training.model_dump(mode="json"),
                self.classes,
                self.one_class_per_image,
                self.ignore_dilation_px,
                [files.sha256_bytes(Path(path).read_bytes()) for path in self.shards],
                self.seed,
                self.steps,
            ]
        )


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a finished fit says of itself."""

    parameters: int
    steps: int
    loss: float  # mean of the last tenth of the steps
    seconds: float  # of this attempt
    resumed_at: int  # step of the checkpoint that was continued; 0 for a fresh start


class Predictor(Protocol):
    """A loaded teacher. `told` counts what a person must know, a sentence each: a cap that was reached."""

    warnings: Counter[str]

    def predict(self, images: Sequence[Image], zoom: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size: state `predicted`, score in [0, 1].

        With a `zoom` the image is first enlarged so many times; the masks are of its own size all the same.
        """
        ...


class ProbabilityPredictor(Predictor, Protocol):
    """A flow model, whose masks depend on how sure a pixel must be."""

    def at_probabilities(self, image: Image, probabilities: Sequence[float]) -> list[Instances]:
        """The cells of one image at each cell probability; the network looks at it once."""
        ...


class Family(Protocol):
    """A model family: how it is trained and how it is loaded."""

    def fit(self, task: FitTask, progress: Callable[[int, int], None]) -> FitResult:
        """Train into `task.out_dir`; call `progress(step, steps)` now and then."""
        ...

    def load(self, folder: Path, inference: InferenceConfig, device: str) -> Predictor:
        """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
        ...


def config_of(task: FitTask, kind: type[C]) -> C:
    """The model's settings as those of its family; TypeError when the task is another family's."""
    if not isinstance(task.model, kind):
        raise TypeError(f"expected a {kind.__name__}, got {type(task.model).__name__}")
    return task.model
