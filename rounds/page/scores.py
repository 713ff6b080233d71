"""Gathers the score of each model by round, with intervals, over all classes and for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.evaluation.bootstrap import enough
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.figures import Interval, interval_of
from cellsemi.rounds.evaluation.metrics import class_values, image_values

ALL = ""  # the name of the score over all classes


@dataclass(frozen=True, slots=True)
class Score:
    """The mAP of one model of a round on the images of a split; `name` is that of a class, or ALL.

    `images` hold the class, in truth or in prediction. `low` and `high` are None where they are too few.
    """

    round: int
    model: str
    split: str
    name: str
    images: int
    value: float
    low: float | None
    high: float | None

    def text(self) -> str:
        """The figure with its interval and its number of images."""
        ends = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{ends}, n = {self.images}"


def scores(
    evaluations: Mapping[int, Iterable[Evaluation]], classes: Sequence[str], config: PromotionConfig, seed: int
) -> list[Score]:
    """The scores of all evaluations, by round; where there are several classes, those of each follow that of all.

    The intervals are those of the leaderboard: over images, of so many resamples and at the level of `config`.
    """
    found = []
    for evaluation in (each for number in sorted(evaluations) for each in evaluations[number]):
        found += list(_of(evaluation, classes, config, seed))
    return found


def _of(found: Evaluation, classes: Sequence[str], config: PromotionConfig, seed: int) -> Iterator[Score]:
    named = [(ALL, image_values(found.scores))]
    if len(classes) > 1:
        named += [(name, class_values(found.scores, class_id)) for class_id, name in enumerate(classes)]
    for name, values in named:
        interval = interval_of(values, found.split if name == ALL else f"{found.split} {name}", config, seed)
        if interval is not None:
            yield _score(found, name, len(values), interval)


def _score(found: Evaluation, name: str, images: int, interval: Interval) -> Score:
    low, high = (interval.low, interval.high) if enough(images) else (None, None)
    return Score(found.round, found.model, found.split, name, images, interval.value, low, high)
