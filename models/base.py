"""Defines what a model family is: it fits shards of images into a folder, and loads a predictor from one.

A family is a folder `models/KIND/` (with _ for -) whose `family.py` holds one `FAMILY`. That file states facts and
imports no framework: `fit`, `load` and the writers of `exports` import theirs when they are called.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import ModelBase, ModelConfig
from cellsemi.configs.training import CHECKPOINT_S, InferenceConfig, TrainingConfig
from cellsemi.models.model_files import read_model_file
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import to_label_map
from cellsemi.rounds.store import files

C = TypeVar("C", bound=ModelBase)
Image = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FitTask:
    """One student to train, in plain values: it travels to another machine.

    `shards` are IMAGES tables; the encoded image of a row stands in it, or in the row of its id in that of `images`
    with the same place. `rows` and `hashes` are those of each shard and its images, as a manifest states them; where
    they are not stated, the files are read for them. Rows whose `split` is "labelled" are human-labelled, the others
    are pseudo-labelled. Of a row's instances only `human` and `accepted` train, `ignored` leave the loss,
    `rejected` are background. The result goes into `out_dir`: MODEL_FILE, WEIGHTS_FILE, loss.parquet and the other
    curves (training/result.py).
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
    images: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    hashes: tuple[str, ...] = ()
    human_fraction: float = 1.0  # share of the crops from human-labelled images, where there are others
    teacher: str | None = None  # folder of the trained model whose weights it starts from; None: it starts anew
    code: str | None = None  # folder of the run's copy of the module that holds a family of the user's own
    weights: str | None = None  # the run's copy of what the model's `weights` names, a file or a folder
    weights_sha256: str | None = None  # of that copy
    checkpoint_s: float = CHECKPOINT_S
    input_processes: int | None = None  # that make the batches ahead of the steps; None: as many as find an idle CPU
    idle_cpus: int = 0  # where it is trained, beside the threads that train
    ranks: int = 1  # processes that train it together, each on a device of its own
    part: tuple[int, int] = (0, 1)  # (r, G): this process is rank r of G
    validation: tuple[str, ...] = ()  # shards of the images on which the loss is measured, and nothing is learned

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
                self.hashes or [files.sha256_bytes(files.place(path).read_bytes()) for path in self.shards],
                self.seed,
                self.steps,
                self.human_fraction,
                *([] if self.teacher is None else [read_model_file(files.place(self.teacher)).weights_sha256]),
                *([] if self.weights_sha256 is None else [self.weights_sha256]),
            ]
        )


@dataclass(frozen=True, slots=True)
class FitResult:
    """The figures of a finished fit."""

    parameters: int
    steps: int
    loss: float  # mean of the last tenth of the steps
    seconds: float  # of this attempt
    resumed_at: int  # step of the checkpoint that was continued; 0 for a fresh start


NOT_FINITE = (
    "the network's output for an image is not finite in some pixels: they count as no cell, and an unlabelled image is "
    "left out as not predicted"
)


