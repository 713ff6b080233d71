"""Lists the model families, and loads a trained model whatever its family.

The kinds are those of the union in `configs/models.py`, and the folder of a kind follows from its name: a new family
is its config class and its folder. Nothing is scanned for and nothing is installed.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MODEL_KINDS
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Family, Predictor, Recognised, Shapes, check_packages
from cellsemi.models.given import in_classes_of
from cellsemi.models.inference.scale_search import BOTH, ScaleSearch
from cellsemi.models.model_files import read_model_file

FAMILIES: dict[str, str] = {kind: f"cellsemi.models.{kind.replace('-', '_')}.family" for kind in MODEL_KINDS}


def families() -> list[Family]:
    """All families, in the order of the config's kinds; their packages need not be installed."""
    return [_imported(kind) for kind in FAMILIES]


def family(kind: str) -> Family:
    """The family of a kind, ready to fit and to load.

    ModelError naming the valid kinds, or a package that is missing and the line that installs it.
    """
    if kind not in FAMILIES:
        raise ModelError(f"no model family is called {kind!r}; there are: {', '.join(sorted(FAMILIES))}")
    found = _imported(kind)
    check_packages(found, kind)
    return found


def recognised(shapes: Shapes) -> dict[str, Recognised]:
    """What each family sees in a file of weights with tensors of these names and shapes, by the family's kind."""
    found = {each.kind: each.recognise(shapes) for each in families()}
    return {kind: what for kind, what in found.items() if what is not None}


def load_predictor(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    """The predictor of a trained folder, whatever its family."""
    about = read_model_file(folder)
    predictor = in_classes_of(family(about.kind).load(folder, inference, device), about.class_ids)
    if not inference.searches:
        return predictor
    return ScaleSearch(predictor, inference.scale_search or (1.0,), BOTH if inference.polarity_search else BOTH[:1])


def _imported(kind: str) -> Family:
    found: Family = importlib.import_module(FAMILIES[kind]).FAMILY
    return found
