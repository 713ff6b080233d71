"""Filters pseudo-labels: which train the students, which leave the loss, and which count as background.

Nothing is dropped: every mask gets a state and, unless it is accepted, a reason. The band between
accepted and rejected is ignored, not background (Efficient Teacher, Inconsistency Masks): a cell that the
teachers are unsure of must not teach the student that it is background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.cells.masks import crops
from cellsemi.rounds.pseudo_labels.thresholds import ChosenThresholds, Thresholds

LOW_CONFIDENCE = "low confidence"
UNCERTAIN = "uncertain"
TOO_SMALL = "too small"
TOO_LARGE = "too large"
TOO_FEW_VOTES = "too few votes"
DUPLICATE = "duplicate"
REASONS = ("", LOW_CONFIDENCE, UNCERTAIN, TOO_SMALL, TOO_LARGE, TOO_FEW_VOTES, DUPLICATE)

Verdict = tuple[State, str]


def filter_cells(
    instances: Instances,
    thresholds: Thresholds,
    min_votes: int,
    classes: Sequence[str],
    round: int,
    *,
    weight_by_quality: bool = True,
) -> Instances:
    """Give every calibrated cell of an image its state, reason, weight and `round`. The first that holds:

    1. larger than the class allows: **ignored**, `too large`, however unsure. Such a mask is mostly a clump
       of cells or a cell with its neighbours: as background it would erase them.
    2. fewer teachers than `min_votes`: `too few votes`, **rejected** with a quality below `reject`, else **ignored**:
       what one teacher is sure of may be a cell that the others miss, and must not be learned as background.
    3. quality below `reject`: **rejected**, `low confidence`.
    4. smaller than the class allows: **ignored** when the quality is at least `accept` (the teachers are
       sure and the threshold may be wrong), else **rejected**; `too small`. A speck costs little as background.
    5. quality below `accept`: **ignored**, `uncertain`.
    6. more than .6 of it inside better accepted masks, together: **ignored**, `duplicate`. Better is more quality,
       then score, then area. So is a clump that lies under two better cells: what is left of it is no cell. Other
       overlaps stay in the table; the trainer resolves them.
    7. else **accepted**, with its quality as weight, or 1 without `weight_by_quality`; all others weigh 0.

    ValueError when a class id has no name or a class no thresholds.
    """
    by_id = _thresholds_of(thresholds.by_class, classes, instances.class_id)
    verdicts = [_verdict(instances, i, by_id[int(instances.class_id[i])], min_votes) for i in range(len(instances))]
    accepted = np.array([state == "accepted" for state, _ in verdicts], dtype=bool)
    for i in np.flatnonzero(accepted)[_duplicates(instances.select(accepted))].tolist():
        verdicts[i] = ("ignored", DUPLICATE)
        accepted[i] = False
    weight = instances.quality if weight_by_quality else np.ones(len(instances))
    return instances.with_(
        state=[state for state, _ in verdicts],
        reason=[reason for _, reason in verdicts],
        weight=np.where(accepted, weight, 0.0),
        round=round,
    )


def named(state: str, reason: str) -> str:
    """How cells of a state and reason are counted: `accepted`, `ignored: uncertain`."""
    return f"{state}: {reason}" if reason else state


def count_reasons(instances: Instances) -> Counter[str]:
    """Cells by state and reason, such as `accepted` and `ignored: uncertain`; counters of images add up."""
    return Counter(named(s, r) for s, r in zip(instances.state, instances.reason, strict=True))


def count_states(reasons: Mapping[str, int]) -> dict[str, int]:
    """Totals of `accepted`, `ignored` and `rejected` from what count_reasons gave."""
    totals = dict.fromkeys(("accepted", "ignored", "rejected"), 0)
    for key, count in reasons.items():
        totals[key.split(":")[0]] += count
    return totals


def _thresholds_of(
    by_class: Mapping[str, ChosenThresholds], classes: Sequence[str], ids: NDArray[np.int32]
) -> list[ChosenThresholds]:
    missing = set(classes) - set(by_class)
    if missing:
        raise ValueError(f"thresholds: expected those of {list(classes)}, got none of {sorted(missing)}")
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(classes):
        raise ValueError(f"class_id: expected 0 to {len(classes) - 1}, got {ids.min()} to {ids.max()}")
    return [by_class[name] for name in classes]


def _verdict(cells: Instances, i: int, limit: ChosenThresholds, min_votes: int) -> Verdict:
    # A float32 against a plain float compares as float32: .7 in the config is .7 in the table.
    quality, area = cells.quality[i], int(cells.area[i])
    if limit.max_area_px is not None and area > limit.max_area_px:
        return "ignored", TOO_LARGE
    if cells.votes[i] < min_votes:
        return ("ignored" if quality >= limit.reject else "rejected"), TOO_FEW_VOTES
    if quality < limit.reject:
        return "rejected", LOW_CONFIDENCE
    if area < limit.min_area_px:
        return ("ignored" if quality >= limit.accept else "rejected"), TOO_SMALL
    if quality < limit.accept:
        return "ignored", UNCERTAIN
    return "accepted", ""


def _duplicates(cells: Instances) -> NDArray[np.intp]:
    """Indices of cells with more than .6 of their area under better cells that are themselves no duplicates."""
    taken = np.zeros((cells.height, cells.width), bool)
    bitmaps = crops(cells)
    found: list[int] = []
    for i in np.lexsort((-cells.area, -cells.score, -cells.quality)).tolist():
        crop, x, y = bitmaps[i]
        under = taken[y : y + crop.shape[0], x : x + crop.shape[1]]
        if 5 * int((under & crop).sum()) > 3 * int(cells.area[i]):
            found.append(i)
        else:
            under |= crop
    return np.array(sorted(found), dtype=np.intp)
