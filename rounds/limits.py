"""The limits of the screen, per class: how sure, how small, how large. From validation images, never test."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import RunError
from cellsemi.configs.schema import AUTO, ClassLimits, ScreenConfig
from cellsemi.rounds.instances import Instances
from cellsemi.rounds.matching import hits


@dataclass(frozen=True, slots=True)
class Limit:
    """One class: `accept` and `reject` are calibrated confidences, `why` says where the numbers come from."""

    accept: float
    reject: float
    min_area_px: int
    max_area_px: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of every class, in the order of the class ids."""

    by_class: Mapping[str, Limit]

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same limits."""
        return {name: asdict(limit) for name, limit in self.by_class.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any], classes: Sequence[str]) -> Self:
        """The inverse of `to_json`; `classes` give the order (JSON keeps none). RunError when damaged."""
        try:
            return cls({name: Limit(**content[name]) for name in classes})
        except (KeyError, TypeError) as error:
            raise RunError(
                f"the limits are damaged ({error}); remove their round's folder to make them again"
            ) from None

    def report(self) -> list[str]:
        """One sentence per class."""
        return [f"{name}: {limit.why}" for name, limit in self.by_class.items()]


def choose_limits(
    validation: Sequence[tuple[Instances, Instances]],
    labelled: Iterable[Instances],
    classes: Sequence[str],
    config: ScreenConfig,
) -> Limits:
    """Fixed limits from the config, or limits from (calibrated predictions, truth) and labelled cells.

    `auto` accepts from the confidence at which the kept validation predictions have the largest F-beta at
    IoU > .5 within their class (recall counts all true cells), among confidences of at least
    `min_precision`; of equal ones the strictest. It rejects below `reject_below`. Areas come from the
    quantiles of the cells of `labelled`, which people drew on training and validation images, widened by
    `area_slack` both ways.

    A class with fewer than `min_samples` predictions takes the accept limit of all classes together, as it
    takes their calibration. One with fewer labelled cells takes the wider of its own and the common area
    limits at each end: a rare class must not lose its cells because the others are of another size.
    """
    if config.limits != AUTO:
        return Limits({name: _fixed(config.limits[name]) for name in classes})
    samples = _collect(validation)
    areas = _areas(labelled, len(classes))
    return Limits({name: _auto(c, samples, areas, config) for c, name in enumerate(classes)})


def _fixed(limits: ClassLimits) -> Limit:
    return Limit(
        limits.accept,
        limits.reject,
        limits.min_area_px,
        limits.max_area_px,
        "fixed by screen.limits in the config",
    )


# --- confidence ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """All validation predictions, and the class of every true cell."""

    class_id: NDArray[np.int32]
    quality: NDArray[np.float32]
    hit: NDArray[np.bool_]
    true_class: NDArray[np.int32]


def _collect(validation: Sequence[tuple[Instances, Instances]]) -> _Samples:
    none = Instances.empty(1, 1)
    predictions, truths = [none, *(p for p, _ in validation)], [none, *(t for _, t in validation)]
    return _Samples(
        class_id=np.concatenate([p.class_id for p in predictions]),
        quality=np.concatenate([p.quality for p in predictions]),
        hit=np.concatenate([hits(p, t) for p, t in zip(predictions, truths, strict=True)]),
        true_class=np.concatenate([t.class_id for t in truths]),
    )


def _auto(class_id: int, samples: _Samples, areas: list[NDArray[np.int64]], config: ScreenConfig) -> Limit:
    own = samples.class_id == class_id
    true = int((samples.true_class == class_id).sum())
    whose = ""
    if own.sum() < config.min_samples:
        own, true, whose = np.ones(len(own), bool), len(samples.true_class), " of all classes"
    accept, why = _accept(samples.quality[own], samples.hit[own], true, config, whose)
    low, high, area_why = _area_limits(class_id, areas, config)
    reject = min(config.reject_below, accept)
    return Limit(accept, reject, low, high, f"{why}; rejected below {reject:.2f}; {area_why}")


def _accept(
    quality: NDArray[np.float32], hit: NDArray[np.bool_], n_truth: int, config: ScreenConfig, whose: str
) -> tuple[float, str]:
    order = np.argsort(-quality, kind="stable")
    quality, tp = quality[order], np.cumsum(hit[order])
    last = np.flatnonzero(np.append(np.diff(quality) < 0, True)[: len(quality)])  # equal ones are kept together
    last = last[quality[last] >= config.min_precision]
    if not len(last):
        floor = config.min_precision
        return floor, f"accepted from {floor:.2f} (min_precision): no validation prediction{whose} is as sure"
    beta2 = config.f_beta**2
    # F-beta = (1 + b2) TP / (b2 * (TP + FN) + (TP + FP)); Van Rijsbergen 1979.
    score = (1 + beta2) * tp[last] / (beta2 * n_truth + last + 1)
    best = last[int(np.argmax(score))]
    kept = f"precision {tp[best] / (best + 1):.2f}, recall {tp[best] / n_truth if n_truth else 0:.2f}"
    why = (
        f"accepted from {quality[best]:.2f}: largest F{config.f_beta:g} ({score.max():.2f}; {kept}) "
        f"on {len(quality)} validation predictions{whose}"
    )
    return float(quality[best]), why


# --- size ---------------------------------------------------------------------------------------------


def _areas(labelled: Iterable[Instances], n_classes: int) -> list[NDArray[np.int64]]:
    """Areas of the labelled cells of each class; the images are read one by one."""
    found: list[list[NDArray[np.int64]]] = [[np.zeros(0, np.int64)] for _ in range(n_classes)]
    for cells in labelled:
        for class_id in np.unique(cells.class_id).tolist():
            found[class_id].append(cells.area[cells.class_id == class_id])
    return [np.concatenate(parts) for parts in found]


def _area_limits(class_id: int, areas: list[NDArray[np.int64]], config: ScreenConfig) -> tuple[int, int | None, str]:
    own, everyone = areas[class_id], np.concatenate(areas)
    if not len(everyone):
        return 0, None, "any area: there are no labelled cells"
    groups = [group for group in (own, everyone) if len(group)]
    if len(own) >= config.min_samples:
        groups = [own]
    quantiles = [config.area_quantile, 1 - config.area_quantile]
    ends = np.array([np.quantile(group, quantiles) for group in groups])
    low = math.floor(ends[:, 0].min() / config.area_slack)
    high = math.ceil(ends[:, 1].max() * config.area_slack)
    whose = f"{len(own)} labelled cells" + ("" if len(groups) == 1 and len(own) else " and those of all classes")
    return low, high, f"area {low} to {high} px from {whose}"
