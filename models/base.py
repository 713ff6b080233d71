"""What a model is to the rest of cellsemi: it fits shards into a folder, and predicts images from one.

A family is one module with a `FAMILY` object. The table below is the only registry: explicit, no
scanning, no installing. Frameworks are imported inside the family's module, when it is first used.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import ModelBase, ModelConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files

FAMILIES: dict[str, str] = {
    "flow-unet": "cellsemi.models.flow_unet",
    "cellpose-sam": "cellsemi.models.cellpose_sam",
    "torchvision-maskrcnn": "cellsemi.models.rcnn",
    "detectron2-maskrcnn": "cellsemi.models.detectron2_rcnn",
}

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
PROGRESS_FILE = "progress.json"

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

    told: Counter[str]

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


def family(kind: str) -> Family:
    """The family of a kind; ModelError naming the valid kinds, or the missing framework."""
    if kind not in FAMILIES:
        raise ModelError(f"no model family is called {kind!r}; there are: {', '.join(sorted(FAMILIES))}")
    try:
        module = importlib.import_module(FAMILIES[kind])
    except ModuleNotFoundError as error:
        raise ModelError(f"model {kind!r} needs the package {error.name!r}: pip install {error.name}") from error
    found: Family = module.FAMILY
    return found


def load_predictor(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    """The predictor of a trained folder, whatever its family."""
    from cellsemi.models.zooms import ZoomSearch

    predictor = family(read_model_file(folder)["kind"]).load(folder, inference, device)
    return ZoomSearch(predictor, inference.zoom_search) if inference.zoom_search else predictor


def write_model_file(folder: Path, kind: str, weights: bytes, description: dict[str, Any]) -> None:
    """Write the weights, then MODEL_FILE with their sha256: a folder with MODEL_FILE is whole."""
    files.write_bytes(folder / WEIGHTS_FILE, weights)
    content = {"kind": kind, "weights_sha256": files.sha256_bytes(weights), **description}
    files.write_json(folder / MODEL_FILE, content)


def read_model_file(folder: Path) -> dict[str, Any]:
    """The description of a trained folder; ModelError when it is missing."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ModelError(f"{path}: no trained model here; a finished fit writes this file last")
    content: dict[str, Any] = files.read_json(path)
    return content


def read_weights(folder: Path) -> bytes:
    """The weights' bytes, verified against MODEL_FILE; never anything else in their place."""
    path = folder / WEIGHTS_FILE
    expected = read_model_file(folder)["weights_sha256"]
    if not path.is_file():
        raise ModelError(f"{path}: the weights are missing")
    content = path.read_bytes()
    found = files.sha256_bytes(content)
    if found != expected:
        raise ModelError(f"{path}: sha256 {found[:16]}… is not the stated {expected[:16]}…; the file was altered")
    return content
