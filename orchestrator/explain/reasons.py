"""Says of each cell why it was kept or dropped, in numbers and in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.explanation import Explanation
from cellsemi.orchestrator.apply.ensemble_predictor import Answer
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.cells.masks import pair_overlap
from cellsemi.rounds.pseudo_labels import filter as rules
from cellsemi.rounds.pseudo_labels.fusion import Member
from cellsemi.rounds.pseudo_labels.thresholds import ChosenThresholds

COVERED = "covered whole by better cells of other members"


@dataclass(frozen=True, slots=True)
class CellRow:
    """One cell, by the number that it has in the pictures; `x`, `y` are the centre of its box in pixels.

    `score` is what decides: that of the fused cell, or of the only model; `found_by` names the members that found it,
    each with its score, and the calibrated score where it is calibrated. `truth_iou` is the largest IoU with a human
    cell, None where no person drew any.
    """

    number: int
    kept: bool
    why: str
    class_name: str
    score: float
    min_score: float
    area_px: int
    votes: int
    members: int
    agreement: float
    found_by: str
    x: int
    y: int
    truth_iou: float | None


@dataclass(frozen=True, slots=True)
class PseudoRow:
    """One pseudo-label, by its number in the picture: what the filter said, and the numbers that it said it by."""

    number: int
    state: State
    reason: str
    why: str
    class_name: str
    score: float
    quality: float
    reject: float
    accept: float
    weight: float
    area_px: int
    min_area_px: int
    max_area_px: int | None
    votes: int
    min_votes: int
    agreement: float
    x: int
    y: int


def cell_rows(
    answer: Answer, keep: Cutoffs, classes: Sequence[str], truth: Instances | None
) -> tuple[Instances, list[CellRow]]:
    """All cells that were found in an image, kept or not, and a row of each, in their order.

    First those that the members make together, best scored first; then those that a member found and left out.
    """
    found = answer.cells
    order = np.argsort(-found.score, kind="stable")
    together = found.select(order)
    made_of = [answer.made_of[i] for i in order.tolist()]
    before = [(name, *each) for name, member in answer.members.items() for each in _left_out(name, member, answer)]
    every = Instances.concat(found.height, found.width, [together, *(cells for _, cells, _ in before)])
    why = [*_by_score(together, keep), *(f"{name}: {text}" for name, cells, texts in before for text in texts)]
    whose = [_found_by(each, answer) for each in made_of] + [
        name for name, cells, _ in before for _ in range(len(cells))
    ]
    # What a member alone left out got no score of the ensemble: it is kept by none.
    kept = [i < len(together) and text.startswith(_AT_LEAST) for i, text in enumerate(why)]
    iou = None if truth is None else best_iou(every, truth)
    rows = [
        CellRow(
            number=i + 1,
            kept=kept[i],
            why=why[i],
            class_name=classes[every.class_id[i]],
            score=float(every.score[i]),
            min_score=keep.min_score[every.class_id[i]],
            area_px=int(every.area[i]),
            votes=int(every.votes[i]),
            members=len(answer.members),
            agreement=float(every.agreement[i]),
            found_by=whose[i],
            x=x,
            y=y,
            truth_iou=None if iou is None else float(iou[i]),
        )
        for i, (x, y) in enumerate(centres(every))
    ]
    return every, rows


_AT_LEAST = "score at least"


def _by_score(cells: Instances, keep: Cutoffs) -> Iterator[str]:
    kept = keep.chosen(cells).tolist()
    each = zip(cells.score.tolist(), cells.area.tolist(), cells.class_id.tolist(), kept, strict=True)
    for score, area, class_id, stays in each:
        least, least_px = keep.of_class(class_id)
        if stays:
            yield f"{_AT_LEAST} {least:.3f}: {score:.3f}" + (f", {area} px of at least {least_px}" if least_px else "")
        elif area < least_px:
            yield f"{area} px, fewer than {least_px}; score {score:.3f}"
        else:
            yield f"score below {least:.3f}: {score:.3f}"


def _left_out(name: str, member: Explanation, answer: Answer) -> Iterator[tuple[Instances, Sequence[str]]]:
    """Cells of a member that stand in no cell of the ensemble, with the reason of each."""
    if member.dropped is not None:
        yield member.dropped, member.dropped.reason
    used = {i for members in answer.made_of for whose, i in members if whose == name}
    covered = [i for i in range(len(member.cells)) if i not in used]
    if covered:
        yield member.cells.select(covered), [COVERED] * len(covered)


def _found_by(made_of: Sequence[Member], answer: Answer) -> str:
    """`unet-a 0.81 -> 0.74, unet-b 0.60`: the score of each member, and the calibrated one where it differs."""
    texts = []
    for name, i in made_of:
        raw, calibrated = float(answer.members[name].cells.score[i]), float(answer.calibrated[name].score[i])
        texts.append(f"{name} {raw:.2f}" + (f" -> {calibrated:.2f}" if calibrated != raw else ""))
    return ", ".join(texts)


def best_iou(cells: Instances, truth: Instances) -> NDArray[np.float64]:
    """float64 (N,): the largest IoU of each cell with a human one."""
    _, best = pair_overlap(cells, truth.in_state("human"))[0].best()
    return np.asarray(best, np.float64)


def centres(cells: Instances) -> list[tuple[int, int]]:
    """(x, y) of the middle of each box."""
    middle = (cells.bbox[:, :2] + cells.bbox[:, 2:]) // 2
    return [(x, y) for x, y in middle.tolist()]


# --- pseudo-labels ------------------------------------------------------------------------------------


def pseudo_rows(
    cells: Instances, thresholds: Mapping[str, ChosenThresholds], min_votes: int, classes: Sequence[str]
) -> list[PseudoRow]:
    """A row for each pseudo-label of an image, in their order."""
    rows = []
    for i, (x, y) in enumerate(centres(cells)):
        name = classes[cells.class_id[i]]
        limit = thresholds[name]
        rows.append(
            PseudoRow(
                number=i + 1,
                state=cells.state[i],
                reason=cells.reason[i],
                why=_why(cells, i, limit, min_votes),
                class_name=name,
                score=float(cells.score[i]),
                quality=float(cells.quality[i]),
                reject=limit.reject,
                accept=limit.accept,
                weight=float(cells.weight[i]),
                area_px=int(cells.area[i]),
                min_area_px=limit.min_area_px,
                max_area_px=limit.max_area_px,
                votes=int(cells.votes[i]),
                min_votes=min_votes,
                agreement=float(cells.agreement[i]),
                x=x,
                y=y,
            )
        )
    return rows


def _why(cells: Instances, i: int, limit: ChosenThresholds, min_votes: int) -> str:
    """The rule of `filter_cells` that decided, with its numbers."""
    quality, area, votes = float(cells.quality[i]), int(cells.area[i]), int(cells.votes[i])
    beside = f"quality {quality:.3f}, {'at least' if cells.quality[i] >= limit.accept else 'below'} {limit.accept:.3f}"
    sentences = {
        rules.TOO_LARGE: f"{area} px, more than {limit.max_area_px}",
        rules.TOO_FEW_VOTES: f"{votes} of {min_votes} votes that are asked for; quality {quality:.3f}, "
        f"{'at least' if cells.quality[i] >= limit.reject else 'below'} {limit.reject:.3f}",
        rules.LOW_CONFIDENCE: f"quality {quality:.3f}, below {limit.reject:.3f}",
        rules.TOO_SMALL: f"{area} px, fewer than {limit.min_area_px}; {beside}",
        rules.UNCERTAIN: f"quality {quality:.3f}, between {limit.reject:.3f} and {limit.accept:.3f}",
        rules.DUPLICATE: "more than .6 of it lies in better accepted cells",
        "": f"quality {quality:.3f}, at least {limit.accept:.3f}; size and votes as asked for",
    }
    return sentences[cells.reason[i]]
