"""Writes the sections of the page that are pictures: validation images, pseudo-labels, what changed, label issues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import Colour
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.label_issues import KINDS, Findings, LabelIssue
from cellsemi.rounds.evaluation.metrics import ImageScore
from cellsemi.rounds.page.blocks import Block, Gallery, Key, Picture, Table, Text
from cellsemi.rounds.page.lookup import Lookup
from cellsemi.rounds.page.outcomes import Change, Outcome, change, drawn, outcome, worst
from cellsemi.rounds.page.pictures import Caption, Layer, crop, ignored, whole
from cellsemi.rounds.page.samples import Sample, sample_cells

WORST, RANDOM = 24, 24  # validation images
PER_REASON, CHANGED, TRANSITIONS, ISSUES = 8, 6, 4, 12

# Of Okabe and Ito (2008), told apart by colour-blind people, and bright enough on a dark image.
RIGHT: Colour = (86, 180, 233)
FALSE: Colour = (235, 110, 30)
MISSED: Colour = (240, 228, 66)
SHOWN: Colour = (240, 228, 66)
OTHERS: Colour = (86, 180, 233)


# --- validation images --------------------------------------------------------------------------------


def validation_images(
    found: Evaluation, whose: str, predicted: Lookup, images: Lookup, classes: Sequence[str], seed: int
) -> Iterator[Block]:
    """The worst validation images and some by chance, with their right, false and missed cells."""
    if not found.scores:
        yield Text("There are no validation images to show.", "missing")
        return
    yield Text(
        f"Predictions of {whose}, {found.cutoffs.sentence(classes)}, beside the human labels, at IoU > .5 "
        "whatever the class. The score is the mAP of the image, with what other validation images chose."
    )
    count = len(found.scores)
    chosen = {f"All {count} validation images, the worst first": worst(found.scores, count)}
    if count > WORST:
        chosen = {
            f"The {WORST} worst of {count} validation images": worst(found.scores, WORST),
            f"{min(RANDOM, count)} validation images by chance": drawn(found.scores, RANDOM, seed),
        }
    for title, scores in chosen.items():
        used: dict[str, Key] = {}
        pictures = []
        for score in scores:
            record, cells = images[score.image_id], predicted[score.image_id].instances
            truth = record.instances
            if cells is None or truth is None:
                continue
            result = outcome(cells, truth, found.cutoffs)
            layers = _outcome_layers(result)
            used |= {layer.words: layer.key() for layer in layers if len(layer.cells)}
            pictures.append(whole(record, layers, _outcome_caption(score, result)))
        yield Gallery(title, pictures, list(used.values()))


def _outcome_layers(found: Outcome) -> list[Layer]:
    return [
        ignored(found.ignored),
        Layer(found.right, RIGHT, "right"),
        Layer(found.missed, MISSED, "missed (as a person drew it)", dashed=True),
        Layer(found.false, FALSE, "false"),
    ]


def _outcome_caption(score: ImageScore, found: Outcome) -> Caption:
    counts = f"{len(found.right)} right, {len(found.false)} false, {len(found.missed)} missed"
    counts += f", {len(found.ignored)} to be ignored" if len(found.ignored) else ""
    title = f"{score.total.ap:.2f}"
    return Caption(
        title, f"{counts}. {_short(score.image_id)}", f"Image {_short(score.image_id)}, score {title}: {counts}"
    )


# --- pseudo-labels ------------------------------------------------------------------------------------


def reasons(pseudo: Lookup, images: Lookup, classes: Sequence[str], round: int, seed: int) -> Iterator[Block]:
    """Some cells of each state and reason, by chance, in their image."""
    found = sample_cells(pseudo.cells(), PER_REASON, seed)
    if not found:
        yield Text(f"The teachers of round {round} found no cell.", "missing")
        return
    yield Text(f"Round {round}: up to {PER_REASON} cells of each state and reason, drawn by chance.")
    for reason, samples in found.items():
        pictures = [_cell_picture(sample, pseudo, images, classes) for sample in samples]
        keys = [Layer(_none(), SHOWN, "the cell").key(), Layer(_none(), OTHERS, "accepted cells beside it").key()]
        yield Gallery(reason, pictures, keys, small=True)


def _cell_picture(sample: Sample, pseudo: Lookup, images: Lookup, classes: Sequence[str]) -> Picture:
    cells = pseudo[sample.image_id].instances
    assert cells is not None, "the cell was sampled from it"
    own = cells.select([sample.cell])
    others = cells.in_state("accepted") if cells.state[sample.cell] != "accepted" else _none(cells)
    name, quality, area = classes[own.class_id[0]], float(own.quality[0]), int(own.area[0])
    words = f"{name + ', ' if len(classes) > 1 else ''}{area} px. {_short(sample.image_id)}"
    alt = f"A {name}, quality {quality:.2f}, {area} px, in image {_short(sample.image_id)}"
    layers = [Layer(others, OTHERS, ""), Layer(own, SHOWN, "")]
    return crop(images[sample.image_id], own.bbox[0].tolist(), layers, Caption(f"quality {quality:.2f}", words, alt))


def changes(before: Lookup, after: Lookup, images: Lookup, rounds: tuple[int, int]) -> Iterator[Block]:
    """The unlabelled images in which most accepted cells came or went from a round to the next."""
    old = dict(before.cells())
    found: list[Change] = []
    totals: Counter[str] = Counter()
    for image_id, cells in after.cells():
        each = change(image_id, old.pop(image_id, _none(cells)), cells)
        totals.update(kept=len(each.kept), gained=len(each.gained), lost=len(each.lost))
        found = sorted([*found, each], key=lambda one: (-one.size, one.image_id))[:CHANGED]
    title = f"From round {rounds[0]} to round {rounds[1]}"
    yield Text(
        f"{title}: {totals['kept']:,} accepted cells stayed, {totals['gained']:,} came, {totals['lost']:,} went."
    )
    shown = [each for each in found if each.size]
    if not shown:
        return
    pictures = [whole(images[each.image_id], _change_layers(each), _change_caption(each)) for each in shown]
    keys = [layer.key() for layer in _change_layers(shown[0])]
    yield Gallery(f"{title}: the {len(shown)} images that changed most", pictures, keys)


def _change_layers(found: Change) -> list[Layer]:
    return [
        Layer(found.kept, RIGHT, "accepted in both rounds"),
        Layer(found.lost, MISSED, "accepted before only", dashed=True),
        Layer(found.gained, FALSE, "accepted now only"),
    ]


def _change_caption(found: Change) -> Caption:
    counts = f"{len(found.kept)} stayed, {len(found.gained)} came, {len(found.lost)} went"
    name = _short(found.image_id)
    return Caption(f"{found.size} changed", f"{counts}. {name}", f"Unlabelled image {name}: {counts}")


# --- label issues -------------------------------------------------------------------------------------


def label_issues(findings: Findings, by: str, images: Lookup, command: str) -> Iterator[Block]:
    """The human labels that the models contradict, the surest first."""
    counts = Counter(issue.kind for issue in findings.issues)
    yield Text(
        f"Human labels of validation images that {by} contradicts, judged by cells of other images. Nothing was "
        "changed: a person decides."
    )
    if not findings.issues:
        yield Text("No label is contradicted.")
        return
    yield Table("Labels to check again", ["kind", "labels"], [[kind, str(counts[kind])] for kind in KINDS])
    shown = findings.issues[:ISSUES]
    pictures = [_issue_picture(issue, findings, images) for issue in shown]
    keys = [
        Layer(_none(), RIGHT, "human labels").key(),
        Layer(_none(), SHOWN, "the label in question").key(),
        Layer(_none(), FALSE, "what the models see there", dashed=True).key(),
    ]
    yield Gallery(f"The surest {len(shown)} of {len(findings.issues)}", pictures, keys, small=True)
    yield Text(f"All of them, with larger pictures: {command}")


def _issue_picture(issue: LabelIssue, findings: Findings, images: Lookup) -> Picture:
    record = images[issue.image_id]
    drawn_cells, seen = record.instances, findings.seen[issue.image_id]
    assert drawn_cells is not None, "an annotated image was judged"
    own = np.arange(len(drawn_cells)) == (-1 if issue.cell is None else issue.cell)
    there = seen.select([] if issue.seen is None else [issue.seen])
    layers = [
        Layer(drawn_cells.select(~own).in_state("human"), RIGHT, ""),
        Layer(drawn_cells.select(own), SHOWN, ""),
        Layer(there, FALSE, "", dashed=True),
    ]
    words = f"{issue.reason}. {_short(issue.image_id)}"
    title = f"{issue.kind}, {issue.confidence:.2f}"
    return crop(
        record, issue.bbox, layers, Caption(title, words, f"{issue.kind} in {_short(issue.image_id)}: {issue.reason}")
    )


# --- parts --------------------------------------------------------------------------------------------


def _none(like: Instances | None = None) -> Instances:
    return Instances.empty(1, 1) if like is None else Instances.empty(like.height, like.width)


def _short(image_id: str, most: int = 28) -> str:
    """An id, shortened in its middle."""
    return image_id if len(image_id) <= most else f"{image_id[: most // 2]}…{image_id[-(most // 2 - 1) :]}"
