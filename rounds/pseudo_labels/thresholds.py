"""Chooses the thresholds of the filter per class, confidence and area, on validation images, never on test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Self

from cellsemi.configs.errors import RunError
from cellsemi.configs.rounds import AUTO, ClassThresholds, FilterConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.area_limits import AreaLimits, area_limits, areas_by_class
from cellsemi.rounds.pseudo_labels.threshold_sweep import EQUAL_OBJECTIVES, SweepResult, collect, sweep

Ends = tuple[int, int | None]  # the smallest and the largest area in pixels
ANY: Ends = (0, None)


@dataclass(frozen=True, slots=True)
class ChosenThresholds:
    """One class: `accept` and `reject` are calibrated confidences, `why` says where the numbers come from."""

    accept: float
    reject: float
    min_area_px: int
    max_area_px: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of every class, in the order of the class ids."""

    by_class: Mapping[str, ChosenThresholds]

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same thresholds."""
        return {name: asdict(chosen) for name, chosen in self.by_class.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any], classes: Sequence[str]) -> Self:
        """The inverse of `to_json`; `classes` give the order (JSON keeps none). RunError when damaged."""
        try:
            return cls({name: ChosenThresholds(**content[name]) for name in classes})
        except (KeyError, TypeError) as error:
            raise RunError(
                f"the thresholds are damaged ({error}); remove their round's folder to make them again"
            ) from None

    def report(self) -> list[str]:
        """One sentence per class."""
        return [f"{name}: {chosen.why}" for name, chosen in self.by_class.items()]


def choose_thresholds(
    validation: Sequence[tuple[Instances, Instances]],
    labelled: Iterable[Instances],
    classes: Sequence[str],
    config: FilterConfig,
) -> Thresholds:
    """Fixed thresholds from the config, or chosen ones from (calibrated predictions, truth) and labelled cells.

    `auto` takes the best accept and reject threshold of an exact sweep over the confidences of the predictions;
    `threshold_sweep.sweep` states what is maximised.

    Areas come from the quantiles of the cells of `labelled`, which people drew on training and validation
    images (`area_limits`). With `areas: always` both ends hold and the sweep keeps only what fits. With
    `if-better` the sweep is made with neither, either and both, and an end holds only where it raises the
    objective strictly. With `never` there are none.

    A class with fewer than `min_samples` predictions takes the confidences and the objective of all classes
    together, as it takes their calibration.
    """
    if config.thresholds != AUTO:
        return Thresholds({name: _fixed(config.thresholds[name]) for name in classes})
    samples = collect(validation)
    areas = areas_by_class(labelled, len(classes))

    @cache  # classes that share the sweep of all classes share its cost
    def best(class_id: int | None, ends: Ends) -> SweepResult:
        return sweep(samples, class_id, *ends, config)

    chosen = {}
    for c, name in enumerate(classes):
        thin = int((samples.class_id == c).sum()) < config.min_samples
        tried = area_limits(c, areas, config)
        chosen[name] = _auto(partial(best, None if thin else c), tried, config, pooled=thin)
    return Thresholds(chosen)


def _fixed(fixed: ClassThresholds) -> ChosenThresholds:
    return ChosenThresholds(
        fixed.accept,
        fixed.reject,
        fixed.min_area_px,
        fixed.max_area_px,
        "fixed by filter.thresholds in the config",
    )


def _auto(
    best: Callable[[Ends], SweepResult], tried: AreaLimits | None, config: FilterConfig, pooled: bool
) -> ChosenThresholds:
    ends, area_why = _ends(best, tried, config)
    choice = best(ends)
    why = [_accept_sentence(choice, config, " of all classes" if pooled else ""), _reject_sentence(choice, config)]
    return ChosenThresholds(_midway(choice, config), choice.reject, *ends, "; ".join([*why, area_why]))


def _midway(choice: SweepResult, config: FilterConfig) -> float:
    """The accept threshold: midway from the least confident prediction kept to the next one, or to `min_precision`.

    Few predictions leave wide gaps, and a threshold at their upper end would refuse much that is as good. It is
    never below the reject threshold.
    """
    return (choice.accept + min(choice.accept, max(choice.below, config.min_precision, choice.reject))) / 2


def _ends(best: Callable[[Ends], SweepResult], tried: AreaLimits | None, config: FilterConfig) -> tuple[Ends, str]:
    """The area limits that hold, and what the report says of them."""
    if config.areas == "never":
        return ANY, "any area (filter.areas: never)"
    if tried is None:
        return ANY, "any area: there are no labelled cells"
    low, high = tried.low, tried.high
    if config.areas == "always":
        return (low, high), f"area {low} to {high} px from {tried.whose}"
    tried_ends: dict[str, Ends] = {
        "no area limit": ANY,
        f"at least {low} px": (low, None),
        f"at most {high} px": (0, high),
        f"{low} to {high} px": (low, high),
    }
    values = {name: best(ends).value for name, ends in tried_ends.items()}
    taken = "no area limit"
    for name, value in values.items():  # the fewest limits first: a further one must raise the objective
        if value > values[taken] + EQUAL_OBJECTIVES:
            taken = name
    tally = ", ".join(f"{value:.3f} with {name}" for name, value in values.items())
    area = "any area" if taken == "no area limit" else f"area {taken}"
    return tried_ends[taken], f"{area}: {_objective(config)} {tally} (from {tried.whose})"


def _accept_sentence(choice: SweepResult, config: FilterConfig, whose: str) -> str:
    if not choice.sure:
        floor = config.min_precision
        return f"accepted from {floor:.2f} (min_precision): no validation prediction{whose} is as confident"
    precision = choice.hit / choice.kept if choice.kept else 0.0
    recall = choice.hit / choice.truths if choice.truths else 0.0
    return (
        f"accepted from {_midway(choice, config):.2f}: largest {_objective(config)} ({choice.value:.2f}; "
        f"precision {precision:.2f}, recall {recall:.2f}) on {choice.predictions} validation predictions{whose}"
    )


def _reject_sentence(choice: SweepResult, config: FilterConfig) -> str:
    if config.reject_below == AUTO and not choice.predictions:
        return "none rejected: there is no validation prediction to choose the threshold on"
    kept = f", from where {choice.counted} cells are kept for {choice.truths} labelled ones"
    return f"rejected below {choice.reject:.2f}{kept if config.reject_below == AUTO else ''}"


def _objective(config: FilterConfig) -> str:
    return f"F{config.f_beta:g}" if config.objective == "f-beta" else "mAP"
