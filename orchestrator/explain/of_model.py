"""Explains an image with the model that a person names: of a run, of one of its rounds, or of an exported folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cellsemi.configs.errors import UsageError
from cellsemi.orchestrator.apply.asked_cutoffs import Asked, asked_cutoffs, parse_cutoffs
from cellsemi.orchestrator.apply.choose_model import choose_model, of_run
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.apply.recipe import Recipe
from cellsemi.orchestrator.explain.explain import Explained, explain, find_picture
from cellsemi.orchestrator.runs.find_run import find_run
from cellsemi.rounds.cells.cutoffs import Cutoffs

FOLDER = Path("explained")  # below it each image has a folder
Keep = Callable[[Recipe], Cutoffs]


def explain_with(
    image: str,
    run: str | None,
    folder: Path | None,
    keep: Keep,
    *,
    round: int | None = None,
    device: str = "auto",
) -> Explained:
    """Explain an image, a file or the id of one of the run, with the model that `choose_model` gives.

    `round`: the ensemble of that round instead of what the run recommends, and its pseudo-labels. UsageError when the
    image is not found, or a round is asked of an exported folder; RunError when no round, or not that one, is finished.
    """
    if folder is not None and round is not None:
        raise UsageError("--round names a round of a run; a folder of `cellsemi model export` has none")
    paths = None if folder is not None else find_run(run)
    chosen = choose_model(run, folder) if paths is None else of_run(paths, round)
    recipe = chosen.model.recipe
    wanted = keep(recipe)
    picture = find_picture(image, recipe.max_pixels, paths, round)
    return explain(EnsemblePredictor(chosen.model, device), picture, wanted, chosen.seen)


def from_texts(scores: tuple[str, ...], areas: tuple[str, ...]) -> Keep:
    """Which cells are kept, by --min-score and --min-area."""
    return lambda recipe: parse_cutoffs(scores, areas, recipe.cutoffs, recipe.classes)


def from_values(min_score: Asked, min_area_px: Asked) -> Keep:
    """Which cells are kept, by a score and an area for all classes or for each; None: what was chosen."""
    return lambda recipe: asked_cutoffs(min_score, min_area_px, recipe.cutoffs, recipe.classes)
