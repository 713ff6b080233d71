"""Takes a model that is trained already as a teacher: its weights as they are, its classes led to those of the run.

The weights are a file of others, read by the family, or a trained folder of cellsemi, read here. Either way the
result is a folder as a fit leaves one, so that all that predicts, exports and reads it needs to know nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.data import IGNORE, class_called
from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import WithWeights
from cellsemi.models.base import (
    Begun,
    Encoded,
    FitResult,
    FitTask,
    Image,
    Predictor,
    ProbabilityPredictor,
    Recovered,
    predict_named,
    staged,
)
from cellsemi.models.explanation import Explanation, explanation_of, in_other_classes
from cellsemi.models.model_files import (
    FitFigures,
    ModelFacts,
    StartWeights,
    read_weights,
    write_model_file,
)
from cellsemi.models.start_weights import Given, find_given, refuse_other_kind
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files

LEFT_OUT = -1  # the class id of what a model's `class_map` ignores


def given_of(task: FitTask) -> Given | None:
    """The weights that the model of a task names: the run's copy, else what the name stands for; None without a name.

    ModelError as `find_given` states.
    """
    model = task.model
    if not isinstance(model, WithWeights) or model.weights is None:
        return None
    return find_given(task.weights or model.weights, task.weights_sha256 or model.weights_sha256)


def given_or_fail(task: FitTask) -> Given:
    """The same of a model that cannot be without weights."""
    found = given_of(task)
    assert found is not None, "the config refuses to be without"
    return found


def take_folder(task: FitTask, model: WithWeights, given: Given) -> FitResult | None:
    """Take a model that cellsemi has trained; None where the weights are a file of others.

    Sizes of the network are those of the folder. ModelError when its model is of another kind.
    """
    about = given.about
    if about is None:
        return None
    refuse_other_kind(given, task.model.kind)
    if about.class_ids is not None:
        raise ModelError(
            f"weights {given.place}: itself a teacher with a class_map; name the weights that it was made from"
        )
    facts = ModelFacts(
        model=about.model.model_copy(update={"name": task.model.name}),
        classes=about.classes,
        one_class_per_image=about.one_class_per_image,
        fingerprint=task.fingerprint,
        training=about.training,
        cell_size=about.cell_size,
        started_from=about.started_from,
        teacher_sha256=about.weights_sha256,
        class_ids=class_ids(about.classes, model.class_map, task.classes, str(given.place)),
    )
    return _written(task, read_weights(given.place), facts)


def take_file(
    task: FitTask, weights: bytes, parameters: int, classes: int, class_map: Mapping[str, str], start: StartWeights
) -> FitResult:
    """Take the weights of a file as a folder. `weights` are the network's tensors as safetensors, which has `classes`
    classes without names: they are called by their numbers. ModelError as `class_ids` states.
    """
    names = tuple(str(number) for number in range(classes))
    facts = ModelFacts(
        model=task.model,
        classes=names,
        one_class_per_image=task.one_class_per_image,
        fingerprint=task.fingerprint,
        training=FitFigures(steps=0, seed=task.seed, loss=0.0, parameters=parameters),
        started_from=start,
        class_ids=class_ids(names, class_map, task.classes, start.weights),
    )
    return _written(task, weights, facts)


def take_nothing(task: FitTask) -> FitResult:
    """Take a teacher that has no weights of its own here: a description stands in their place."""
    facts = ModelFacts(
        model=task.model,
        classes=task.classes,
        one_class_per_image=task.one_class_per_image,
        fingerprint=task.fingerprint,
        training=FitFigures(steps=0, seed=task.seed, loss=0.0, parameters=0),
    )
    return _written(task, b"", facts)


def _written(task: FitTask, weights: bytes, facts: ModelFacts) -> FitResult:
    write_model_file(files.place(task.out_dir), weights, facts)
    return FitResult(parameters=facts.training.parameters, steps=0, loss=0.0, seconds=0.0, resumed_at=0)


def class_ids(own: Sequence[str], class_map: Mapping[str, str], classes: Sequence[str], where: str) -> tuple[int, ...]:
    """The run's class id of each of a model's classes, LEFT_OUT for those that `class_map` ignores.

    One class without a map is the only one of the run. ModelError, naming them, when a class is led nowhere.
    """
    if len(own) == len(classes) == 1 and not class_map:
        return (0,)
    found = [class_called(name, class_map, classes) for name in own]
    unknown = [name for name, known in zip(own, found, strict=True) if known is None]
    if unknown:
        raise ModelError(
            f"weights {where}: class_map leads the classes {', '.join(unknown)} nowhere; expected one of "
            f"{', '.join(classes)} or {IGNORE} for each, as in class_map: {{{unknown[0]}: {classes[0]}}}"
        )
    return tuple(LEFT_OUT if known in (None, IGNORE) else classes.index(known) for known in found)


class InClassesOf:
    """A predictor whose cells get the class ids of the run; those of ignored classes are left out, as the map says."""

    def __init__(self, predictor: Predictor, ids: Sequence[int]) -> None:
        self._predictor, self._ids = predictor, np.asarray(ids, np.int32)
        self.warnings = predictor.warnings

    def predict(self, images: Sequence[Image], scale: float = 1.0, image_ids: Sequence[str] = ()) -> list[Instances]:
        """See models.base.Predictor."""
        return [self._renamed(cells) for cells in predict_named(self._predictor, images, image_ids, scale)]

    def explain(self, image: Image, scale: float = 1.0) -> Explanation:
        """What the network computed, with cells and maps in the classes of the run."""
        return in_other_classes(
            explanation_of(self._predictor, image, scale), self._renamed, self._ids.tolist(), LEFT_OUT
        )

    @property
    def images_at_once(self) -> int:
        """See models.base.StagedPredictor."""
        return staged(self._predictor).images_at_once

    def prepare(self, image: Image) -> Any:
        """See models.base.StagedPredictor."""
        return staged(self._predictor).prepare(image)

    def begin(self, prepared: Sequence[Any], image_ids: Sequence[str], scale: float) -> list[Begun]:
        """See models.base.StagedPredictor."""
        found = staged(self._predictor).begin(prepared, image_ids, scale)
        return [replace(each, recover=partial(self._recovered, each.recover)) for each in found]

    def _recovered(self, recover: Callable[[], Recovered]) -> Encoded:
        return Encoded(self._renamed(recover().encode()))

    def _renamed(self, cells: Instances) -> Instances:
        renamed = cells.with_(class_id=self._ids[cells.class_id])
        return renamed.select(np.flatnonzero(renamed.class_id != LEFT_OUT)) if LEFT_OUT in self._ids else renamed


class ProbabilitiesInClassesOf(InClassesOf):
    """The same of a flow model; see models.base.ProbabilityPredictor."""

    def __init__(self, predictor: ProbabilityPredictor, ids: Sequence[int]) -> None:
        super().__init__(predictor, ids)
        self._at = predictor.at_probabilities

    def at_probabilities(
        self, image: Image, probabilities: Sequence[float], scale: float = 1.0
    ) -> tuple[list[Instances], NDArray[np.float32]]:
        """The cells of one image at each cell-probability threshold, and the probability (H, W)."""
        found, probability = self._at(image, probabilities, scale)
        return [self._renamed(cells) for cells in found], probability


def in_classes_of(predictor: Predictor, ids: Sequence[int] | None) -> Predictor:
    """The predictor with the class ids of a run, by a table `ids` of its own; None: they are the same."""
    if ids is None or tuple(ids) == tuple(range(len(ids))):
        return predictor
    if hasattr(predictor, "at_probabilities"):
        return ProbabilitiesInClassesOf(cast(ProbabilityPredictor, predictor), ids)
    return InClassesOf(predictor, ids)