class Predictor(Protocol):
    """A loaded model. `warnings` counts what a person must know, a sentence each: a cap that was reached.

    NOT_FINITE is counted for each image of whose outputs a part could not be used.
    """

    warnings: Counter[str]

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size: state `predicted`, score in [0, 1].

        Each image is first enlarged `scale` times; the masks have the size of the image itself. A flow model also
        states where it is sure that there is nothing (`Instances.background`) when `inference.background_probability`
        is given.
        """
        ...


class ProbabilityPredictor(Predictor, Protocol):
    """A flow model: its masks depend on the threshold on the cell probability of a pixel."""

    def at_probabilities(
        self, image: Image, probabilities: Sequence[float], scale: float = 1.0
    ) -> tuple[list[Instances], NDArray[np.float32]]:
        """The cells of one image at each cell-probability threshold, and the probability (H, W).

        The image is enlarged as in `predict`; the network runs once.
        """
        ...


def predict_named(
    predictor: Predictor, images: Sequence[Image], image_ids: Sequence[str], scale: float = 1.0
) -> list[Instances]:
    """What a predictor finds; it is told the ids of the images where its `predict` has a parameter `image_ids`.

    A teacher may know images by their ids. A model that predicts new images must not need them.
    """
    if "image_ids" not in inspect.signature(predictor.predict).parameters:
        return predictor.predict(images, scale)
    with_ids = cast("Callable[..., list[Instances]]", predictor.predict)
    return with_ids(images, scale, image_ids=tuple(image_ids))


class Recovered(Protocol):
    """The cells of one image, not yet encoded."""

    def measure(self) -> tuple[float, float, float]:
        """The mean score weighted by area, the pixels that are expected to be cell, and the cells that are right.

        A pixel counts the score of the best scored cell that holds it.
        """
        ...

    def encode(self) -> Instances:
        """The cells, with their masks as run lengths."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """An image that the network has seen. `recover` needs no network and may be called once, in any thread.

    `broken`: NOT_FINITE was counted for the image.
    """

    recover: Callable[[], Recovered]
    broken: bool = False


class StagedPredictor(Predictor, Protocol):
    """A predictor in three parts, so that the first and the last of them can run beside the network.

    Images that are `prepare`d, `begin` and `recover` give the cells of `predict`. On a CPU `images_at_once` is 1: there
    the bits of a network's output depend on how many images go through it together.
    """

    images_at_once: int

    def prepare(self, image: Image) -> Any:
        """What `begin` takes of an image; in any thread."""
        ...

    def begin(self, prepared: Sequence[Any], image_ids: Sequence[str], scale: float) -> list[Begun]:
        """Run the network on some images, at most `images_at_once`; in one thread at a time."""
        ...


def staged(predictor: Predictor) -> StagedPredictor:
    """The predictor in three parts; one without such parts does all of its work in the second."""
    return cast(StagedPredictor, predictor) if hasattr(predictor, "begin") else _Whole(predictor)


def measured(
    score: NDArray[np.float32], area: NDArray[np.int64], labels: NDArray[np.int32]
) -> tuple[float, float, float]:
    """`Recovered.measure` of cells; `labels` (H, W) holds i + 1 where the best scored cell is i."""
    mean = float(np.average(score, weights=area)) if len(score) else 0.0
    return mean, float(np.concatenate([[0.0], score])[labels].sum()), float(score.sum())


@dataclass(frozen=True, slots=True)
class Encoded:
    """Recovered cells that are encoded already."""

    cells: Instances

    def measure(self) -> tuple[float, float, float]:
        """See Recovered."""
        return measured(self.cells.score, self.cells.area, to_label_map(self.cells))

    def encode(self) -> Instances:
        """See Recovered."""
        return self.cells


class _Whole:
    """A predictor whose only part is `predict`."""

    images_at_once = 1

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.warnings = predictor.warnings
        self.predict = predictor.predict

    def prepare(self, image: Image) -> Image:
        return image

    def begin(self, prepared: Sequence[Image], image_ids: Sequence[str], scale: float) -> list[Begun]:
        found = []
        for place, image in enumerate(prepared):
            before = self.warnings[NOT_FINITE]
            (cells,) = predict_named(self._predictor, [image], image_ids[place : place + 1], scale)
            found.append(Begun(partial(Encoded, cells), self.warnings[NOT_FINITE] > before))
        return found


Progress = Callable[[int, int], None]  # called with (step, steps) now and then
Start = Literal["scratch", "either", "weights"]  # `either`: from scratch, or from given weights


@dataclass(frozen=True, slots=True)
class ModelVariant:
    """One model of a family, a row of `cellsemi models`.

    `settings` are what an entry of `models` in a config states besides kind and name; `parameters` is the number of
    weights for one class and otherwise default settings.
    """

    name: str  # KIND, or KIND/VARIANT
    parameters: int
    settings: Mapping[str, object] = field(default_factory=dict)


Shapes = Mapping[str, tuple[int, ...]]  # of the tensors of a file of weights, by name


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a family sees in a file of weights: `what` it is in words, and how many classes its heads tell apart.

    `classes` is None where there are no such heads. `settings` are what an entry of `models` states besides `weights`.
    """

    what: str
    classes: int | None
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Citation:
    """A work to cite: how it is written out, and its DOI (without an address in front)."""

    text: str
    doi: str


