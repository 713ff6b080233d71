"""How sure a round must be before it is promoted, by the number of validation images; to promotion.md.

    python benchmarks/promotion.py [FOLDER]

FOLDER holds finished runs on development draws: `python benchmarks/rounds.py --development --out FOLDER`. Their test
images are many. A few of them drawn at random, of sizes that the run's own validation images have, stand for the
validation images of a decision between two models, and all the others say which of the two is better.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe, skip
from rounds_table import NONE, table

from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.evaluation.bootstrap import paired_probability
from cellsemi.rounds.evaluation.evaluation_table import read_evaluations
from cellsemi.rounds.evaluation.metrics import image_values
from cellsemi.rounds.store import files, run, shards
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, is_control

HERE = Path(__file__).parent
COUNTS = (3, 5, 10)  # validation images
ASKED = (0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95)  # values of rounds.promotion.min_probability
RESAMPLES = 500
FIRST = "round 0"
ALIKE = 0.01  # test mAP that two models may differ by and count as equally good

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Draw:
    """The models of all runs on the same images: the test scores of each, float64 (N,), in one order of images.

    `like_val` says which of the images have a size that a validation image has, bool (N,).
    """

    name: str
    models: dict[str, Floats]
    like_val: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SimulatedDecision:
    """One simulated decision: a candidate on so many images, and its gain on the others."""

    images: int
    probability: float
    gain: float
    later: bool  # the candidate is of a later round, or the control; the incumbent is of round 0


def read(folder: Path) -> list[Draw]:
    """The draws of the runs in a folder; runs on the same data make one."""
    draws: dict[str, Draw] = {}
    images: dict[str, list[str]] = {}
    for paths in map(RunPaths, sorted(path.parent for path in folder.glob("*/run.yaml"))):
        config = run.read_config(paths)
        root = config.data.root
        for number in paths.finished_rounds():
            for found in read_evaluations(paths.evaluation(number), config.data.classes):
                if found.split != "test" or not (found.model == ENSEMBLE or is_control(found.model)):
                    continue
                ids = [score.image_id for score in found.scores]
                if root not in draws:
                    draws[root], images[root] = Draw(Path(root).name, {}, _like_val(paths, ids)), ids
                if ids != images[root]:
                    sys.exit(f"{paths.root}: other test images than another run on {root}")
                label = f"round {number}, {found.model}" if number else FIRST
                add(draws[root].models, paths.name, label, image_values(found.scores))
    return list(draws.values())


def add(models: dict[str, Floats], name: str, label: str, scores: Floats) -> None:
    """Add a model of the run `name`. A round 0 that is there already, from another run of the draw, is one model."""
    first = [values for key, values in models.items() if is_first(key)]
    if label == FIRST and any(np.array_equal(scores, values) for values in first):
        return
    models[FIRST if label == FIRST and not first else f"{name}, {label}"] = scores


def is_first(model: str) -> bool:
    """Whether a model is of round 0."""
    return model.endswith(FIRST)


def _like_val(paths: RunPaths, ids: Sequence[str]) -> NDArray[np.bool_]:
    val, test = (_sizes(paths, split) for split in ("val", "test"))
    return np.array([test[image_id] in val.values() for image_id in ids])


def _sizes(paths: RunPaths, split: str) -> dict[str, tuple[int, int]]:
    rows = shards.read_columns(paths.split(split), ["image_id", "height", "width"])
    return {row["image_id"]: (row["height"], row["width"]) for row in rows}


def simulate(draw: Draw, repeats: int, seed: int) -> Iterator[SimulatedDecision]:
    """Decisions between every two models of a draw, in both orders, `repeats` for each number of images."""
    generator = np.random.default_rng(seed)
    eligible = np.flatnonzero(draw.like_val)
    for candidate, incumbent in permutations(draw.models, 2):
        difference = draw.models[candidate] - draw.models[incumbent]
        later = is_first(incumbent) and not is_first(candidate)
        for count in COUNTS:
            for _ in range(repeats if len(eligible) > count and len(difference) > 2 * count else 0):
                seen = generator.choice(eligible, count, replace=False)
                unseen = np.delete(difference, seen)
                chance = paired_probability(
                    difference[seen], np.zeros(count), RESAMPLES, int(generator.integers(2**31))
                )
                yield SimulatedDecision(count, chance, float(unseen.mean()), later)


def lines(found: Sequence[SimulatedDecision]) -> list[list[str]]:
    """The rows of the table: for each number of images and asked probability what becomes of the candidates."""
    rows = []
    for count in COUNTS:
        here = [decision for decision in found if decision.images == count]
        gain = np.array([decision.gain for decision in here])
        chance = np.array([decision.probability for decision in here])
        later = np.array([decision.later for decision in here], bool)
        for asked in ASKED:
            passed = chance >= asked
            shares = [_mean(passed[which]) for which in (gain > ALIKE, np.abs(gain) <= ALIKE, gain < -ALIKE)]
            delivered = np.where(passed, gain, 0.0)
            gains = [_mean(delivered[later]), _mean(delivered)]
            mark = " (default)" if asked == PromotionConfig().min_probability else ""
            figures = [*(NONE if share is None else f"{share:.0%}" for share in shares)]
            figures += [NONE if value is None else f"{value:+.4f}" for value in gains]
            rows.append([str(count), f"{asked:g}{mark}", *figures])
    return rows


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


HEADER = ["val images", "asked", "better", "alike", "worse", "students: gain", "any order: gain"]


def page(draws: Sequence[Draw], found: Sequence[SimulatedDecision], command: str) -> str:
    """The whole of promotion.md."""
    models = "\n".join(
        f"* {draw.name}, {len(draw.like_val)} images, {draw.like_val.sum()} of them like the validation images, "
        f"{len(draw.models)} models: {'; '.join(draw.models)}"
        for draw in draws
    )
    return f"""# How sure a round must be

{describe()}.

`{command}`

Which `rounds.promotion.min_probability` to ask for. A few images, drawn from those that the models never saw, stand for
validation images; the candidate is promoted when the paired bootstrap over them gives at least the probability asked.
Its gain is its mean mAP minus the incumbent's over the images that were not drawn. No image of the benchmark's test
split is among them.

* **better**, **alike**, **worse**: share promoted of the candidates that are better by more than {ALIKE}, within
  {ALIKE}, worse by more than {ALIKE}; every two models of a draw in both orders, so as many are worse as are better.
* **students: gain**: mean gain in mAP of following the rule where the incumbent is round 0 and the candidate is what
  was trained after it, as in life. **any order: gain**: the same over every two models in both orders.

Decisions of one row share images and models; the figures have no interval. Decisions of a run with a scale search also
see their validation images at the cell sizes of the unlabelled images; these do not.

{models}

{table(HEADER, lines(found))}
"""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs/development"))
@click.option(
    "--repeats", type=click.IntRange(min=1), default=100, help="Decisions for each pair and number of images."
)
@click.option("--seed", type=int, default=0)
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "promotion.md")
def main(folder: Path, repeats: int, seed: int, target: Path) -> None:
    """Read the runs, decide, tabulate."""
    draws = read(folder)
    if not draws:
        skip(f"no runs in {folder}; make them with benchmarks/rounds.py --development --out {folder}")
    found = [decision for draw in draws for decision in simulate(draw, repeats, seed)]
    files.write_text(target, page(draws, found, f"python benchmarks/promotion.py --repeats {repeats} --seed {seed}"))


if __name__ == "__main__":
    main()
