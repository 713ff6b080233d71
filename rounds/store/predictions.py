"""Names a set of predictions: which model, in which fold, on the images of which split, at which scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.schema import Config
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.run import RunPaths

UNLABELLED = "unlabelled"
VAL_AS_UNLABELLED = "val-as-unlabelled"  # val images, predicted with the settings for unlabelled images
EVALUATED = ("val", "test")


@dataclass(frozen=True, slots=True)
class PredictionSet:
    """The cells that a model of a round, or the ensemble of it, finds on all images of a split.

    `fold` is None for what the models of all folds predict together. With a `scale` the images are enlarged so many
    times before; the cells are at their own size all the same.
    """

    round: int
    model: str  # the name of a model, ENSEMBLE or a control
    fold: Fold | None
    split: str  # val, test, UNLABELLED or VAL_AS_UNLABELLED
    scale: float = 1.0

    @property
    def member(self) -> str:
        """The name of the model's folder: with folds each has one of its own."""
        return self.model if self.fold is None else self.fold.member(self.model)

    @property
    def images_name(self) -> str:
        """The split, with its scale where there is one."""
        return self.split if self.scale == 1 else f"{self.split}-x{self.scale:g}"

    @property
    def title(self) -> str:
        """What the step that predicts it is called."""
        return f"predict {self.images_name} with {self.member}"

    def of(self, model: str, fold: Fold | None) -> PredictionSet:
        """The same images, by another model."""
        return PredictionSet(self.round, model, fold, self.split, self.scale)

    def folder(self, paths: RunPaths) -> Path:
        """Where the predictions lie."""
        return paths.predictions(self.round, self.member, self.images_name)

    def images(self, paths: RunPaths) -> Path:
        """Where the images, and their human labels if there are any, lie."""
        if self.split not in ("val", VAL_AS_UNLABELLED):
            return paths.split(self.split)
        assert self.fold is not None, "val images belong to a fold"
        return paths.split(self.fold.val)

    def pair(self, paths: RunPaths) -> tuple[Path, Path]:
        """(predictions, images) folders."""
        return self.folder(paths), self.images(paths)


def as_unlabelled(config: Config) -> str:
    """The split of val images predicted as unlabelled ones are: VAL_AS_UNLABELLED, or val if that is the same.

    It is not where images have one class: unlabelled ones get the class that is stated for them, val images the class
    that the model predicts, since that is to be judged.
    """
    same_settings = all(config.unlabelled_inference_of(model) == config.inference_of(model) for model in config.models)
    return "val" if same_settings and not config.data.one_class_per_image else VAL_AS_UNLABELLED


def as_if_unlabelled(wanted: PredictionSet) -> bool:
    """Whether a set is predicted with the settings for unlabelled images."""
    return wanted.split in (UNLABELLED, VAL_AS_UNLABELLED)


def states_background(config: Config, wanted: PredictionSet) -> bool:
    """Whether a set says where images are surely background: unlabelled ones, and those that measure how they fare."""
    split = wanted.split
    return config.filter.background == "sure" and wanted.scale == 1 and split in (UNLABELLED, as_unlabelled(config))


def evaluated_sets(config: Config, round: int, model: str, split: str, scale: float = 1.0) -> tuple[PredictionSet, ...]:
    """The sets in which a model, or the ensemble, of a round is compared with human labels.

    With folds there is one for each, on the images that its models never saw; on test all folds predict together.
    """
    folds = (None,) if split == "test" else folds_of(config)
    return tuple(PredictionSet(round, model, fold, split, scale) for fold in folds)


def pairs_of(paths: RunPaths, sets: tuple[PredictionSet, ...]) -> list[tuple[Path, Path]]:
    """The (predictions, images) folders of some sets."""
    return [each.pair(paths) for each in sets]