@dataclass(frozen=True, slots=True, eq=False)
class Publication:
    """What a published file states of a model beside its weights; whoever publishes it fills this in.

    `name` has letters, digits, spaces and `_+-()` only, at least five of them. `licence` is an SPDX identifier, None
    where nobody stated one. `documentation` is Markdown for a person. `sample` is an image as it is stored that the
    model did not learn from: it shows what goes in and, with the model's own answer, tests the file.
    """

    name: str
    description: str
    authors: tuple[str, ...]
    licence: str | None
    documentation: str
    sample: Image
    tags: tuple[str, ...] = ()
    cite: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportTask:
    """A trained folder to write as a file of others, and the settings with which the file shall predict.

    `publication` is needed by the formats that state it (`Export.publishes`); the others do not read it.
    """

    folder: Path
    out: Path
    inference: InferenceConfig
    publication: Publication | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A file format of others that a family can write.

    `write` returns what a person must know, a sentence each, first what opens the file; ModelError when the folder
    holds no model of the family. `suffix` is the usual end of the file's name. `publishes`: the file states who made
    the model, from what and under which licence, so that the task needs a `publication`.
    """

    suffix: str
    write: Callable[[ExportTask], list[str]]
    publishes: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: facts, how it is trained and how it is loaded.

    `packages` are the distributions that it needs, by the name that they are imported by; `install` has the line
    that installs those which are not on the package index. The licence of weights is the one that their
    publishers state; it binds whoever uses the weights, and is not legal advice.

    `fit` trains into `task.out_dir`. `load` returns the predictor of a folder that `fit` wrote; ModelError when a
    file is missing or altered. `exports` are the files of others that such a folder can be written as, by the name of
    the format. `take` writes such a folder from given weights as they are, for a teacher that is not trained
    (`train: false`); None: there is no such teacher of this family. `recognise` looks at the names and shapes of the
    tensors of a file, and says what of the family they are; None for what it cannot start from.
    """

    config: type[ModelBase]
    variants: tuple[ModelVariant, ...]
    start: Start
    packages: tuple[str, ...]
    code_licence: str
    weights_licence: str
    fit: Callable[[FitTask, Progress], FitResult]
    load: Callable[[Path, InferenceConfig, str], Predictor]
    exports: Mapping[str, Export] = field(default_factory=dict)
    install: Mapping[str, str] = field(default_factory=dict)
    take: Callable[[FitTask], FitResult] | None = None
    recognise: Callable[[Shapes], Recognised | None] = lambda shapes: None

    @property
    def kind(self) -> str:
        """The name of the family: the `kind` of its entries in a config."""
        kind: str = self.config.model_fields["kind"].default
        return kind


def check_packages(found: Family, name: str) -> None:
    """ModelError, with the line that installs it, when a package that a family needs is missing."""
    for package in found.packages:
        if find_spec(package) is not None:
            continue
        if package in found.install:
            line = found.install[package]
            raise ModelError(f"model {name!r} needs {package}, which is not on the package index: {line}")
        raise ModelError(f"model {name!r} needs the package {package!r}: pip install {package}")


def no_fit(task: FitTask, progress: Progress) -> NoReturn:
    """The `fit` of a family that cannot be trained; ModelError with the remedy."""
    raise ModelError(f"{task.model.name}: a {task.model.kind} that cannot be trained; it teaches with `train: false`")


def config_of(model: ModelBase, wanted: type[C]) -> C:
    """A model's settings as those of its family; TypeError when they are another family's."""
    if not isinstance(model, wanted):
        raise TypeError(f"expected a {wanted.__name__}, got {type(model).__name__}")
    return model
