"""Names the splits of predictions and finds their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cellsemi.configs.schema import Config
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths

EVALUATED = ("val", "test")


Calibrations = Mapping[str, dict[str, Any]]  # model -> Calibration.to_json()


UNLABELLED = "unlabelled"


BY = "-x"


TRIAL = "trial"  # of predictions: val images as the pool is looked at, where that is not as they are judged


def trial_of(config: Config) -> str:
    """The split of predictions that says what the teachers' labels are worth: TRIAL, or val where that is the same."""
    alike = all(config.unlabelled_inference_of(model) == config.inference_of(model) for model in config.models)
    return "val" if alike else TRIAL


def images_of(paths: RunPaths, fold: Fold, split: str) -> Path:
    """The folder of the images that the models of a fold look at for a split."""
    return paths.split(fold.val if split == TRIAL or split.startswith("val") else split)


def enlarged(enlargement: float) -> str:
    """The split of predictions of val images that are enlarged so many times."""
    return "val" if enlargement == 1 else f"val{BY}{enlargement:g}"


def enlargement_of(split: str) -> float:
    """The inverse of `enlarged`; 1 for all other splits."""
    _, by, number = split.partition(BY)
    return float(number) if by else 1.0


def judged(config: Config, paths: RunPaths, round: int, name: str, split: str) -> Iterator[tuple[Path, Path]]:
    """(predictions, images) folders of a model or an ensemble on val, TRIAL, the pool or test.

    One pair, or with folds, except on test, one per fold.
    """
    if split == "test":
        yield paths.predictions(round, name, split), paths.split(split)
        return
    for fold in folds_of(config):
        yield paths.predictions(round, fold.member(name), split), images_of(paths, fold, split)


def fusing(split: str, out: str) -> str:
    """The name of the stage that makes `out` of its members."""
    return f"fuse {split}" if out == ENSEMBLE else f"fuse {split} of {out}"
